"""Can one see where an edit begins? Gradients across its border and fine texture, each beside the tissue next to it.

Every score is the logarithm of a ratio, so that 0 is ideal; what real tissue does is measured on unedited training cases
with regions of the same kind.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy import ndimage

from nnunet_sbldm.types import FloatArray

LEVELS = (0.0, 0.5)
"""Borders that are looked at: where the edit begins, and where half of it is new."""
NEIGHBOURHOOD_VOXELS = 2
FINE_SIGMA_VOXELS, MEDIUM_SIGMA_VOXELS = 0.8, 1.6
MIN_PAIRS = 20
MIN_VOXELS = 8
TINY = 1e-6


def seam_scores(image: FloatArray, weight: np.ndarray, tissue: np.ndarray) -> dict[str, float]:
    """Differences of neighbouring voxels across the region's border over those of pairs beside it.

    Args:
        image: [C, D, H, W].
        weight: [D, H, W] share of new voxels.
        tissue: [D, H, W] bool, anatomy without lesions: their borders are no seams.

    Returns:
        ``channel_C/seam``: the log ratio of largest magnitude among ``LEVELS``; left out where there are too few pairs.
    """
    scores: dict[str, float] = {}
    for level in LEVELS:
        region = weight > level
        near = _near_border(region) & tissue
        for c, channel in enumerate(image):
            score = _log_ratio(channel, region, near)
            if score is not None and abs(score) >= abs(scores.get(f"channel_{c}/seam", 0.0)):
                scores[f"channel_{c}/seam"] = score
    return scores


def _near_border(region: np.ndarray) -> np.ndarray:
    grown = ndimage.binary_dilation(region, iterations=NEIGHBOURHOOD_VOXELS)
    return grown & ~ndimage.binary_erosion(region, iterations=NEIGHBOURHOOD_VOXELS, border_value=1)


def _log_ratio(channel: np.ndarray, region: np.ndarray, near: np.ndarray) -> float | None:
    """Axis by axis, because slices differ more than neighbours within a slice; weighted by the number of pairs."""
    total, count = 0.0, 0
    for first, second in _neighbours():
        usable = near[first] & near[second]
        crossing = usable & (region[first] != region[second])
        beside = usable & ~crossing
        if crossing.sum() < MIN_PAIRS or beside.sum() < MIN_PAIRS:
            continue
        difference = np.abs(channel[first] - channel[second])
        ratio = np.log(max(difference[crossing].mean(), TINY) / max(difference[beside].mean(), TINY))
        total, count = total + crossing.sum() * float(ratio), count + int(crossing.sum())
    return total / count if count else None


def _neighbours() -> Iterator[tuple[tuple[slice, ...], tuple[slice, ...]]]:
    for axis in range(3):
        whole = (slice(None),) * axis
        yield (*whole, slice(None, -1)), (*whole, slice(1, None))


def texture_scores(image: FloatArray, part: np.ndarray, beside: np.ndarray, name: str) -> dict[str, float]:
    """Local spectrum: fine and medium texture within slices in one part of an image over that in another.

    Args:
        image: [C, D, H, W].
        part: [D, H, W] bool, such as a lesion.
        beside: [D, H, W] bool, such as the tissue around it.
        name: what the part is called in the scores.

    Returns:
        ``channel_C/NAME_fine`` and ``NAME_medium``: log ratio of median magnitudes, negative where the part is smoother.
    """
    if part.sum() < MIN_VOXELS or beside.sum() < MIN_VOXELS:
        return {}
    scores = {}
    for c, channel in enumerate(image):
        fine, medium = (ndimage.gaussian_filter(channel, (0, s, s)) for s in (FINE_SIGMA_VOXELS, MEDIUM_SIGMA_VOXELS))
        for band, values in (("fine", channel - fine), ("medium", fine - medium)):
            inner, outer = (max(float(np.median(np.abs(values[m]))), TINY) for m in (part, beside))
            scores[f"channel_{c}/{name}_{band}"] = float(np.log(inner / outer))
    return scores
