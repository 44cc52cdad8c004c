"""The generator's grid: how preprocessed cases lie on it, and the way back to a case.

The grid is derived, not chosen: slicing axis, spacing and orientation are those of nnU-Net's plans, its size is
the smallest that holds every training case, and the down-sampling of the autoencoder follows from that size.
Intensities are mapped affinely, labels to class indices; both have exact inverses.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from nnunet_sbldm.types import Case, FloatArray, Geometry, LabelArray

LARGE_IN_PLANE = 128
MIN_SLICES = 4
MIN_OUTSIDE_SHARE = 0.005
"""Mean share of air in the training cases' crops above which the shape of the anatomy is generated."""
FILL = -1.0
"""Scaled intensity of voxels outside the anatomy, as the autoencoder sees them."""
BACKGROUND, IGNORED = 1, 255
"""Class indices of background and of voxels with the ignore label."""


@dataclass(frozen=True)
class Grid:
    """Size and position of the generator's voxels, plan order.

    Attributes:
        shape: (D, H, W) voxels.
        spacing_mm: voxel size along (D, H, W).
        transpose_forward: axes of reader order in plan order (nnU-Net's).
        outside_is_box: training cases fill their crop, so the anatomy of a synthetic case is a box;
            otherwise the anatomy has a generated shape (a head surrounded by air).
        downsampling: in-plane factor between slices and latents; 0 stands for what the size asks for.
    """

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    transpose_forward: tuple[int, int, int]
    outside_is_box: bool
    downsampling: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "downsampling", self.downsampling or downsampling_for(self.shape[1:]))

    def with_downsampling(self, factor: int) -> Grid:
        """The same grid for another in-plane factor; a little larger where the factor does not divide it."""
        d, h, w = self.shape
        return replace(self, shape=(d, -(-h // factor) * factor, -(-w // factor) * factor), downsampling=factor)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(D, h, w) of the latent volume."""
        d, h, w = self.shape
        return d, h // self.downsampling, w // self.downsampling

    @property
    def latent_voxel_mm(self) -> tuple[float, float, float]:
        """Latent voxel size along (D, h, w)."""
        d, h, w = self.spacing_mm
        return d, h * self.downsampling, w * self.downsampling


def downsampling_for(in_plane: Sequence[int]) -> int:
    """4 up to 128 pixels, 8 beyond: latents stay near 32 x 32."""
    return 4 if max(in_plane) <= LARGE_IN_PLANE else 8


def configure_grid(
    shapes: Iterable[Sequence[int]], spacing_mm: Sequence[float], transpose_forward: Sequence[int], outside_share: float
) -> Grid:
    """Derive the grid from the training cases.

    Args:
        shapes: (D, H, W) of each preprocessed training case.
        spacing_mm: the plan's spacing.
        transpose_forward: the plan's transposition.
        outside_share: mean share of ``OUTSIDE`` voxels inside the crops.
    """
    largest = np.max([tuple(s) for s in shapes], axis=0)
    f = downsampling_for(largest[1:])
    h, w = (int(-(-n // f) * f) for n in largest[1:])
    return Grid(
        (max(int(largest[0]), MIN_SLICES), h, w),
        (float(spacing_mm[0]), float(spacing_mm[1]), float(spacing_mm[2])),
        (int(transpose_forward[0]), int(transpose_forward[1]), int(transpose_forward[2])),
        outside_share < MIN_OUTSIDE_SHARE,
    )


def to_grid(array: np.ndarray, shape: Sequence[int], fill: float) -> np.ndarray:
    """Centre ``array`` [..., d, h, w] on the grid: pad with ``fill`` where smaller, crop where larger."""
    out = np.full((*array.shape[:-3], *shape), fill, dtype=array.dtype)
    source, target = zip(*(_overlap(n, g) for n, g in zip(array.shape[-3:], shape, strict=True)), strict=True)
    out[(..., *target)] = array[(..., *source)]
    return out


def _overlap(size: int, grid_size: int) -> tuple[slice, slice]:
    margin, length = abs(grid_size - size) // 2, min(size, grid_size)
    inner, whole = slice(margin, margin + length), slice(0, length)
    return (whole, inner) if size < grid_size else (inner, whole)


def bounding_box(mask: np.ndarray, margin: Sequence[int] = (0, 0, 0)) -> tuple[slice, ...]:
    """Slices of the smallest box around ``mask``, enlarged by a margin per axis (the whole array if it is empty)."""
    found = ndimage.find_objects(mask.astype(np.int8), max_label=1)[0]
    if found is None:
        return tuple(slice(0, n) for n in mask.shape)
    sides = zip(found, margin, mask.shape, strict=True)
    return tuple(slice(max(s.start - m, 0), min(s.stop + m, n)) for s, m, n in sides)


# --- labels --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LabelEncoding:
    """Label values <-> class indices; class 0 is ``OUTSIDE``, class ``BACKGROUND`` background.

    Attributes:
        values: label value of each class.
        ignore_label: value excluded from every loss and never generated.
    """

    values: tuple[int, ...]
    ignore_label: int | None = None

    @property
    def num_classes(self) -> int:
        """Number of classes, ``OUTSIDE`` included."""
        return len(self.values)

    def encode(self, label: LabelArray) -> np.ndarray:
        """Class index of every voxel, uint8; ``IGNORED`` where ignored."""
        table = np.full(max(*self.values, self.ignore_label or 0) + 2, IGNORED, dtype=np.uint8)
        for index, value in enumerate(self.values):
            table[value] = index  # OUTSIDE = -1 is the last entry
        return table[label]

    def decode(self, classes: np.ndarray) -> LabelArray:
        """Inverse of :meth:`encode`, but for ignored voxels: they become background."""
        return np.asarray(self.values, dtype=np.int16)[np.where(classes == IGNORED, BACKGROUND, classes)]


# --- intensities ---------------------------------------------------------------------------------------------------


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


# --- the way back --------------------------------------------------------------------------------------------------


def anatomy_of(classes: np.ndarray, grid: Grid) -> np.ndarray:
    """Mask [D, H, W] of the anatomy in a generated class map.

    Box-shaped anatomies take every slab of voxels that is mostly inside; others the largest component, holes filled.
    """
    inside = classes > 0
    if grid.outside_is_box:
        box = []
        for axis in range(3):
            share = inside.mean(axis=tuple(a for a in range(3) if a != axis))
            kept = np.flatnonzero(share > 0.5 * share.max())
            box.append(slice(int(kept[0]), int(kept[-1]) + 1) if share.max() > 0 else slice(0, inside.shape[axis]))
        mask = np.zeros_like(inside)
        mask[tuple(box)] = True
        return mask
    labelled, count = ndimage.label(inside)
    if count > 1:
        inside = labelled == 1 + int(np.argmax(np.bincount(labelled.ravel())[1:]))
    return ndimage.binary_fill_holes(inside)


def from_grid(
    case_id: str,
    image: FloatArray,
    label: LabelArray,
    anatomy: np.ndarray,
    grid: Grid,
    intensity: IntensityScaling,
    template: Geometry,
) -> Case:
    """Turn a generated volume into a case: raw intensities, exact zeros outside, cropped, reader order.

    Args:
        case_id: identifier of the case.
        image: [C, D, H, W] in network scale.
        label: [D, H, W] label values.
        anatomy: [D, H, W] mask of the anatomy.
        grid: the generator's grid.
        intensity: the generator's intensity scaling.
        template: geometry of a training case; its direction is kept, its origin too.
    """
    box = bounding_box(anatomy)
    inside = anatomy[box]
    raw = intensity.raw(intensity.normalised(image[(slice(None), *box)]), inside)
    values = np.where(inside, np.maximum(label[box], 0), 0).astype(np.int16)
    back = np.argsort(grid.transpose_forward)
    spacing = tuple(grid.spacing_mm[a] for a in back)
    geometry = Geometry(spacing, template.origin_mm, template.direction)  # type: ignore[arg-type]
    return Case(
        case_id,
        np.ascontiguousarray(raw.transpose(0, *(back + 1)), dtype=np.float32),
        np.ascontiguousarray(values.transpose(back)),
        geometry,
    )
