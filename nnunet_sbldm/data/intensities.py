"""Intensities: from nnU-Net's scale to the networks', and exactly back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nnunet_sbldm.types import FloatArray

FILL = -1.0
"""Scaled intensity of voxels outside the anatomy, as the autoencoder sees them."""


@dataclass(frozen=True)
class IntensityScaling:
    """Per channel: normalised intensity (nnU-Net's) -> scaled -> pseudo-raw, each an affine map.

    A z-score over the whole crop, air included, depends on how bright the anatomy is compared with the exact zeros
    around it. So the normalised value of raw 0 belongs to the case: it is the one that makes the crop's mean zero.

    Attributes:
        offset: normalised value that becomes 0 in the network.
        scale: normalised distance that becomes 1 in the network.
        raw_gain: raw distance of normalised 1.
        zero_low: smallest normalised value of raw 0; where it equals ``zero_high``, every case has this value.
        zero_high: largest normalised value of raw 0.
        raw_floor: smallest raw value inside the anatomy, above 0, so that exact zeros mark the outside;
            hugely negative for schemes in which 0 is an ordinary value.
    """

    offset: tuple[float, ...]
    scale: tuple[float, ...]
    raw_gain: tuple[float, ...]
    zero_low: tuple[float, ...]
    zero_high: tuple[float, ...]
    raw_floor: tuple[float, ...]

    def scaled(self, normalised: FloatArray) -> FloatArray:
        """[C, ...] normalised -> network scale (about -1 to 1, unclipped)."""
        return (normalised - _along(self.offset, normalised)) / _along(self.scale, normalised)

    def normalised(self, scaled: FloatArray) -> FloatArray:
        """Inverse of :meth:`scaled`."""
        return scaled * _along(self.scale, scaled) + _along(self.offset, scaled)

    def raw(self, normalised: FloatArray, inside: np.ndarray) -> FloatArray:
        """Raw intensities as in the user's files, exactly 0 outside.

        Args:
            normalised: [C, D, H, W], cropped to the anatomy's box.
            inside: [D, H, W] bool, the anatomy.
        """
        num_outside = max(int((~inside).sum()), 1)
        balance = -normalised[:, inside].sum(axis=1) / num_outside
        zero = np.clip(balance, self.zero_low, self.zero_high)
        raw = (normalised - _along(zero, normalised)) * _along(self.raw_gain, normalised)
        return np.where(inside, np.maximum(raw, _along(self.raw_floor, raw)), 0).astype(np.float32)


def _along(values: Sequence[float] | np.ndarray, like: np.ndarray) -> FloatArray:
    return np.asarray(values, dtype=np.float32).reshape(-1, *[1] * (like.ndim - 1))
