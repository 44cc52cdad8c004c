"""Smooth random images."""

import numpy as np
from scipy import ndimage


def smooth_volume(rng, shape=(16, 32, 32), sigma=2.0):
    """A smooth random image of unit variance."""
    volume = ndimage.gaussian_filter(rng.normal(size=shape), sigma)
    return (0.3 * volume / volume.std()).astype(np.float32)
