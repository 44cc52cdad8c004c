"""The texture that the slice autoencoder cannot encode: noise and fine detail, measured on the training cases, added back.

A decoder trained on absolute errors returns the median of what an image could be, without the noise of the scanner. Its
distribution p(x | z) has a width, too: here a Gaussian field with the strength of the residuals per class and their
correlation between neighbouring voxels, along and across slices. Drawing from it keeps images from being softer than real.
Strengths are robust: edges that a weakly trained decoder misplaces are errors, not texture, and must not become noise.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from nnunet_sbldm.quality.random_fields import MAX_LAG, SIZE, TINY, autocorrelation, gaussian_field
from nnunet_sbldm.types import FloatArray

MAD_TO_STD = 1.4826
"""Standard deviation of a Gaussian over the median of its absolute values."""
MAX_UNIT = 3.0
"""Residuals beyond so many standard deviations are edges, and count as this."""


@dataclass(frozen=True)
class Texture:
    """Residuals of the autoencoder.

    Attributes:
        std: per channel, per class index: robust standard deviation in network scale; 0 outside the anatomy.
        correlation: per channel: correlation of voxels at lags -MAX_LAG to MAX_LAG along (D, H, W), flattened.
    """

    std: tuple[tuple[float, ...], ...]
    correlation: tuple[tuple[float, ...], ...]

    @staticmethod
    def fit(residuals: Iterable[tuple[FloatArray, np.ndarray]], num_channels: int, num_classes: int) -> Texture:
        """Measure residuals.

        Args:
            residuals: per case, real minus decoded image [C, D, H, W] in network scale, and class indices [D, H, W].
            num_channels: C.
            num_classes: K, class 0 is the outside.
        """
        spread, count = np.zeros((num_channels, num_classes)), np.zeros(num_classes)
        products, pairs = np.zeros((num_channels, SIZE, SIZE, SIZE)), np.zeros((SIZE, SIZE, SIZE))
        for residual, classes in residuals:
            known = (classes > 0) & (classes < num_classes)
            index = np.where(known, classes, 0)
            own_count = np.bincount(index[known], minlength=num_classes)
            std = np.zeros_like(spread)
            for k in np.flatnonzero(own_count):
                std[:, k] = MAD_TO_STD * np.median(np.abs(residual[:, index == k]), axis=1) * (k > 0)
            unit = np.where(known, residual / np.maximum(std[:, index], TINY), 0).clip(-MAX_UNIT, MAX_UNIT)
            products += np.stack([autocorrelation(u) for u in unit])
            pairs += autocorrelation(known.astype(np.float64))
            spread, count = spread + own_count * std, count + own_count
        correlation = products / np.maximum(pairs, 1)
        correlation /= correlation[:, MAX_LAG, MAX_LAG, MAX_LAG][:, None, None, None].clip(TINY)
        return Texture(_nested(spread / np.maximum(count, 1)), _nested(correlation.reshape(num_channels, -1)))

    def added_to(self, image: FloatArray, classes: np.ndarray, rng: np.random.Generator) -> FloatArray:
        """Image [C, D, H, W] with a drawn field, which leads no voxel out of -1 to 1: there lie 99 % of real intensities."""
        textured = image + self.draw(classes, rng)
        return np.clip(textured, np.minimum(image, -1), np.maximum(image, 1))

    def draw(self, classes: np.ndarray, rng: np.random.Generator) -> FloatArray:
        """One field [C, D, H, W] in network scale for class indices [D, H, W]; 0 outside and for ``NO_TEXTURE``."""
        if not self.std:
            return np.zeros((1, *classes.shape), np.float32)
        fields = [gaussian_field(c, classes.shape, rng) for c in self.correlation]
        return (np.stack(fields) * np.asarray(self.std)[:, classes]).astype(np.float32)


NO_TEXTURE = Texture((), ())
"""Decoded images as they are."""


def _nested(values: np.ndarray) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(round(float(v), 6) for v in row) for row in values)
