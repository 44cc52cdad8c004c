"""The few types that every stage shares, and the one definition of axis order.

Axis order
----------
* *Reader order* ``[C, Z, Y, X]``: what nnU-Net's image readers return. A :class:`Case` is in reader order.
* *Plan order* ``[C, D, H, W]``: reader order after nnU-Net's ``transpose_forward``. Preprocessed arrays,
  grids, slices and latents are in plan order; ``D`` is the slicing axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
LabelArray = NDArray[np.int16]

Axes = tuple[tuple[float, ...], ...]
"""Unit vectors (left, posterior, superior) along the three axes of an array."""

OUTSIDE = -1
"""Value of voxels outside the imaged anatomy (nnU-Net's own convention in preprocessed segmentations)."""


class UserError(Exception):
    """Bad input or a state the user has to change: printed as one sentence, exit code 2."""


class SBLDMWarning(UserWarning):
    """What a user should know, though the work goes on: the commands print it as one line that begins with "warning:"."""


class UnfitGeneratorError(Exception):
    """The generator was judged unfit to produce usable cases: exit code 3."""


class NoRoomError(UserError):
    """No host has room for the lesion that is asked for."""


@dataclass(frozen=True)
class Geometry:
    """Where the voxels of a case lie.

    Attributes:
        spacing_mm: voxel size along (Z, Y, X), the order of the arrays.
        origin_mm: physical position (x, y, z) of the first voxel, SimpleITK convention (LPS).
        direction: row-major 3 x 3 direction cosines, SimpleITK convention (LPS).
    """

    spacing_mm: tuple[float, float, float]
    origin_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    direction: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)

    def array_axes(self, order: Sequence[int] = (0, 1, 2)) -> Axes:
        """Where the axes of the case's arrays point, each a unit vector (left, posterior, superior).

        Args:
            order: of the axes; nnU-Net's ``transpose_forward`` for arrays in plan order.
        """
        of_file = np.reshape(self.direction, (3, 3)).T[::-1]  # the columns are the file's x, y, z; arrays have Z, Y, X
        return tuple(tuple(float(v) for v in of_file[axis]) for axis in order)


@dataclass(frozen=True)
class Case:
    """One image with its label map.

    Attributes:
        case_id: identifier, without channel number or file ending.
        image: [C, Z, Y, X], every channel, raw intensities; exactly 0 outside the anatomy.
        label: [Z, Y, X], integer labels of ``dataset.json`` (never ``OUTSIDE``).
        geometry: spacing, origin and direction.
    """

    case_id: str
    image: FloatArray
    label: LabelArray
    geometry: Geometry

    def __post_init__(self) -> None:
        if self.image.ndim != 4 or self.image.shape[1:] != self.label.shape:
            raise UserError(
                f"Case {self.case_id}: expected an image [C, Z, Y, X] and a label map [Z, Y, X] of one size, "
                f"got {self.image.shape} and {self.label.shape}; image and mask must share their geometry."
            )
