"""Does the generator copy its training cases? Nearest-neighbour distances, for image, mask and pair, mirror-aware.

A synthetic case should be no nearer to the training cases than an unseen real case is. Every case is compared as it is and
mirrored left to right, so that a mirrored copy counts as a copy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from nnunet_sbldm.data.labels import IGNORED

DESCRIPTORS = ("image", "mask", "pair")
"""What is compared of two cases: each is a vector of a case, see :func:`descriptors`."""
MAX_CELLS = 32
"""Images and masks are compared on at most this many cells along each axis: a copy with other noise is still a copy."""
NUM_RESAMPLES = 1000


@dataclass(frozen=True)
class Nearest:
    """Nearest training case of each case, for one kind.

    Attributes:
        distance: [N] to it.
        index: [N] which training case it is.
        mirrored: [N] whether the mirrored case is nearer than the case itself.
    """

    distance: np.ndarray
    index: np.ndarray
    mirrored: np.ndarray


def descriptors(image: np.ndarray, classes: np.ndarray, latent: torch.Tensor, num_classes: int) -> dict[str, np.ndarray]:
    """What is compared of a case, one flat float32 vector for each of ``DESCRIPTORS``.

    Args:
        image: [C, D, H, W] in network scale, ``FILL`` outside.
        classes: [D, H, W] class indices.
        latent: [Z, D, h, w] standardised.
        num_classes: number of classes, outside and background included.
    """
    foreground = np.stack([(classes == k) & (classes != IGNORED) for k in range(2, num_classes)])
    return {"image": _pooled(image), "mask": _pooled(foreground), "pair": latent.numpy().astype(np.float32).ravel()}


def _pooled(volume: np.ndarray) -> np.ndarray:
    d, h, w = (min(n, MAX_CELLS) for n in volume.shape[1:])
    return F.adaptive_avg_pool3d(torch.from_numpy(volume.astype(np.float32))[None], (d, h, w)).numpy().ravel()


def rms_distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Root mean square difference of all rows of two sets: [n, m]."""
    a, b = first.astype(np.float64), second.astype(np.float64)
    squared = np.square(a).sum(1)[:, None] + np.square(b).sum(1)[None] - 2 * a @ b.T
    return np.sqrt(np.maximum(squared, 0) / a.shape[1])


def overlap_distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """One minus the soft Dice of all rows of two sets: [n, m]; two empty masks count as unrelated."""
    a, b = first.astype(np.float64), second.astype(np.float64)
    total = np.square(a).sum(1)[:, None] + np.square(b).sum(1)[None]
    return np.where(total > 0, 1 - 2 * (a @ b.T) / np.maximum(total, 1e-12), 1.0)


def nearest_training_cases(
    cases: Mapping[str, np.ndarray], mirrored: Mapping[str, np.ndarray], training: Mapping[str, np.ndarray]
) -> dict[str, Nearest]:
    """Nearest training case of each case, for each of ``DESCRIPTORS``.

    Args:
        cases: descriptors of the cases, [N, features] for each kind.
        mirrored: descriptors of the mirrored cases.
        training: descriptors of the training cases.
    """
    found = {}
    for kind in DESCRIPTORS:
        between = overlap_distances if kind == "mask" else rms_distances
        plain, flipped = between(cases[kind], training[kind]), between(mirrored[kind], training[kind])
        both = np.minimum(plain, flipped)
        index = both.argmin(axis=1)
        rows = np.arange(len(index))
        found[kind] = Nearest(both[rows, index], index, flipped[rows, index] < plain[rows, index])
    return found


@dataclass(frozen=True)
class Memorisation:
    """Distances of synthetic cases to the training cases beside those of unseen real cases.

    Attributes:
        ratio: median distance of synthetic cases over that of held-out cases; 1 is ideal, well below 1 is copying.
        ratio_range: 95 % bootstrap interval of the ratio.
        half_range: 95 % of the ratios of one random half of the held-out cases to the other: what chance does.
        threshold: distance of the nearest held-out case.
        flagged: [N] synthetic cases nearer to a training case than that.
        expected_flagged: how many would be if synthetic cases were real ones.
    """

    ratio: float
    ratio_range: tuple[float, float]
    half_range: tuple[float, float]
    threshold: float
    flagged: np.ndarray
    expected_flagged: float


def memorisation(synthetic: np.ndarray, held_out: np.ndarray, rng: np.random.Generator) -> Memorisation:
    """Compare nearest distances [N] of synthetic cases with those [M] of held-out cases.

    Args:
        synthetic: distance of each synthetic case to its nearest training case.
        held_out: distance of each held-out case to its nearest training case.
        rng: draws resamples.
    """
    resampled = [(rng.choice(synthetic, len(synthetic)), rng.choice(held_out, len(held_out))) for _ in range(NUM_RESAMPLES)]
    halves = [np.array_split(rng.permutation(held_out), 2) for _ in range(NUM_RESAMPLES)]
    threshold = float(held_out.min())
    return Memorisation(
        _median_ratio(synthetic, held_out),
        _central_range([_median_ratio(s, h) for s, h in resampled]),
        _central_range([_median_ratio(first, second) for first, second in halves]),
        threshold,
        synthetic < threshold,
        len(synthetic) / (len(held_out) + 1),
    )


def _median_ratio(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.median(first) / max(float(np.median(second)), 1e-12))


def _central_range(values: Sequence[float]) -> tuple[float, float]:
    low, high = np.percentile(values, (2.5, 97.5))
    return float(low), float(high)
