"""Conditions c: tumour size, shape and position in physical units, measured, stored, fitted and sampled.

One function measures real and synthetic masks alike. Features of an absent label are missing (NaN); the denoiser
has a learned token for each missing feature, so users may ask for some features and leave the rest open.

The condition model is a kernel density estimate with one Gaussian kernel per training case and a shrunk common
covariance: with 5 to 100 cases it keeps the correlations between features (a large tumour has large extents), never
leaves the range that cases support by more than its bandwidth, and can be conditioned in closed form. The kernels' centres
are drawn towards their mean by as much as the kernels widen the distribution, so its mean and variance are the cases'.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from skimage.measure import marching_cubes, mesh_surface_area

from nnunet_sbldm.data.boxes import bounding_box
from nnunet_sbldm.types import OUTSIDE, LabelArray

AXES = ("d", "h", "w")
FEATURES = (
    "presence",
    "volume_ml",
    *(f"centroid_{a}" for a in AXES),
    *(f"extent_{a}_mm" for a in AXES),
    "sphericity",
    "num_components",
)
LOG_FEATURES = ("volume_ml", "extent_d_mm", "extent_h_mm", "extent_w_mm", "num_components")
ANATOMY = "anatomy"
ANATOMY_FEATURES = tuple(f"{ANATOMY}/extent_{a}_mm" for a in AXES)
"""Size of the imaged anatomy, to which the centroids are relative; it ends the condition vector."""
SHRINKAGE = 0.3
MIN_STD = 1e-3
SMOOTHING_VOXELS, MIN_ROUGH_VOXELS = 1.0, 50


@dataclass(frozen=True)
class Target:
    """A foreground label or region that conditions describe.

    Attributes:
        name: its name in ``dataset.json``.
        label_values: label values that belong to it.
    """

    name: str
    label_values: tuple[int, ...]


def feature_names(targets: Sequence[Target]) -> list[str]:
    """Names of all features in the order of the condition vector, ``TARGET/FEATURE``."""
    return [f"{t.name}/{f}" for t in targets for f in FEATURES] + list(ANATOMY_FEATURES)


def measure(label: LabelArray, targets: Sequence[Target], spacing_mm: Sequence[float]) -> np.ndarray:
    """Condition vector of a label map.

    Args:
        label: [D, H, W] label values, ``OUTSIDE`` outside the anatomy.
        targets: labels or regions to describe.
        spacing_mm: voxel size along (D, H, W).

    Returns:
        float64 [features], in the order of :func:`feature_names`; NaN where a feature does not exist.
    """
    inside, spacing = label != OUTSIDE, np.asarray(spacing_mm)
    if not inside.any():
        return np.array([*([0.0] + [np.nan] * (len(FEATURES) - 1)) * len(targets), *[np.nan] * len(ANATOMY_FEATURES)])
    low, high = _corners(inside)
    blocks = [_measure_one(np.isin(label, t.label_values), low, high, spacing) for t in targets]
    return np.concatenate([*blocks, (high - low) * spacing])


def _measure_one(mask: np.ndarray, low: np.ndarray, high: np.ndarray, spacing_mm: np.ndarray) -> np.ndarray:
    if not mask.any():
        return np.array([0.0] + [np.nan] * (len(FEATURES) - 1))
    first, last = _corners(mask)
    crop = mask[tuple(slice(a, b) for a, b in zip(first, last, strict=True))]
    num_voxels = int(np.count_nonzero(crop))
    volume_mm3 = num_voxels * float(np.prod(spacing_mm))
    centroid = (_index_sums(crop, first) / num_voxels + 0.5 - low) / (high - low)
    extent_mm = (last - first) * spacing_mm
    _, num_components = ndimage.label(crop, np.ones((3, 3, 3)))
    return np.array([1.0, volume_mm3 / 1000, *centroid, *extent_mm, sphericity(crop, spacing_mm), num_components])


def _corners(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First index of a mask [D, H, W] along each axis, and one past its last: [3] and [3]; it must not be empty."""
    box = bounding_box(mask)
    return np.array([s.start for s in box]), np.array([s.stop for s in box])


def _index_sums(crop: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Sum [3] of the voxel indices of a mask's crop [d, h, w] that begins at ``first``; whole numbers, so exact."""
    others = ((1, 2), (0, 2), (0, 1))
    return np.array(
        [float(crop.sum(axis=axes) @ (np.arange(n) + start)) for axes, n, start in zip(others, crop.shape, first, strict=True)]
    )


def sphericity(mask: np.ndarray, spacing_mm: Sequence[float] | np.ndarray) -> float:
    """Surface of the ball of equal volume over the surface of ``mask`` (marching cubes), at most 1."""
    vertices, faces, _, _ = marching_cubes(np.pad(mask, 1).astype(np.float32), 0.5, spacing=tuple(spacing_mm))
    volume_mm3 = mask.sum() * float(np.prod(spacing_mm))
    return min(1.0, float(np.pi ** (1 / 3) * (6 * volume_mm3) ** (2 / 3) / mesh_surface_area(vertices, faces)))


def fine_roughness(mask: np.ndarray, spacing_mm: Sequence[float] | np.ndarray) -> float:
    """Log ratio of the sphericity of ``mask`` [D, H, W] smoothed by a voxel within slices, and as it is.

    It tells a jagged outline from a lobed shape; both have low sphericity. NaN for masks too small for it.
    """
    if mask.sum() < MIN_ROUGH_VOXELS:
        return float("nan")
    box = np.pad(mask[bounding_box(mask)], math.ceil(4 * SMOOTHING_VOXELS))
    smooth = ndimage.gaussian_filter(box.astype(np.float32), (0, SMOOTHING_VOXELS, SMOOTHING_VOXELS)) > 0.5
    return math.log(sphericity(smooth, spacing_mm) / sphericity(box, spacing_mm)) if smooth.any() else float("nan")


def roughness_of_targets(label: LabelArray, targets: Sequence[Target], spacing_mm: Sequence[float]) -> np.ndarray:
    """:func:`fine_roughness` [targets] of a label map [D, H, W]; NaN where a target is absent."""
    return np.array([fine_roughness(np.isin(label, t.label_values), spacing_mm) for t in targets])


# --- network scale -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ConditionScaling:
    """Physical units <-> network scale: logarithm where a feature is a size, then zero mean and unit variance.

    Attributes:
        names: feature names.
        mean: mean of each (log-)feature over the training cases that have it.
        std: standard deviation likewise, at least ``MIN_STD``.
    """

    names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @staticmethod
    def fit(names: Sequence[str], table: np.ndarray) -> ConditionScaling:
        """Measure mean and std over a table [cases, features] in physical units."""
        logs = _to_log(names, table)
        known = np.isfinite(logs)
        count = np.maximum(known.sum(axis=0), 1)
        mean = np.where(known, logs, 0).sum(axis=0) / count
        std = np.sqrt(np.where(known, (logs - mean) ** 2, 0).sum(axis=0) / count)
        return ConditionScaling(tuple(names), tuple(mean.tolist()), tuple(np.maximum(std, MIN_STD).tolist()))

    def scaled(self, physical: np.ndarray) -> np.ndarray:
        """[..., features] physical -> network scale; NaN stays NaN."""
        return (_to_log(self.names, physical) - self.mean) / self.std

    def physical(self, scaled: np.ndarray) -> np.ndarray:
        """Inverse of :meth:`scaled`."""
        logs = scaled * np.asarray(self.std) + self.mean
        return np.where(is_log_feature(self.names), np.exp(logs), logs)


def is_log_feature(names: Sequence[str]) -> np.ndarray:
    """Which features are sizes, that is, scaled by their logarithm: bool [features]."""
    return np.array([n.rsplit("/", 1)[1] in LOG_FEATURES for n in names])


def _to_log(names: Sequence[str], physical: np.ndarray) -> np.ndarray:
    is_log = is_log_feature(names)
    return np.where(is_log, np.log(np.where(is_log, physical, 1.0)), physical)


def as_dict(names: Sequence[str], vector: np.ndarray) -> dict[str, float]:
    """Feature name -> value, missing features left out."""
    return {n: float(v) for n, v in zip(names, vector, strict=True) if np.isfinite(v)}


def as_vector(names: Sequence[str], values: Mapping[str, float]) -> np.ndarray:
    """Inverse of :func:`as_dict`: [F], NaN where a feature is missing."""
    return np.array([values.get(n, np.nan) for n in names])


# --- condition model -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ConditionModel:
    """Kernel density over conditions in network scale.

    Attributes:
        scaling: physical units <-> network scale.
        table: [cases, features] training conditions in physical units, NaN where missing.
    """

    scaling: ConditionScaling
    table: np.ndarray

    def sample(self, rng: np.random.Generator, asked: Mapping[str, float] | None = None, diversity: float = 1.0) -> np.ndarray:
        """Draw a plausible condition, optionally with some features given.

        Args:
            rng: source of randomness.
            asked: feature name -> value in physical units; these are kept as they are.
            diversity: factor on the kernel width; 0 repeats training conditions.

        Returns:
            [features] in physical units, NaN where missing.
        """
        names, asked = list(self.scaling.names), asked or {}
        rows = self.scaling.scaled(self.table)
        given = np.array([n in asked for n in names])
        wanted = self.scaling.scaled(np.array([asked.get(n, np.nan) for n in names]))
        presence = given & np.array([n.endswith("/presence") for n in names])
        usable = np.isfinite(rows[:, given]).all(axis=1) & (np.abs(rows - wanted)[:, presence] < MIN_STD).all(axis=1)
        if not usable.any():
            usable[:] = True
        bandwidth = max(diversity, 1e-6) * self._bandwidth()
        rows, covariance = _shrunk(names, rows[usable], bandwidth), self._covariance() * bandwidth**2
        row = rows[rng.choice(len(rows), p=_kernel_weights(rows[:, given], wanted[given], covariance[np.ix_(given, given)]))]
        drawn = _draw_given(rng, row, covariance, given, wanted)
        from_row = ~given & (~np.isfinite(row) | np.array([n.endswith("/presence") for n in names]))
        drawn = np.where(from_row, row, drawn)
        physical = self.scaling.physical(drawn)
        physical[given] = [asked[n] for n in np.array(names)[given]]
        return _plausible(names, physical, self.table)

    def _bandwidth(self) -> float:
        """Scott's rule: width of a kernel in standard deviations of the training conditions."""
        n, k = self.table.shape
        return float(n ** (-1 / (k + 4)))

    def _covariance(self) -> np.ndarray:
        """Shrunk covariance of the training conditions, network scale."""
        rows = np.nan_to_num(self.scaling.scaled(self.table))
        covariance = rows.T @ rows / max(len(rows), 1)
        return (1 - SHRINKAGE) * covariance + SHRINKAGE * np.diag(np.maximum(np.diag(covariance), 1e-6))


def _shrunk(names: Sequence[str], rows: np.ndarray, bandwidth: float) -> np.ndarray:
    """Kernel centres drawn towards their mean, so that kernels do not widen the distribution as a whole (West 1993)."""
    known = np.isfinite(rows)
    centre = np.where(known, rows, 0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    shrunk = centre + np.sqrt(max(0.0, 1 - bandwidth**2)) * (rows - centre)
    return np.where([n.endswith("/presence") for n in names], rows, shrunk)


def _kernel_weights(rows: np.ndarray, wanted: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Probability of each kernel, given some features (uniform if none are)."""
    difference = np.nan_to_num(rows - wanted)
    logits = (
        -0.5 * np.einsum("ij,ij->i", difference @ np.linalg.pinv(covariance), difference)
        if rows.shape[1]
        else np.zeros(len(rows))
    )
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


def _draw_given(
    rng: np.random.Generator, row: np.ndarray, covariance: np.ndarray, given: np.ndarray, wanted: np.ndarray
) -> np.ndarray:
    """Draw from the Gaussian kernel at ``row``, conditioned on the given features."""
    drawn, free = wanted.copy(), ~given
    mean = np.nan_to_num(row[free])
    kernel = covariance[np.ix_(free, free)]
    if given.any():
        gain = covariance[np.ix_(free, given)] @ np.linalg.pinv(covariance[np.ix_(given, given)])
        mean = mean + gain @ np.nan_to_num(wanted[given] - row[given])
        kernel = kernel - gain @ covariance[np.ix_(given, free)]
    drawn[free] = rng.multivariate_normal(mean, (kernel + kernel.T) / 2, method="eigh", check_valid="ignore")
    return drawn


def _plausible(names: Sequence[str], physical: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Keep counts whole, fractions in [0, 1], presence 0 or 1, and an absent label without features."""
    out = physical.copy()
    for start in range(0, len(names) - len(ANATOMY_FEATURES), len(FEATURES)):
        block = slice(start, start + len(FEATURES))
        if not round(float(np.clip(out[start], 0, 1))):
            out[block] = [0.0] + [np.nan] * (len(FEATURES) - 1)
            continue
        out[start] = 1.0
        for i, feature in enumerate(FEATURES[1:], start + 1):
            if feature.startswith("centroid") or feature == "sphericity":
                out[i] = np.clip(out[i], 0, 1)
            elif feature == "num_components":
                out[i] = np.clip(np.round(out[i]), 1, np.nanmax(table[:, i], initial=1))
    return out
