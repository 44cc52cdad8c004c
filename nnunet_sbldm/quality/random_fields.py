"""Stationary Gaussian random fields: correlations of neighbouring voxels, measured, and fields drawn with them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

MAX_LAG = 3
"""Voxels along each axis up to which neighbours are correlated."""
SIZE = 2 * MAX_LAG + 1
AXES = (0, 1, 2)
TINY = 1e-12


def autocorrelation(volume: np.ndarray) -> np.ndarray:
    """Sums of products of voxels at every lag up to ``MAX_LAG``: [D, H, W] -> [SIZE, SIZE, SIZE]."""
    shape = [n + MAX_LAG for n in volume.shape]
    full = np.fft.irfftn(np.abs(np.fft.rfftn(volume, shape, AXES)) ** 2, shape, AXES)
    return full[np.ix_(*[np.arange(-MAX_LAG, MAX_LAG + 1) % n for n in shape])]


def gaussian_field(correlation: Sequence[float], shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Gaussian field of unit variance, drawn by its power spectrum.

    Args:
        correlation: of voxels at lags -MAX_LAG to MAX_LAG along (D, H, W), flattened.
        shape: (D, H, W).
        rng: source of randomness.
    """
    padded = [n + MAX_LAG for n in shape]
    kernel = np.zeros(padded)
    kernel[np.ix_(*[np.arange(-MAX_LAG, MAX_LAG + 1) % n for n in padded])] = np.reshape(correlation, (SIZE, SIZE, SIZE))
    amplitude = np.sqrt(np.fft.rfftn(kernel).real.clip(min=0))
    field = np.fft.irfftn(np.fft.rfftn(rng.standard_normal(padded)) * amplitude, padded, AXES)
    return field[tuple(slice(0, n) for n in shape)] / max(float(field.std()), TINY)
