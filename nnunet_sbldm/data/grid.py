"""The generator's grid, configured from the dataset, and the way from it back to a case in reader order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from nnunet_sbldm.types import Axes, Case, FloatArray, Geometry, LabelArray

LARGE_IN_PLANE = 128
MIN_SLICES = 4
MIN_OUTSIDE_SHARE = 0.005
"""Mean share of air in the training cases' crops above which the shape of the anatomy is generated."""


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


def in_reader_order(case_id: str, image: FloatArray, label: LabelArray, grid: Grid, template: Geometry) -> Case:
    """Turn arrays in plan order into a case in reader order.

    Args:
        case_id: identifier of the case.
        image: [C, d, h, w] raw intensities.
        label: [d, h, w] label values.
        grid: its axes and spacing.
        template: geometry of a training case; its direction is kept, its origin too.
    """
    back = np.argsort(grid.transpose_forward)
    spacing = tuple(grid.spacing_mm[a] for a in back)
    return Case(
        case_id,
        np.ascontiguousarray(image.transpose(0, *(back + 1)), dtype=np.float32),
        np.ascontiguousarray(label.transpose(back)),
        Geometry(spacing, template.origin_mm, template.direction),  # type: ignore[arg-type]
    )


def nearest_axes(axes: Axes) -> str:
    """Letters of the directions in which the axes of an array run, as ``SPL``: the nearest ones where they are oblique."""
    letters = ("RL", "AP", "IS")  # the two ends of left, posterior and superior
    nearest = [int(np.abs(axis).argmax()) for axis in axes]
    return "".join(letters[i][axis[i] > 0] for i, axis in zip(nearest, axes, strict=True))


def left_right_axis(geometry: Geometry, order: Sequence[int] = (0, 1, 2)) -> int:
    """Axis of an array that runs most along the patient's left-right direction.

    Args:
        geometry: of the case itself.
        order: of the array's axes; nnU-Net's ``transpose_forward`` for arrays in plan order.
    """
    toward_left = np.abs(np.asarray(geometry.direction).reshape(3, 3)[0])  # per image axis x, y, z
    reader_axis = 2 - int(np.argmax(toward_left))
    return list(order).index(reader_axis)
