"""Augmented copies of few training cases: mild rotation, scaling, intensity changes, and mirroring where anatomy allows.

The copies are made once and lie beside the real cases, so both stages see the same ones and the conditions of each are
measured like those of a real case. A transform that would push anatomy off the grid is weakened until it does not.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.spatial.distance import cdist

from nnunet_sbldm.data.boxes import bounding_box
from nnunet_sbldm.data.grid import Grid
from nnunet_sbldm.data.intensities import FILL
from nnunet_sbldm.data.labels import IGNORED
from nnunet_sbldm.generator.presets import AugmentationConfig
from nnunet_sbldm.types import FloatArray

MAX_LOST_SHARE = 0.01
"""Largest share of the anatomy, and of the foreground, that a transform may push off the grid."""
NUM_TRIES = 6
MAX_MIRRORED_DISTANCE = 1.1
"""A mirrored case may be so much farther from its nearest other case than the case itself, in the median."""
COARSE_SHAPE = (12, 16, 16)
THICK_SLICES = 2.0
"""Slices thicker than this many pixels are rotated within their plane alone."""


def num_copies(num_cases: int, config: AugmentationConfig) -> int:
    """Augmented copies of every case: enough for ``config.num_wanted`` in total, at most ``config.max_copies``."""
    return min(config.max_copies, max(0, -(-config.num_wanted // num_cases) - 1))


@dataclass(frozen=True)
class Augmenter:
    """Draws augmented copies of cases on a grid.

    Attributes:
        config: strengths.
        grid: the generator's grid.
        mirrored_axis: axis of (D, H, W) along which cases may be mirrored; None for none.
    """

    config: AugmentationConfig
    grid: Grid
    mirrored_axis: int | None

    def copy(self, image: FloatArray, classes: np.ndarray, rng: np.random.Generator) -> tuple[FloatArray, np.ndarray]:
        """One augmented copy.

        Args:
            image: [C, D, H, W] in network scale.
            classes: [D, H, W] uint8 class indices.
            rng: source of everything random.
        """
        if self.mirrored_axis is not None and rng.random() < 0.5:
            image, classes = np.flip(image, self.mirrored_axis + 1), np.flip(classes, self.mirrored_axis)
        image, classes = self._transformed(image, classes, rng)
        return self._recoloured(image, rng), classes

    def _transformed(
        self, image: FloatArray, classes: np.ndarray, rng: np.random.Generator
    ) -> tuple[FloatArray, np.ndarray]:
        angles = np.deg2rad(rng.uniform(-1, 1, 3) * self.config.max_rotation_deg)
        if self.grid.spacing_mm[0] > THICK_SLICES * min(self.grid.spacing_mm[1:]):
            angles[1:] = 0
        log_scale = rng.uniform(-1, 1) * np.log1p(self.config.max_scaling)
        box = bounding_box(classes > 0) if self.grid.outside_is_box else tuple(slice(0, n) for n in classes.shape)
        inner_image, inner_classes = image[(slice(None), *box)], classes[box]
        for strength in 0.5 ** np.arange(NUM_TRIES):
            matrix = _rotation(strength * angles) * np.exp(-strength * log_scale)
            if self._stays_on_grid(inner_classes, matrix):
                new_image, new_classes = image.copy(), classes.copy()
                new_image[(slice(None), *box)] = warp_image(inner_image, matrix, self.grid)
                new_classes[box] = warp_classes(inner_classes, matrix, self.grid)
                return np.where(new_classes == 0, FILL, new_image), new_classes
        return image, classes

    def _stays_on_grid(self, classes: np.ndarray, matrix: np.ndarray) -> bool:
        """Whether foreground, and anatomy unless it fills the grid anyway, lands inside when moved by ``matrix``'s inverse."""
        back, _ = _in_voxels(np.linalg.inv(matrix), self.grid.spacing_mm, classes.shape)
        centre = (np.asarray(classes.shape) - 1) / 2
        for mask in (classes > 1,) if self.grid.outside_is_box else (classes > 1, classes > 0):
            landed = (np.argwhere(mask) - centre) @ back.T
            if len(landed) and (np.abs(landed) > centre + 0.5).any(axis=1).mean() > MAX_LOST_SHARE:
                return False
        return True

    def _recoloured(self, image: FloatArray, rng: np.random.Generator) -> FloatArray:
        """Gain and gamma per channel, around the middle of the network scale."""
        shape = (len(image), 1, 1, 1)
        gain = np.exp(rng.uniform(-1, 1, shape) * np.log1p(self.config.max_gain))
        gamma = np.exp(rng.uniform(-1, 1, shape) * np.log1p(self.config.max_gamma))
        unit = np.clip((image + 1) / 2, 0, 1)
        return (image + 2 * (unit**gamma - unit)) * gain


def warp_image(image: FloatArray, matrix: np.ndarray, grid: Grid) -> FloatArray:
    """Resample [C, D, H, W] about its centre with cubic splines; ``matrix`` maps new to old millimetres."""
    matrix, offset = _in_voxels(matrix, grid.spacing_mm, image.shape[1:])
    mode = "nearest" if grid.outside_is_box else "constant"
    warped = [ndimage.affine_transform(c, matrix, offset, order=3, mode=mode, cval=FILL) for c in image.astype(np.float32)]
    return np.clip(np.stack(warped), image.min(), image.max())


def warp_classes(classes: np.ndarray, matrix: np.ndarray, grid: Grid) -> np.ndarray:
    """Resample class indices [D, H, W]: each class linearly, then the largest."""
    matrix, offset = _in_voxels(matrix, grid.spacing_mm, classes.shape)
    mode = "nearest" if grid.outside_is_box else "constant"
    values = np.unique(np.append(classes, 0))
    shares = [
        ndimage.affine_transform((classes == v).astype(np.float32), matrix, offset, order=1, mode=mode, cval=float(v == 0))
        for v in values
    ]
    return values[np.argmax(shares, axis=0)].astype(classes.dtype)


def _in_voxels(matrix: np.ndarray, spacing_mm: Sequence[float], shape: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    spacing, centre = np.asarray(spacing_mm), (np.asarray(shape) - 1) / 2
    matrix = matrix * spacing[None] / spacing[:, None]
    return matrix, centre - matrix @ centre


def _rotation(angles: np.ndarray) -> np.ndarray:
    """Rotation about the axes (D, H, W), one after the other."""
    out = np.eye(3)
    for axis, angle in enumerate(angles):
        i, j = (a for a in range(3) if a != axis)
        one = np.eye(3)
        one[[i, j], [i, j]] = np.cos(angle)
        one[i, j], one[j, i] = -np.sin(angle), np.sin(angle)
        out = out @ one
    return out


def may_be_mirrored(images: np.ndarray, classes: np.ndarray, axes: Sequence[int]) -> bool:
    """Whether mirrored cases look like cases: no farther from other cases than the cases themselves, image and labels.

    Args:
        images: [N, C, D, H, W].
        classes: [N, D, H, W].
        axes: N axes of (D, H, W): that of each case between its left and right.
    """
    if len(images) < 2:
        return False
    labels = range(2, 1 + max(int(c[c != IGNORED].max(initial=0)) for c in classes))
    coarse = np.stack([_coarse(i, c, labels) for i, c in zip(images, classes, strict=True)])  # [N, C + K, D', H', W']
    mirrored = np.stack([np.flip(volumes, axis + 1) for volumes, axis in zip(coarse, axes, strict=True)])
    for part in (slice(0, images.shape[1]), slice(images.shape[1], None)):
        flat, flipped = coarse[:, part].reshape(len(coarse), -1), mirrored[:, part].reshape(len(coarse), -1)
        own, other = cdist(flat, flat), cdist(flipped, flat)
        for distances in (own, other):
            np.fill_diagonal(distances, np.inf)
        if np.median(other.min(axis=1)) > MAX_MIRRORED_DISTANCE * np.median(own.min(axis=1)):
            return False
    return True


def _coarse(image: np.ndarray, classes: np.ndarray, labels: Iterable[int]) -> np.ndarray:
    """Image channels and the share of every label on a coarse grid: [C + K, D', H', W']."""
    factors = [min(1.0, s / n) for s, n in zip(COARSE_SHAPE, classes.shape, strict=True)]
    volumes = [*image.astype(np.float32), *((classes == k).astype(np.float32) for k in labels)]
    smooth = (ndimage.gaussian_filter(v, 0.5 / np.array(factors)) for v in volumes)
    return np.stack([ndimage.zoom(v, factors, order=1, mode="nearest") for v in smooth])  # rounding may leave the last voxel
