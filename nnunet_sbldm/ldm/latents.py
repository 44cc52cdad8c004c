"""Between the stages: volumes to latent volumes and back, slice by slice.

Encoding takes posterior means, so that neighbouring slices carry no independent noise.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nnunet_sbldm.common.devices import arithmetic
from nnunet_sbldm.data.labels import BACKGROUND, IGNORED
from nnunet_sbldm.data.slices import TrainingArrays, slice_positions
from nnunet_sbldm.ldm.autoencoder import SliceAutoencoder
from nnunet_sbldm.ldm.denoiser import Part
from nnunet_sbldm.types import FloatArray

EVERYTHING: Part = (slice(None), slice(None), slice(None))
ENCODED_MARGIN = 2
PIXELS_PER_PASS = 2**18
"""Pixels of slices that go through the autoencoder together: bounds its memory, which would exceed the denoiser's."""
MIN_STD = 1e-4


def one_hot_of(classes: Tensor, num_classes: int) -> Tensor:
    """[B, H, W] class indices -> [B, K, H, W]; ignored voxels are background to the encoder."""
    return F.one_hot(classes.where(classes != IGNORED, BACKGROUND), num_classes).movedim(-1, 1).float()


def slices_per_pass(in_plane: Sequence[int]) -> int:
    """Slices of (H, W) pixels that go through the autoencoder together."""
    return max(1, PIXELS_PER_PASS // (in_plane[0] * in_plane[1]))


@torch.inference_mode()
def encode_volume(
    autoencoder: SliceAutoencoder, image: Tensor, classes: Tensor, part: Part = EVERYTHING, precision: str = "fp32"
) -> Tensor:
    """Posterior means of slices.

    Args:
        autoencoder: first stage.
        image: [C, D, H, W] in network scale.
        classes: [D, H, W] int64.
        part: which latents (D, h, w) to make; within slices, pixels of ``ENCODED_MARGIN`` latents around them are seen.
        precision: one of ``PRECISIONS``.

    Returns:
        [Z, D, h, w] of that part.
    """
    device, f = next(autoencoder.parameters()).device, autoencoder.downsampling
    seen, kept = zip(*(_with_margin(s, n // f) for s, n in zip(part[1:], image.shape[2:], strict=True)), strict=True)
    pixels = (part[0], *(slice(f * s.start, f * s.stop) for s in seen))
    position = torch.from_numpy(slice_positions(image.shape[1])).to(device)[part[0]]
    slices = image[(slice(None), *pixels)].movedim(1, 0).to(device)
    one_hot = one_hot_of(classes[pixels].to(device), autoencoder.num_classes)
    size = slices_per_pass(slices.shape[2:])
    passes = zip(slices.split(size), one_hot.split(size), position.split(size), strict=True)
    with arithmetic(device, precision):
        means = [autoencoder.encode(*p).mean.float() for p in passes]
    return torch.cat(means)[(..., *kept)].movedim(0, 1)


def _with_margin(part: slice, num_latents: int) -> tuple[slice, slice]:
    """A part of an axis with ``ENCODED_MARGIN`` on either side, and where the part lies in that."""
    first, last, _ = part.indices(num_latents)
    start, stop = max(first - ENCODED_MARGIN, 0), min(last + ENCODED_MARGIN, num_latents)
    return slice(start, stop), slice(first - start, last - start)


@torch.inference_mode()
def decode_volume(
    autoencoder: SliceAutoencoder, latent: Tensor, part: Part = EVERYTHING, precision: str = "fp32"
) -> tuple[Tensor, Tensor]:
    """Decode a latent volume slice by slice.

    Args:
        autoencoder: first stage.
        latent: [Z, D, h, w], not standardised.
        part: which latents (D, h, w) to decode; within slices, what lies at its faces is decoded without its surroundings.
        precision: one of ``PRECISIONS``.

    Returns:
        image [C, D, H, W] in network scale, label logits [K, D, H, W], of that part.
    """
    position = torch.from_numpy(slice_positions(latent.shape[1])).to(latent.device)[part[0]]
    slices = latent[(slice(None), *part)].movedim(1, 0)
    size = slices_per_pass([n * autoencoder.downsampling for n in slices.shape[2:]])
    passes = zip(slices.split(size), position.split(size), strict=True)
    with arithmetic(latent.device, precision):
        images, logits = zip(*(autoencoder.decode(*p) for p in passes), strict=True)
    return torch.cat(images).movedim(0, 1), torch.cat(logits).movedim(0, 1)


def encode_cases(autoencoder: SliceAutoencoder, arrays: TrainingArrays) -> Iterator[Tensor]:
    """Latent volume [Z, D, h, w] of every training case, on the CPU."""
    for image, classes in zip(arrays.images, arrays.classes, strict=True):
        yield encode_volume(
            autoencoder, torch.from_numpy(image.astype("float32")), torch.from_numpy(classes.astype("int64"))
        ).cpu()


def reconstructions(
    autoencoder: SliceAutoencoder, arrays: TrainingArrays, latents: Tensor
) -> Iterator[tuple[FloatArray, FloatArray, np.ndarray]]:
    """What the autoencoder makes of the first cases, as many as there are ``latents``.

    Yields:
        Real minus decoded image [C, D, H, W], label logits [K, D, H, W] and real class indices [D, H, W].
    """
    device = next(autoencoder.parameters()).device
    for latent, image, classes in zip(latents, arrays.images, arrays.classes, strict=False):
        decoded, logits = decode_volume(autoencoder, latent.to(device))
        yield image.astype(np.float32) - decoded.cpu().numpy(), logits.float().cpu().numpy(), classes


def foreground_weights(arrays: TrainingArrays, latent_shape: Sequence[int], foreground_weight: float) -> Tensor:
    """Loss weights [N, 1, D, h, w] of latents: ``foreground_weight`` where a latent holds foreground, else 1.

    A small tumour is a small part of a volume; unweighted, leaving it out costs the denoiser almost nothing.
    """

    def held(classes: np.ndarray) -> Tensor:
        foreground = torch.from_numpy((classes > 1) & (classes != IGNORED))
        return F.adaptive_max_pool2d(foreground.float(), tuple(latent_shape[1:]))

    return 1 + (foreground_weight - 1) * torch.stack([held(classes) for classes in arrays.classes])[:, None]


def latent_statistics(latents: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and std per latent channel over the (real) training cases: [N, Z, D, h, w] -> [Z], [Z]."""
    mean = latents.mean(dim=(0, 2, 3, 4))
    return mean, latents.std(dim=(0, 2, 3, 4)).clamp(min=MIN_STD)
