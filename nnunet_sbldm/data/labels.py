"""Label values and the classes that the networks count them in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nnunet_sbldm.types import LabelArray

BACKGROUND, IGNORED = 1, 255
"""Class indices of background and of voxels with the ignore label."""


def values_of(entry: int | str | Sequence[int | str]) -> tuple[int, ...]:
    """Label values of an entry of ``labels`` in ``dataset.json``: a label, also as text, as nnU-Net takes it, or a region."""
    return tuple(int(v) for v in entry) if isinstance(entry, list | tuple) else (int(entry),)  # type: ignore[arg-type]


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
