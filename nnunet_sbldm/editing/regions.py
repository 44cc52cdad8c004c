"""Where an edit may change a host: windows on the model's grid, room for lesions, regions, and conditions that fit in there.

All arrays are in plan order at the plan's spacing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from nnunet_sbldm.data.boxes import bounding_box
from nnunet_sbldm.data.conditions import ANATOMY_FEATURES, AXES, FEATURES, Target
from nnunet_sbldm.generator.plan import GeneratorPlan
from nnunet_sbldm.types import OUTSIDE, FloatArray, LabelArray, NoRoomError

FEATHER_MM = 10.0
"""Width over which an edit fades into the host; at least ``MIN_FADING_VOXELS`` along every axis."""
MIN_FADING_VOXELS = 2
CLEARANCE_WIDTHS = 1.5
"""Distance of a new lesion from those that stay, in widths of that border: all of it, and a margin."""
MIN_SHARE_IN_ROOM = 0.97
MAX_TRIES = 100
TISSUE_SCALE_MM = 3.0
"""Standard deviation of what counts as around a voxel."""


def depth_mm(label: LabelArray, spacing_mm: Sequence[float]) -> np.ndarray:
    """Distance [D, H, W] of every voxel from the outside of the anatomy, infinite if there is no outside."""
    inside = label != OUTSIDE
    if inside.all():
        return np.full(label.shape, np.inf)
    return np.asarray(ndimage.distance_transform_edt(inside, sampling=spacing_mm))


def room_for_lesions(label: LabelArray, spacing_mm: Sequence[float], min_depth_mm: float, kept: np.ndarray) -> np.ndarray:
    """Voxels where a lesion may be: at the depth of real lesions and clear of those that stay.

    Args:
        label: [D, H, W] with ``OUTSIDE`` marks.
        spacing_mm: voxel size.
        min_depth_mm: smallest depth of the training lesions.
        kept: [D, H, W] bool, voxels of lesions that stay as they are.
    """
    room: np.ndarray = (depth_mm(label, spacing_mm) >= min_depth_mm) & (label != OUTSIDE)
    return np.asarray(room & ~dilated(kept, CLEARANCE_WIDTHS, fading_widths(spacing_mm)))


def tissue_like(
    image: FloatArray, inside: np.ndarray, tissue: Sequence[tuple[float, float]], spacing_mm: Sequence[float]
) -> np.ndarray:
    """Voxels [D, H, W] around which most of the anatomy is as bright as tissue in which real lesions lie: no bone, eye, or air.

    Args:
        image: [C, D, H, W] in nnU-Net's normalised intensities.
        inside: [D, H, W] bool, the anatomy.
        tissue: range of every channel.
        spacing_mm: voxel size.
    """
    bounds = np.array(tissue).reshape(len(image), 2, 1, 1, 1)
    alike = inside & ((image >= bounds[:, 0]) & (image <= bounds[:, 1])).all(axis=0)
    sigma = [TISSUE_SCALE_MM / s for s in spacing_mm]
    share, whole = (ndimage.gaussian_filter(m.astype(np.float32), sigma) for m in (alike, inside))
    return np.asarray(inside & (share > 0.5 * whole))


def dilated(mask: np.ndarray, reach: float, sampling: Sequence[float]) -> np.ndarray:
    """All voxels within ``reach`` of a mask, in the unit of ``sampling``, the size of a voxel along every axis."""
    out = np.zeros_like(mask)
    if mask.any():
        box = bounding_box(mask, [math.ceil(reach / s) for s in sampling])
        out[box] = ndimage.distance_transform_edt(~mask[box], sampling=sampling) <= reach
    return out


def fading_widths(spacing_mm: Sequence[float]) -> tuple[float, ...]:
    """Size of a voxel along every axis in widths of the fading border, which is wider across thick slices."""
    return tuple(s / max(FEATHER_MM, MIN_FADING_VOXELS * s) for s in spacing_mm)


@dataclass(frozen=True)
class Region:
    """Where an edit changes the host.

    Attributes:
        weight: float32 [D, H, W], share of the new voxels: 0 where the host stays bit for bit, 1 in the middle.
    """

    weight: np.ndarray

    @property
    def mask(self) -> np.ndarray:
        """[D, H, W] bool, voxels that may change."""
        return self.weight > 0

    def latent_mask(self, latent_shape: Sequence[int]) -> np.ndarray:
        """[D, h, w] bool, latents that hold any of it."""
        d, h, w = latent_shape
        blocks = self.mask.reshape(d, h, self.mask.shape[1] // h, w, self.mask.shape[2] // w)
        return np.asarray(blocks.any(axis=(2, 4)))


def region_around(core: np.ndarray, label: LabelArray, spacing_mm: Sequence[float], kept: np.ndarray) -> Region:
    """The region of an edit: its core, enlarged, with a border in which it fades into the tissue that stays.

    Args:
        core: [D, H, W] bool, where the new lesion may be and where the old one was.
        label: [D, H, W] with ``OUTSIDE`` marks; the outside never changes and needs no fading.
        spacing_mm: voxel size.
        kept: [D, H, W] bool, voxels that must stay although they may be near.
    """
    widths = fading_widths(spacing_mm)
    outside = label == OUTSIDE
    reached = dilated(core, 1 + max(widths), widths) & ~dilated(kept, max(spacing_mm), spacing_mm)
    changes = reached & ~outside
    weight = changes.astype(np.float32)
    box = bounding_box(changes, [math.ceil(1 / s) for s in widths])
    stays = ~(changes | outside)[box]
    if stays.any():
        x = np.minimum(ndimage.distance_transform_edt(~stays, sampling=widths), 1)
        weight[box] *= x * x * (3 - 2 * x)
    return Region(weight)


def ellipsoids(
    condition: np.ndarray, targets: Sequence[Target], label: LabelArray, spacing_mm: Sequence[float], factor: float = 1.0
) -> np.ndarray:
    """Voxels [D, H, W] of the ellipsoids that a condition describes, all targets together.

    Args:
        condition: [F] in physical units, NaN where missing.
        targets: labels or regions, in the order of the features.
        label: [D, H, W], for the box of the anatomy.
        spacing_mm: voxel size.
        factor: enlargement of the extents.
    """
    box = bounding_box(label != OUTSIDE)
    axes = np.meshgrid(*(np.arange(n) + 0.5 for n in label.shape), indexing="ij")
    found = np.zeros(label.shape, bool)
    for i in range(len(targets)):
        block = dict(zip(FEATURES, condition[i * len(FEATURES) : (i + 1) * len(FEATURES)], strict=True))
        if block["presence"] != 1:
            continue
        radius = np.zeros(label.shape)
        for name, axis, part, s in zip(AXES, axes, box, spacing_mm, strict=True):
            centre = part.start + block[f"centroid_{name}"] * (part.stop - part.start)
            radius += ((axis - centre) * s / (0.5 * factor * block[f"extent_{name}_mm"])) ** 2
        found |= radius <= 1
    return found


def anatomy_features(label: LabelArray, spacing_mm: Sequence[float]) -> dict[str, float]:
    """Size of the host's anatomy, as the condition vector has it."""
    box = bounding_box(label != OUTSIDE)
    return {n: (p.stop - p.start) * float(s) for n, p, s in zip(ANATOMY_FEATURES, box, spacing_mm, strict=True)}


def fitting_condition(
    plan: GeneratorPlan,
    label: LabelArray,
    room: np.ndarray,
    asked: Mapping[str, float],
    diversity: float,
    rng: np.random.Generator,
) -> np.ndarray | None:
    """Draw a condition whose lesion lies in the room of a host.

    Args:
        plan: condition model and targets.
        label: [D, H, W] of the host.
        room: [D, H, W] bool, where lesions may be.
        asked: feature name -> value in physical units.
        diversity: width of the condition model's kernels.
        rng: source of randomness.

    Returns:
        [F] in physical units, or None if none of ``MAX_TRIES`` draws fits.
    """
    spacing_mm = plan.grid.spacing_mm
    given = {**_with_presence(plan, asked), **anatomy_features(label, spacing_mm)}
    for _ in range(MAX_TRIES):
        condition = plan.condition_model.sample(rng, given, diversity)
        lesion = ellipsoids(condition, plan.targets, label, spacing_mm)
        if lesion.any() and room[lesion].mean() >= MIN_SHARE_IN_ROOM:
            return condition
    return None


def _with_presence(plan: GeneratorPlan, asked: Mapping[str, float]) -> dict[str, float]:
    """Asking any feature of a target asks for the target; asking nothing asks for the first."""
    owners = {name.rsplit("/", 1)[0] for name in asked} or {plan.targets[0].name}
    return {**{f"{owner}/{FEATURES[0]}": 1.0 for owner in owners}, **asked}


def condition_elsewhere(
    plan: GeneratorPlan, label: LabelArray, avoided: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """A condition under which the model paints healthy tissue in ``avoided``.

    A model that has seen healthy cases is told that every target is absent. Others never learned that word; they are told of
    the smallest training lesion at the place farthest from ``avoided``, where the host stays as it is.
    """
    spacing_mm, names = plan.grid.spacing_mm, plan.condition_scaling.names
    given = anatomy_features(label, spacing_mm)
    columns = [names.index(f"{t.name}/{FEATURES[0]}") for t in plan.targets]
    if (plan.condition_model.table[:, columns] == 0).all(axis=1).any():
        absent = {f"{t.name}/{FEATURES[0]}": 0.0 for t in plan.targets}
        return plan.condition_model.sample(rng, {**given, **absent})
    volumes = plan.condition_model.table[:, names.index(f"{plan.targets[0].name}/volume_ml")]
    condition = plan.condition_model.table[int(np.nanargmin(volumes))].copy()
    for name, value in given.items():
        condition[names.index(name)] = value
    far = ndimage.distance_transform_edt(~avoided, sampling=spacing_mm) * (label != OUTSIDE)
    box = bounding_box(label != OUTSIDE)
    place = np.unravel_index(int(far.argmax()), far.shape)
    for target in plan.targets:
        for axis, index, part in zip(AXES, place, box, strict=True):
            fraction = (int(index) + 0.5 - part.start) / (part.stop - part.start)
            condition[names.index(f"{target.name}/centroid_{axis}")] = fraction
    return condition


def impossible(
    plan: GeneratorPlan, host: str, label: LabelArray, room: np.ndarray, asked: Mapping[str, float]
) -> NoRoomError:
    """The error that says what a host has room for: its label map and room [D, H, W], all of it."""
    spacing_mm = plan.grid.spacing_mm
    if not room.any():
        return NoRoomError(f"Host {host} has no room for a lesion: its anatomy is too small, or full of lesions that stay.")
    radius_mm = float(ndimage.distance_transform_edt(np.pad(room, 1), sampling=spacing_mm).max())
    largest_ml = 4 / 3 * math.pi * radius_mm**3 / 1000
    box, free = bounding_box(label != OUTSIDE), bounding_box(room)
    ends = ((f.start - b.start, f.stop - b.start, b.stop - b.start) for f, b in zip(free, box, strict=True))
    spans = [(first / n, last / n) for first, last, n in ends]
    xyz = [spans[plan.grid.transpose_forward.index(axis)] for axis in (2, 1, 0)]
    places = ", ".join(f"{name} {low:.2f} to {high:.2f}" for name, (low, high) in zip("xyz", xyz, strict=True))
    wanted = ", ".join(f"{n} = {v:.3g}" for n, v in asked.items() if not n.endswith("/presence")) or "any lesion of the model"
    return NoRoomError(
        f"Host {host} has no place for {wanted}: its anatomy has room for a ball of up to {largest_ml:.3g} ml, with centres "
        f"within {places} (fractions of the anatomy)."
    )
