"""Distances between two sets of feature vectors, for few cases.

All of them depend on the number of cases, so :func:`equal_parts` draws sets of one size, and every number is meant to
be read beside the same number between real cases.

References: Frechet distance, Heusel et al. 2017 (arXiv 1706.08500); unbiased kernel distance, Binkowski et al. 2018
(1801.01401); permutation test, Gretton et al. 2012; precision and recall, Kynkaanniemi et al. 2019 (1904.06991);
density and coverage, Naeem et al. 2020 (2002.09797).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.spatial.distance import cdist

NUM_PERMUTATIONS = 1000
MAX_NEIGHBOURS = 5
NUM_PARTS = 20


def equal_parts(
    first: np.ndarray, second: np.ndarray, size: int, rng: np.random.Generator
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """``NUM_PARTS`` random pairs of parts with ``size`` rows each, without replacement; one pair if nothing is left to draw."""
    num_parts = 1 if len(first) == len(second) == size else NUM_PARTS
    for _ in range(num_parts):
        yield first[rng.choice(len(first), size, replace=False)], second[rng.choice(len(second), size, replace=False)]


def frechet_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Squared 2-Wasserstein distance of the Gaussians fitted to two sets.

    ``|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2))``. With centred rows A and B, the trace of the root is the sum of the
    singular values of ``A B^T`` over ``sqrt((n - 1)(m - 1))``: exact, also with fewer cases than features.

    Args:
        first: [n, features], n >= 2.
        second: [m, features], m >= 2.
    """
    a, b = first - first.mean(axis=0), second - second.mean(axis=0)
    n, m = len(a) - 1, len(b) - 1
    shift = np.square(first.mean(axis=0) - second.mean(axis=0)).sum()
    factor_a, factor_b = (np.asarray(np.linalg.qr(x, mode="r")) for x in (a, b))  # at most [features, features]
    root = np.linalg.svd(factor_a @ factor_b.T, compute_uv=False).sum() / np.sqrt(n * m)
    return max(float(shift + np.square(a).sum() / n + np.square(b).sum() / m - 2 * root), 0.0)


def kernel_distance(first: np.ndarray, second: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    """Unbiased squared maximum mean discrepancy with the cubic polynomial kernel, and its permutation p.

    Args:
        first: [n, features], n >= 2.
        second: [m, features], m >= 2.
        rng: draws the permutations.

    Returns:
        The distance, around 0 for one distribution (it may be negative), and the share of ``NUM_PERMUTATIONS`` random
        divisions of all cases that are at least as far apart.
    """
    both = np.concatenate([first, second])
    kernel = (both @ both.T / both.shape[1] + 1) ** 3
    is_first = np.arange(len(both)) < len(first)
    distance = _unbiased_mmd2(kernel, is_first)
    permuted = np.array([_unbiased_mmd2(kernel, rng.permutation(is_first)) for _ in range(NUM_PERMUTATIONS)])
    return distance, float((1 + (permuted >= distance).sum()) / (1 + NUM_PERMUTATIONS))


def _unbiased_mmd2(kernel: np.ndarray, is_first: np.ndarray) -> float:
    x, y = is_first.astype(float), (~is_first).astype(float)
    n, m, own = x.sum(), y.sum(), np.diag(kernel)
    within = (x @ kernel @ x - own @ x) / (n * (n - 1)) + (y @ kernel @ y - own @ y) / (m * (m - 1))
    return float(within - 2 * (x @ kernel @ y) / (n * m))


def support(real: np.ndarray, other: np.ndarray) -> dict[str, float]:
    """Precision, recall, density and coverage of ``other`` with respect to ``real``.

    Args:
        real: [n, features].
        other: [n, features], as many cases.

    Returns:
        precision: share of ``other`` within the neighbourhood of some real case; recall: the reverse; density: number of
        real neighbourhoods around a case of ``other``, over its expectation; coverage: share of real cases with a case of
        ``other`` in their neighbourhood. A neighbourhood reaches to the k-th neighbour, k = 5 or less with few cases.
    """
    k = min(MAX_NEIGHBOURS, len(real) - 1)
    between = cdist(real, other)
    real_radius, other_radius = _neighbour_distance(real, k), _neighbour_distance(other, k)
    near_real = between <= real_radius[:, None]
    return {
        "precision": float(near_real.any(axis=0).mean()),
        "recall": float((between <= other_radius[None]).any(axis=1).mean()),
        "density": float(near_real.sum(axis=0).mean() / k),
        "coverage": float(near_real.any(axis=1).mean()),
    }


def _neighbour_distance(points: np.ndarray, k: int) -> np.ndarray:
    return np.sort(cdist(points, points), axis=1)[:, k]  # column 0 is the point itself
