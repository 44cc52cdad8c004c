"""Blending an edit into its host, with the host's own fine texture and noise.

What an autoencoder decodes is smoother than the image it has seen. So an edit is not pasted as decoded: it is the decoded
new anatomy plus the fine texture that the decoder loses, which is known for the host (image minus its reconstruction). Where
tissue is unchanged this gives back the host itself. Where a lesion comes or goes, the host's residual would show the edges of
what was there before; a texture with the same spectrum, without its edges, takes its place.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import fft

from nnunet_sbldm.data.boxes import bounding_box
from nnunet_sbldm.types import FloatArray

MAD_TO_STD = 1.4826
CONTEXT_VOXELS = (0, 8, 8)
"""The texture is measured in the box of the region, enlarged by so many voxels within slices."""
MAX_SPREADS = 3.0
"""Larger residuals are edges, not texture; they are cut to this many standard deviations before the spectrum is taken."""


@dataclass(frozen=True)
class BlendMap:
    """What is blended where.

    Attributes:
        weight: [D, H, W] share of the edit, 0 where the host stays.
        exchanged: [D, H, W] 0 to 1, where a lesion comes or goes.
        tissue: [D, H, W] bool, the anatomy without any lesion, old or new.
    """

    weight: np.ndarray
    exchanged: np.ndarray
    tissue: np.ndarray


def blend(
    host: FloatArray, decoded_host: FloatArray, decoded_edit: FloatArray, where: BlendMap, rng: np.random.Generator
) -> FloatArray:
    """The edited image.

    Args:
        host: [C, D, H, W] the host's intensities.
        decoded_host: [C, D, H, W] what the autoencoder makes of the host, where the texture is measured.
        decoded_edit: [C, D, H, W] what it decodes from the edited latents.
        where: shares of the edit and of the random texture.
        rng: source of randomness for the texture.

    Returns:
        [C, D, H, W]; exactly ``host`` where the weight is 0.
    """
    box = bounding_box(where.weight > 0, CONTEXT_VOXELS)
    everything = (slice(None), *box)
    own, share, w = host[everything], where.exchanged[box], where.weight[box]
    residual = own - decoded_host[everything]
    texture = same_spectrum(residual, where.tissue[box], rng)
    fine = np.sqrt(1 - share) * residual + np.sqrt(share) * texture  # independent of each other: their variances add
    out = host.copy()
    out[everything] = np.where(w > 0, own + w * (decoded_edit[everything] + fine - own), own)
    return out


def same_spectrum(residual: FloatArray, source: np.ndarray, rng: np.random.Generator) -> FloatArray:
    """A random texture with the power spectrum, the cross-spectrum between channels, and the spread of a residual.

    Args:
        residual: [C, d, h, w].
        source: [d, h, w] bool, where the residual is typical.
        rng: source of randomness.

    Returns:
        [C, d, h, w]; 0 if the source is empty.
    """
    if not source.any():
        return np.zeros_like(residual)
    values = residual[:, source]
    centre = np.median(values, axis=1)
    spread = MAD_TO_STD * np.median(np.abs(values - centre[:, None]), axis=1)  # [C]
    limit = MAX_SPREADS * _channels(spread)
    limited = np.where(source, np.clip(residual - _channels(centre), -limit, limit), 0)
    phases = fft.rfftn(rng.normal(size=source.shape))
    phases = phases / np.maximum(np.abs(phases), 1e-12)  # one phase for all channels keeps them in step
    texture = fft.irfftn(fft.rfftn(limited, axes=(1, 2, 3)) * phases, s=source.shape, axes=(1, 2, 3))
    std = texture.reshape(len(texture), -1).std(axis=1)
    return (texture * _channels(spread / np.maximum(std, 1e-12))).astype(np.float32)


def _channels(values: np.ndarray) -> np.ndarray:
    return values.reshape(-1, 1, 1, 1)
