"""What real lesions and real tissue are like, measured on the real cases that an edit may use.

The yardstick of the quality gate for edits: how deep lesions lie, their fine texture, the contrast of healthy tissue with its
surroundings, gradients across borders where nothing was edited, and the lesions themselves, to notice copies.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import ndimage

from nnunet_sbldm.editing.regions import depth_mm, dilated, fading_widths, region_around, room_for_lesions
from nnunet_sbldm.quality.appearance import contrast, halo, mask_and_shell
from nnunet_sbldm.quality.gate import MARGIN_CASES, MIN_MARGIN_SHARE
from nnunet_sbldm.quality.seams import seam_scores, texture_scores
from nnunet_sbldm.types import OUTSIDE, FloatArray, LabelArray

Load = Callable[[str], tuple[FloatArray, LabelArray]]

DEPTH_PERCENTILE = 1.0
MAX_CASES_PLACED, MAX_PLACEMENTS, PLACEMENTS_PER_CASE = 40, 60, 6
"""Borders in healthy tissue are looked at in so many cases, so often in all, and so often in each."""
TRIES, SHRINKING, MIN_SHAPE_VOXELS = 30, 0.8, 27
"""A lesion that fits in none of so many places of a case's healthy tissue is scaled down, unless it is too small."""
PATCH_VOXELS = (12, 24, 24)
"""Size of the patches in which lesions are compared; larger lesions are scaled down to it, smaller ones keep their size."""
MAX_SHIFT_VOXELS = 2
MIN_DISTANCE_SHARE = 0.5
"""A lesion nearer to a real one than this share of the smallest distance between two real ones is taken for its copy."""
MIN_MARGIN = 0.15
"""No bound of a log ratio or a contrast is narrower than this on either side."""
SEED = 7
TISSUE_PERCENTILES, VOXELS_PER_CASE = (5, 95), 2000


@dataclass(frozen=True)
class RealLesions:
    """What the real cases allow an edit to be.

    Attributes:
        min_depth_mm: depth below the anatomy's surface that all but a few lesion voxels have.
        values: score -> what it is in the real cases.
        patches: case id -> [C, *PATCH_VOXELS] its lesion, see :func:`lesion_patch`.
        smallest_distance: smallest distance between the lesions of two real cases; None with fewer than two.
        tissue: per channel, range of nnU-Net's normalised intensities of the tissue around lesions; empty without lesions.
    """

    min_depth_mm: float
    values: dict[str, list[float]] = field(default_factory=dict)
    patches: dict[str, FloatArray] = field(default_factory=dict)
    smallest_distance: float | None = None
    tissue: tuple[tuple[float, float], ...] = ()

    def bounds(self, name: str) -> tuple[float, float] | None:
        """Range of a score over the real cases, widened as the gate widens its own; None if fewer than two have it."""
        known = self.values.get(name, [])
        if len(known) < 2:
            return None
        low, high = min(known), max(known)
        margin = max(max(MIN_MARGIN_SHARE, MARGIN_CASES / len(known)) * (high - low), MIN_MARGIN)
        return low - margin, high + margin

    def nearest(self, patch: FloatArray | None) -> dict[str, Any]:
        """The real lesion most like a new one, under flips and shifts; empty if there is none to compare."""
        if patch is None or not self.patches:
            return {}
        distances = {case_id: lesion_distance(patch, other) for case_id, other in self.patches.items()}
        case_id = min(distances, key=distances.__getitem__)
        return {"case_id": case_id, "lesion_distance": round(distances[case_id], 5)}


def measure_real_lesions(
    case_ids: Sequence[str], load: Load, spacing_mm: Sequence[float]
) -> RealLesions:
    """Measure real cases; of many, borders and healthy tissue are measured on the first ``MAX_CASES_PLACED``, less often in each.

    Args:
        case_ids: the real cases.
        load: case id -> [C, D, H, W] normalised image and [D, H, W] label.
        spacing_mm: voxel size.
    """
    depths: list[float] = []
    patches: dict[str, FloatArray] = {}
    values: dict[str, list[float]] = {}
    shapes: list[np.ndarray] = []
    around: list[np.ndarray] = []
    for case_id in case_ids:
        image, label = load(case_id)
        patch = lesion_patch(image, label)
        if patch is not None:
            patches[case_id] = patch
            shapes.append(_cropped(label > 0))
            if (label == OUTSIDE).any():
                depths.append(float(np.percentile(depth_mm(label, spacing_mm)[label > 0], DEPTH_PERCENTILE)))
            _collect(values, lesion_scores(image, label, spacing_mm))
            around.append(_voxels_around(image, label, spacing_mm))
    min_depth = min(depths, default=0.0)
    rng = np.random.default_rng(SEED)
    placed = case_ids[:MAX_CASES_PLACED] if shapes else ()
    for i, case_id in enumerate(placed):
        num_places = min(PLACEMENTS_PER_CASE, math.ceil(MAX_PLACEMENTS / len(placed)))
        others = [shapes[(i + 1 + j) % len(shapes)] for j in range(num_places)]
        for scores in _healthy_scores(*load(case_id), others, spacing_mm, min_depth, rng):
            _collect(values, scores)
    pairs = itertools.combinations(patches.values(), 2)
    smallest = min((lesion_distance(a, b) for a, b in pairs), default=None)
    tissue = _ranges(np.concatenate(around, axis=1)) if around else ()
    return RealLesions(min_depth, values, patches, smallest, tissue)


def _voxels_around(image: FloatArray, label: LabelArray, spacing_mm: Sequence[float]) -> np.ndarray:
    """Intensities [C, N] in the shell around the lesions of a case, drawn with replacement, so that all cases count alike."""
    _, shell = mask_and_shell(label > 0, label != OUTSIDE, spacing_mm)
    found = image[:, shell]
    return np.random.default_rng(SEED).choice(found, VOXELS_PER_CASE, axis=1) if found.size else found


def _ranges(voxels: np.ndarray) -> tuple[tuple[float, float], ...]:
    """Central range of every channel of voxels [C, N]; empty without any."""
    low, high = np.percentile(voxels, TISSUE_PERCENTILES, axis=1) if voxels.size else np.zeros((2, 0))
    return tuple((round(float(a), 4), round(float(b), 4)) for a, b in zip(low, high, strict=True))


def _collect(values: dict[str, list[float]], scores: Mapping[str, float]) -> None:
    for name, score in scores.items():
        values.setdefault(name, []).append(score)


def _cropped(mask: np.ndarray) -> np.ndarray:
    return mask[ndimage.find_objects(mask.astype(np.int8), max_label=1)[0]]


# --- scores ----------------------------------------------------------------------------------------------------------


def lesion_scores(image: FloatArray, label: LabelArray, spacing_mm: Sequence[float]) -> dict[str, float]:
    """Texture of a lesion over that of the tissue around it, ``channel_C/lesion_fine`` and so on; ``channel_C/lesion_halo``."""
    lesion, shell = mask_and_shell(label > 0, label != OUTSIDE, spacing_mm)
    halos = enumerate(halo(image, lesion, label != OUTSIDE, spacing_mm).tolist())
    return texture_scores(image, lesion, shell, "lesion") | {f"channel_{c}/lesion_halo": v for c, v in halos if math.isfinite(v)}


def border_scores(
    image: FloatArray, weight: np.ndarray, tissue: np.ndarray, spacing_mm: Sequence[float]
) -> dict[str, float]:
    """Seams of a region, and fine texture in its fading border over that just outside.

    Args:
        image: [C, D, H, W].
        weight: [D, H, W] share of new voxels.
        tissue: [D, H, W] bool, anatomy without lesions.
        spacing_mm: voxel size.
    """
    fading = (weight > 0) & (weight < 1) & tissue
    beyond = dilated(weight > 0, 1, fading_widths(spacing_mm)) & (weight == 0) & tissue
    return seam_scores(image, weight, tissue) | texture_scores(image, fading, beyond, "border")


def healthy_scores(image: FloatArray, place: np.ndarray, tissue: np.ndarray, spacing_mm: Sequence[float]) -> dict[str, float]:
    """Contrast and texture of a place that should look like the healthy tissue around it.

    Args:
        image: [C, D, H, W].
        place: [D, H, W] bool, where a lesion was painted over, or might have been.
        tissue: [D, H, W] bool, what it is compared with, as far as that is near.
        spacing_mm: voxel size.

    Returns:
        ``channel_C/healthy_contrast``, ``healthy_fine`` and ``healthy_medium``; empty for a place of a few voxels.
    """
    _, shell = mask_and_shell(place, tissue, spacing_mm)
    if place.sum() < MIN_SHAPE_VOXELS or not shell.any():
        return {}
    spreads = image[:, tissue | place].std(axis=1, dtype=np.float64)
    contrasts = {f"channel_{c}/healthy_contrast": contrast(image[c], place, shell, s) for c, s in enumerate(spreads.tolist())}
    return contrasts | texture_scores(image, place, shell, "healthy")


def _healthy_scores(
    image: FloatArray,
    label: LabelArray,
    shapes: Sequence[np.ndarray],
    spacing_mm: Sequence[float],
    min_depth_mm: float,
    rng: np.random.Generator,
) -> Iterator[dict[str, float]]:
    """Scores of regions in which nothing was edited, around lesions of other cases laid into healthy tissue."""
    lesions = label > 0
    room, tissue = room_for_lesions(label, spacing_mm, min_depth_mm, lesions), (label != OUTSIDE) & ~lesions
    for shape in shapes:
        place = _laid(shape, room, rng)
        if place is not None:
            region = region_around(place, label, spacing_mm, lesions)
            yield border_scores(image, region.weight, tissue, spacing_mm) | healthy_scores(image, place, tissue, spacing_mm)


def _laid(shape: np.ndarray, room: np.ndarray, rng: np.random.Generator) -> np.ndarray | None:
    """A mask laid into the room of a case somewhere, scaled down where it hardly fits anywhere; None if it is too small then."""
    centres = np.argwhere(room)
    while len(centres) and shape.sum() >= MIN_SHAPE_VOXELS:
        for centre in centres[rng.integers(len(centres), size=TRIES)]:
            start = centre - np.array(shape.shape) // 2
            box = tuple(slice(s, s + n) for s, n in zip(start, shape.shape, strict=True))
            if (start >= 0).all() and (start + shape.shape <= room.shape).all() and room[box][shape].all():
                out = np.zeros_like(room)
                out[box] = shape
                return out
        shape = _scaled_down(shape)
    return None


def _scaled_down(shape: np.ndarray) -> np.ndarray:
    """A mask of ``SHRINKING`` times the size along every axis, at least one voxel less where there are two."""
    factors = [max(1, min(n - 1, round(SHRINKING * n))) / n for n in shape.shape]
    return np.asarray(ndimage.zoom(shape, factors, order=0, mode="nearest", grid_mode=True))


# --- copies ----------------------------------------------------------------------------------------------------------


def lesion_patch(image: FloatArray, label: LabelArray) -> FloatArray | None:
    """The lesion as brightness above its surroundings, centred, 0 beside it, of unit length.

    Args:
        image: [C, D, H, W].
        label: [D, H, W]; every foreground voxel belongs to the lesion.

    Returns:
        [C, *PATCH_VOXELS]; None without a lesion or surroundings.
    """
    lesion, shell = mask_and_shell(label > 0, label != OUTSIDE, (1.0, 1.0, 1.0))
    if not lesion.any() or not shell.any():
        return None
    box = ndimage.find_objects(lesion.astype(np.int8), max_label=1)[0]
    level = image[:, shell].mean(axis=1).reshape(-1, 1, 1, 1)
    own = np.where(lesion[box], image[(slice(None), *box)] - level, 0)
    factor = [min(1.0, (p - 2 * MAX_SHIFT_VOXELS) / n) for p, n in zip(PATCH_VOXELS, own.shape[1:], strict=True)]
    if min(factor) < 1:
        own = ndimage.zoom(own, (1, *factor), order=1)
    patch = np.zeros((len(own), *PATCH_VOXELS), np.float32)
    starts = [(p - n) // 2 for p, n in zip(PATCH_VOXELS, own.shape[1:], strict=True)]
    patch[(slice(None), *(slice(s, s + n) for s, n in zip(starts, own.shape[1:], strict=True)))] = own
    length = float(np.linalg.norm(patch))
    return patch / length if length > 0 else None


def lesion_distance(first: FloatArray, second: FloatArray) -> float:
    """1 minus the largest cosine similarity of two patches, under the flips within slices and shifts of a few voxels."""
    reach = range(-MAX_SHIFT_VOXELS, MAX_SHIFT_VOXELS + 1)
    spectrum = np.fft.rfftn(second, axes=(1, 2, 3))
    best = -1.0
    for flipped in (first, first[..., ::-1], first[..., ::-1, :], first[..., ::-1, ::-1]):
        product = np.conj(np.fft.rfftn(flipped, axes=(1, 2, 3))) * spectrum
        similarity = np.fft.irfftn(product.sum(axis=0), s=PATCH_VOXELS, axes=(0, 1, 2))
        best = max(best, float(similarity[np.ix_(reach, reach, reach)].max()))
    return max(0.0, 1 - best)
