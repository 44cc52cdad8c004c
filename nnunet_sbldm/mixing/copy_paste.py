"""The copy-paste baseline: the foreground of one training case pasted into another, without any generator.

After CarveMix: Zhang et al., "CarveMix: A Simple Data Augmentation Method for Brain Lesion Segmentation", MICCAI 2021
and NeuroImage 2023, written anew from the papers' idea. The region that is carved out is a level set of the
signed distance to the donor's lesion. Here cases need not be registered: the region goes to the same relative place of the host's
box, and never out of its imaged anatomy. Donor and host are training cases of one fold, in preprocessed form.

Light on purpose: nnU-Net's background workers import it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, find_objects

from nnunet_sbldm.mixing.dataset import CaseSource, LoadedCase, ReadySource
from nnunet_sbldm.types import OUTSIDE, LabelArray, UserError

NUM_COMPOSITES = 1000
"""Different composites that a training can draw; nnU-Net's augmentation varies each draw of one of them."""

ISOTROPIC = (1.0, 1.0, 1.0)

Box = tuple[slice, ...]
ClassLocations = dict[Any, NDArray[np.int64]]
"""nnU-Net's voxels to sample foreground from: label or region -> [N, 4], column 0 is 0."""


class CopyPasteSource(ReadySource):
    """Composites of two training cases, each of them decided by its id alone.

    Attributes:
        identifiers: ids of the composites.
    """

    def __init__(
        self, real: CaseSource, spacing_mm: Sequence[float] = ISOTROPIC, ignore_label: int | None = None,
        num_composites: int = NUM_COMPOSITES,
    ) -> None:
        """Compose the cases of ``real``, whose voxels (D, H, W) have the size ``spacing_mm``.

        Raises:
            UserError: fewer than two cases, or none with foreground.
        """
        self._real, self._spacing_mm, self._ignore_label = real, tuple(spacing_mm), ignore_label
        self._hosts = tuple(map(str, real.identifiers))
        self._donors = tuple(c for c in self._hosts if has_foreground(real.load_case(c)[3]["class_locations"]))
        if len(self._hosts) < 2 or not self._donors:
            raise UserError("Copy-paste needs two training cases, at least one of them with foreground, and this fold has "
                            f"{len(self._hosts)} and {len(self._donors)}: train on real cases with ratio 0 (sbldm_configure).")
        self.identifiers = tuple(f"copy_paste_{i:04d}" for i in range(num_composites))

    def load_case(self, identifier: str) -> LoadedCase:
        """Compose a case; the same id gives the same arrays."""
        rng = np.random.default_rng(int(identifier.rsplit("_", 1)[1]))
        donor = str(rng.choice(self._donors))
        host = str(rng.choice([c for c in self._hosts if c != donor]))
        level = rng.uniform(-0.5, 0) if rng.random() < 0.5 else rng.uniform(0, 1)
        return paste(self._real.load_case(donor), self._real.load_case(host), level, self._spacing_mm, self._ignore_label)

    def __str__(self) -> str:
        return f"{len(self.identifiers)} copy-paste composites of {len(self._hosts)} training cases"


def has_foreground(locations: Mapping[Any, Sequence[Any]]) -> bool:
    """Whether a case has foreground; the entry for "anything annotated", used with an ignore label, is none."""
    return any(len(points) > 0 for key, points in locations.items() if not (isinstance(key, tuple) and OUTSIDE in key))


def paste(
    donor: LoadedCase, host: LoadedCase, level: float, spacing_mm: Sequence[float] = ISOTROPIC, ignore_label: int | None = None
) -> LoadedCase:
    """Paste the donor's foreground, shrunk or grown to ``level``, into a copy of the host.

    Args:
        donor: image [C, D, H, W], segmentation [1, D, H, W] with ``OUTSIDE`` marks, None, and properties; has foreground.
        host: likewise.
        level: level of the signed distance at which to carve, from -1 (nothing) over 0 (the lesion) to 1 (grown by its own
            largest inner distance).
        spacing_mm: voxel size along (D, H, W).
        ignore_label: label that is no foreground.

    Returns:
        The composite, as nnU-Net's datasets load a case.
    """
    donor_label, image, label = np.asarray(donor[1][:])[0], np.array(host[0][:]), np.array(host[1][:])
    region = carve(donor_label, level, spacing_mm, ignore_label).moved_into(donor_label.shape, label[0])
    target, mask = (slice(None), *region.target), region.mask
    image[target][:, mask] = donor[0][(slice(None), *region.source)][:, mask]
    label[target][:, mask] = donor_label[region.source][mask]
    locations = region.locations_after(donor[3]["class_locations"], host[3]["class_locations"])
    return image, label, None, {**host[3], "class_locations": locations}


@dataclass(frozen=True)
class PastedRegion:
    """A region of a donor and where in a host it goes.

    Attributes:
        source: its box in the donor.
        target: its box in the host, of the same size.
        mask: [d, h, w] bool, the voxels of the box that are pasted.
        centre: centre of the lesion in the donor, in voxels.
    """

    source: Box
    target: Box
    mask: NDArray[np.bool_]
    centre: tuple[float, ...]

    def moved_into(self, donor_shape: Sequence[int], host_label: LabelArray) -> PastedRegion:
        """The part of the region that fits into the host's anatomy, at the same relative place."""
        sources, targets, parts = [], [], []
        for box, centre, donor_size, host_size in zip(self.source, self.centre, donor_shape, host_label.shape, strict=True):
            shift = round(centre * (host_size / donor_size - 1))
            start, stop = max(box.start + shift, 0), min(box.stop + shift, host_size)
            targets.append(slice(start, stop))
            sources.append(slice(start - shift, stop - shift))
            parts.append(slice(start - shift - box.start, stop - shift - box.start))
        target = tuple(targets)
        return PastedRegion(tuple(sources), target, self.mask[tuple(parts)] & (host_label[target] != OUTSIDE), self.centre)

    def locations_after(self, donor: Mapping[Any, Any], host: Mapping[Any, Any]) -> ClassLocations:
        """Voxels to sample foreground from in the composite: the host's outside the region and the donor's inside it."""
        shift = np.array([t.start - s.start for t, s in zip(self.target, self.source, strict=True)])
        merged = {}
        for key in {**host, **donor}:
            kept, pasted = _points(host, key), _points(donor, key)
            pasted[:, 1:] += shift
            merged[key] = np.concatenate([kept[~self._covers(kept)], pasted[self._covers(pasted)]])
        return merged

    def _covers(self, points: NDArray[np.int64]) -> NDArray[np.bool_]:
        """[N] bool: which of the host's voxels [N, 4] are pasted over."""
        inner = points[:, 1:] - [s.start for s in self.target]
        covered = ((inner >= 0) & (inner < self.mask.shape)).all(1)
        covered[covered] = self.mask[tuple(inner[covered].T)]
        return covered


def carve(
    label: LabelArray, level: float, spacing_mm: Sequence[float] = ISOTROPIC, ignore_label: int | None = None
) -> PastedRegion:
    """The level set of the signed distance to a case's foreground; its target is its own place.

    Args:
        label: [D, H, W], with foreground.
        level: as in :func:`paste`.
        spacing_mm: voxel size along (D, H, W).
        ignore_label: label that is no foreground.
    """
    lesion = (label > 0) & (label != ignore_label)
    (tight,) = find_objects(lesion.astype(np.uint8))
    bound_mm = min(((s.stop - s.start) // 2 + 1) * mm for s, mm in zip(tight, spacing_mm, strict=True))  # none lies deeper
    margins = [int(bound_mm // mm) + 1 for mm in spacing_mm]
    box = tuple(slice(max(s.start - m, 0), min(s.stop + m, n)) for s, m, n in zip(tight, margins, label.shape, strict=True))
    inside = lesion[box]
    depth = distance_transform_edt(np.pad(inside, 1), spacing_mm)[1:-1, 1:-1, 1:-1]
    signed = distance_transform_edt(~inside, spacing_mm) - depth
    centre = tuple((s.start + s.stop) / 2 for s in tight)
    return PastedRegion(box, box, (signed <= level * depth.max()) & (label[box] != OUTSIDE), centre)


def _points(locations: Mapping[Any, Any], key: Any) -> NDArray[np.int64]:
    return np.array(locations.get(key, ()), dtype=np.int64).reshape(-1, 4)
