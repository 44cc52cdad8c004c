"""From the latents of a whole volume to an image and its labels on the grid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from nnunet_sbldm.common.seeds import Stream, rng_of
from nnunet_sbldm.data.grid import anatomy_of
from nnunet_sbldm.generator.outlines import cleaned_label
from nnunet_sbldm.generator.plan import GeneratorPlan
from nnunet_sbldm.ldm.autoencoder import SliceAutoencoder
from nnunet_sbldm.ldm.denoiser import Part
from nnunet_sbldm.ldm.latents import EVERYTHING, decode_volume
from nnunet_sbldm.types import FloatArray, LabelArray


@dataclass(frozen=True)
class DecodedVolume:
    """A volume on the generator's grid.

    Attributes:
        image: [C, D, H, W] in network scale, with texture.
        label: [D, H, W] label values, ``OUTSIDE`` outside the anatomy.
        anatomy: [D, H, W] bool.
    """

    image: FloatArray
    label: LabelArray
    anatomy: np.ndarray


def decoded_volume(
    plan: GeneratorPlan, autoencoder: SliceAutoencoder, latent: Tensor, seed: int, precision: str = "fp32"
) -> DecodedVolume:
    """Decode a standardised latent volume [Z, D, h, w] and add what the plan says of outlines and texture.

    Args:
        plan: of a generator whose first stage is trained.
        autoencoder: its first stage.
        latent: on the autoencoder's device.
        seed: of outlines and texture.
        precision: one of ``PRECISIONS``.
    """
    image, logits = decoded(plan, autoencoder, latent, precision)
    anatomy = anatomy_of(logits.argmax(0), plan.grid)
    classes = plan.outlines.draw(logits, rng_of(seed, Stream.OUTLINE))
    label = cleaned_label(classes, anatomy, plan.encoding, plan.components, image)
    textured = plan.texture.added_to(image, plan.encoding.encode(label), rng_of(seed, Stream.TEXTURE))
    return DecodedVolume(textured, label, anatomy)


def decoded(
    plan: GeneratorPlan, autoencoder: SliceAutoencoder, latent: Tensor, precision: str = "fp32"
) -> tuple[FloatArray, FloatArray]:
    """Image [C, D, H, W] in network scale and label logits [K, D, H, W] as the decoder returns them; arguments as above."""
    image, logits = decode_standardised(plan, autoencoder, latent, precision=precision)
    return image.cpu().numpy(), logits.float().cpu().numpy()


def decode_standardised(
    plan: GeneratorPlan, autoencoder: SliceAutoencoder, latent: Tensor, part: Part = EVERYTHING, precision: str = "fp32"
) -> tuple[Tensor, Tensor]:
    """Decode a part (D, h, w) of a standardised latent volume [Z, D, h, w]: as :func:`decode_volume`, on the latent's device."""
    return decode_volume(autoencoder, plan.unstandardised(latent), part, precision)
