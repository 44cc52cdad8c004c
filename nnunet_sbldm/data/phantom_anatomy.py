"""Anatomy of the phantom: soft-edged ellipsoids for the tissues of a head, and a lobulated tumour of exact volume.

Coordinates are in mm along (Z, Y, X), which run to superior, posterior and left; ``unit`` coordinates are relative to
the semi-axes of the brain.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

EDGE_MM = 2.5
"""Width over which one tissue fades into the next (partial volume)."""
SCALP_AND_SKULL_MM = 11.0
"""Depth of the brain's surface below the skin."""
CENTRING_ROUNDS = 4

TISSUES = {  # tissue -> intensity in (FLAIR, T1) relative to white matter
    "scalp": (0.75, 1.25),
    "skull": (0.14, 0.12),
    "csf": (0.20, 0.30),
    "grey": (1.30, 0.70),
    "white": (1.00, 1.00),
    "nuclei": (1.22, 0.78),
    "ventricles": (0.16, 0.26),
}


@dataclass(frozen=True)
class Anatomy:
    """One head.

    Attributes:
        semi_axes_mm: [3] semi-axes of the head.
        rotation: [3, 3] rotation from the head's upright frame to the scanner's.
        shift_mm: [3] position of the head's centre.
        folding_phase: [3] phases of the gyri in radians.
        ventricle_size: size of the ventricles, 1 on average.
    """

    semi_axes_mm: np.ndarray
    rotation: np.ndarray
    shift_mm: np.ndarray
    folding_phase: np.ndarray
    ventricle_size: float

    @property
    def brain_axes_mm(self) -> np.ndarray:
        """[3] semi-axes of the brain."""
        return self.semi_axes_mm - SCALP_AND_SKULL_MM

    def to_head(self, mm: np.ndarray) -> np.ndarray:
        """Scanner coordinates [..., 3] in the head's own upright frame."""
        return (mm - self.shift_mm) @ self.rotation

    def box_fraction(self, head_mm: np.ndarray) -> np.ndarray:
        """A point [3] of the upright frame as fractions of the head's bounding box in the scanner's frame."""
        half_mm = np.sqrt(((self.rotation * self.semi_axes_mm) ** 2).sum(axis=1))
        return (self.rotation @ head_mm + half_mm) / (2 * half_mm)


@dataclass(frozen=True)
class Tumour:
    """One tumour.

    Attributes:
        centre_mm: [3] centroid in the head's upright frame.
        volume_ml: volume.
        axes: [3] relative semi-axes.
        bumps: [3, 3] directions of the waves on its surface.
    """

    centre_mm: np.ndarray
    volume_ml: float
    axes: np.ndarray
    bumps: np.ndarray


def rotation_matrix(angles: np.ndarray) -> np.ndarray:
    """Rotation about the three axes in turn by angles in radians."""
    matrix = np.eye(3)
    for axis, angle in enumerate(angles):
        i, j = (a for a in range(3) if a != axis)
        turn = np.eye(3)
        turn[[i, i, j, j], [i, j, i, j]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
        matrix = matrix @ turn
    return matrix


def radius(x: np.ndarray) -> np.ndarray:
    """Euclidean norm along the last axis."""
    return np.sqrt((x**2).sum(axis=-1))


# --- tissues -------------------------------------------------------------------------------------------------------


def paint_tissues(head_mm: np.ndarray, anatomy: Anatomy) -> np.ndarray:
    """Noise-free anatomy [2, Z, Y, X] relative to white matter, painted from the skin inwards."""
    image = np.zeros((2, *head_mm.shape[:3]))
    for tissue, depth_mm in (("scalp", 0.8), ("skull", 5.0), ("csf", 9.0), ("grey", SCALP_AND_SKULL_MM)):
        axes_mm = anatomy.semi_axes_mm - depth_mm
        image = _over(image, tissue, _inside(radius(head_mm / axes_mm), float(axes_mm.mean())))
    unit = head_mm / anatomy.brain_axes_mm
    scale_mm = float(anatomy.brain_axes_mm.mean())
    image = _over(image, "white", _inside(radius(unit) / (0.84 + _folding(unit, anatomy.folding_phase)), scale_mm))
    image = _over(image, "csf", _fissure(head_mm, unit))
    for tissue, centre, size in _deep_structures(anatomy.ventricle_size):
        share = _inside(radius((unit - centre) / size), float(np.mean(size)) * scale_mm)
        image = _over(image, tissue, share)
    return image


def _over(image: np.ndarray, tissue: str, share: np.ndarray) -> np.ndarray:
    return image * (1 - share) + np.reshape(TISSUES[tissue], (2, 1, 1, 1)) * share


def _inside(r: np.ndarray, scale_mm: float) -> np.ndarray:
    """Share of each voxel inside radius 1, with a soft edge; ``scale_mm`` is the length of radius 1."""
    return 1 / (1 + np.exp(np.clip((r - 1) * scale_mm * 4 / EDGE_MM, -30, 30)))


def _folding(unit: np.ndarray, phase: np.ndarray) -> np.ndarray:
    """Gyri: how far the border of white matter moves in and out, relative to the brain's radius."""
    z, y, x = np.moveaxis(unit, -1, 0)
    around = np.arctan2(y, np.abs(x))
    return 0.08 * np.sin(9 * around + phase[0] + 2 * z) * np.cos(5 * z + phase[1]) + 0.05 * np.sin(14 * around + phase[2])


def _fissure(head_mm: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """Cerebrospinal fluid between the hemispheres, deepest at front, back and vertex."""
    depth = np.clip((radius(unit[..., :2]) - 0.5) * 4, 0, 1) * (unit[..., 0] > -0.4) * (radius(unit) < 1)
    return 0.7 * depth * np.exp(-((head_mm[..., 2] / 2.0) ** 2))


def _deep_structures(ventricle_size: float) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Tissue, centre and semi-axes of deep structures, all relative to the brain's semi-axes."""
    s, structures = ventricle_size, []
    for side in (-1, 1):
        structures += [
            ("nuclei", np.array([-0.02, 0.02, side * 0.34]), np.array([0.26, 0.30, 0.13])),
            ("ventricles", np.array([0.16, -0.16, side * 0.12]), np.array([0.24, 0.26, 0.08]) * s),
            ("ventricles", np.array([0.14, 0.26, side * 0.20]), np.array([0.22, 0.28, 0.09]) * s),
        ]
    return structures


# --- tumour --------------------------------------------------------------------------------------------------------


def grow(
    tumour: Tumour, head_mm: np.ndarray, brain: np.ndarray, voxel_ml: float, core_fraction: float
) -> tuple[np.ndarray, np.ndarray]:
    """Masks of a tumour and of its core, bool [Z, Y, X].

    The tumour is the set of voxels nearest to its centre, as many as its volume asks for; its centre is moved until the
    centroid of that set lies where it was asked for.
    """
    count = max(1, round(tumour.volume_ml / voxel_ml))
    centre_mm = tumour.centre_mm
    for _ in range(CENTRING_ROUNDS):
        order = _nearest_first(tumour, centre_mm, head_mm, brain)
        mask = _first(order, count, brain.shape)
        centre_mm = centre_mm + tumour.centre_mm - head_mm[mask].mean(axis=0)
    return mask, _first(order, round(count * core_fraction), brain.shape)


def _nearest_first(tumour: Tumour, centre_mm: np.ndarray, head_mm: np.ndarray, brain: np.ndarray) -> np.ndarray:
    """Flat indices of voxels by their distance from the centre, measured in lobulated shells."""
    offset = (head_mm - centre_mm) / tumour.axes
    direction = offset / np.maximum(radius(offset), 1e-6)[..., None]
    bumps = 0.1 * np.sin(2.5 * direction @ tumour.bumps + 2 * tumour.bumps.sum(axis=1)).sum(axis=-1)
    return np.argsort(np.where(brain, radius(offset) / (1 + bumps), np.inf), axis=None, kind="stable")


def _first(order: np.ndarray, count: int, shape: tuple[int, ...]) -> np.ndarray:
    mask = np.zeros(int(np.prod(shape)), bool)
    mask[order[:count]] = True
    return mask.reshape(shape)


def paint_over(tissue: np.ndarray, mask: np.ndarray, intensity: float, spacing_mm: tuple[float, ...]) -> np.ndarray:
    """Give the voxels of ``mask`` an intensity, with a soft edge."""
    share = ndimage.gaussian_filter(mask.astype(np.float64), 0.3 * EDGE_MM / np.asarray(spacing_mm))
    return tissue * (1 - share) + intensity * share
