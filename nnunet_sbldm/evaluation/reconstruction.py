"""How well the slice autoencoder gives back a case that it has not seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from nnunet_sbldm.data.labels import IGNORED, LabelEncoding
from nnunet_sbldm.ldm.autoencoder import SliceAutoencoder
from nnunet_sbldm.ldm.latents import decode_volume, encode_volume
from nnunet_sbldm.quality.similarity import ssim

RANGE_PERCENTILES = (0.5, 99.5)


@dataclass(frozen=True)
class Reconstruction:
    """One case through the autoencoder.

    Attributes:
        latent: [Z, D, h, w] posterior means.
        label: [D, H, W] decoded label values.
        dice: per foreground label of the encoding; NaN where neither mask has it.
        psnr_db: inside the anatomy, mean over channels; the range goes from the 0.5th to the 99.5th percentile.
        ssim: slice-wise, inside the anatomy, mean over channels, of the same range.
    """

    latent: torch.Tensor
    label: np.ndarray
    dice: tuple[float, ...]
    psnr_db: float
    ssim: float


def reconstruct(autoencoder: SliceAutoencoder, image: np.ndarray, classes: np.ndarray, encoding: LabelEncoding) -> Reconstruction:
    """Encode a case to posterior means, decode it, compare.

    Args:
        autoencoder: first stage.
        image: [C, D, H, W] float32 in network scale, ``FILL`` outside.
        classes: uint8 [D, H, W] class indices, ``IGNORED`` where ignored.
        encoding: label values and classes.
    """
    latent = encode_volume(autoencoder, torch.from_numpy(image), torch.from_numpy(classes.astype(np.int64)))
    decoded, logits = decode_volume(autoencoder, latent)
    found = logits.argmax(0).cpu().numpy().astype(np.uint8)
    found[classes == IGNORED] = IGNORED
    inside = (classes != 0) & (classes != IGNORED)
    psnr_db, similarity = image_fidelity(decoded.cpu().numpy(), image, inside)
    dice = dice_per_class(found, classes, range(2, encoding.num_classes))
    return Reconstruction(latent.cpu(), encoding.decode(found), dice, psnr_db, similarity)


def dice_per_class(found: np.ndarray, wanted: np.ndarray, classes: Sequence[int]) -> tuple[float, ...]:
    """Dice of each class of two class maps; NaN where neither has it."""
    both = [(int((found == k).sum() + (wanted == k).sum()), int(((found == k) & (wanted == k)).sum())) for k in classes]
    return tuple(2 * shared / total if total else float("nan") for total, shared in both)


def image_fidelity(decoded: np.ndarray, target: np.ndarray, inside: np.ndarray) -> tuple[float, float]:
    """PSNR (dB) and slice-wise SSIM inside the anatomy, mean over channels [C, D, H, W]."""
    psnr_db, similarity = [], []
    for got, want in zip(decoded, target, strict=True):
        span = float(np.ptp(np.percentile(want[inside], RANGE_PERCENTILES)))
        psnr_db.append(10 * np.log10(span**2 / max(float(np.mean((got[inside] - want[inside]) ** 2)), 1e-12)))
        similarity.append(ssim(np.where(inside, got, want), want, inside, span))
    return float(np.mean(psnr_db)), float(np.mean(similarity))
