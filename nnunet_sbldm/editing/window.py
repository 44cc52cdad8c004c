"""The window of a host in which an edit is made: the part of it that the generator's grid holds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

LESION_MARGIN = 1.2
"""A lesion fits into its ellipsoid enlarged by this factor, with few exceptions."""


@dataclass(frozen=True)
class Window:
    """The model's grid, laid over a host: centred where the host is smaller, around a voxel where it is larger.

    Attributes:
        shape: (D, H, W) of the grid.
        start: host index of the grid's first voxel, negative where the grid reaches beyond the host.
    """

    shape: tuple[int, int, int]
    start: tuple[int, int, int]

    @staticmethod
    def around(grid_shape: Sequence[int], host_shape: Sequence[int], centre: Sequence[float]) -> Window:
        """The window for a host of ``host_shape`` [voxels] whose interesting part lies around ``centre`` [voxel index]."""
        starts = []
        for g, n, c in zip(grid_shape, host_shape, centre, strict=True):
            middle = math.floor(c - (g - 1) / 2 + 0.5)
            starts.append(-((g - n) // 2) if n <= g else min(max(middle, 0), n - g))
        return Window(tuple(int(g) for g in grid_shape), tuple(starts))  # type: ignore[arg-type]

    def holds(self, host_shape: Sequence[int]) -> bool:
        """Whether all of the host is on the grid."""
        return all(s <= 0 and s + g >= n for g, n, s in zip(self.shape, host_shape, self.start, strict=True))

    def open_faces(self, host_shape: Sequence[int]) -> np.ndarray:
        """[D, H, W] bool, voxels in the first or last plane of the grid where the host goes on beyond it."""
        out = np.zeros(self.shape, bool)
        for axis, (g, n, s) in enumerate(zip(self.shape, host_shape, self.start, strict=True)):
            planes = np.moveaxis(out, axis, 0)
            planes[0] |= s > 0
            planes[-1] |= s + g < n
        return out

    def take(self, array: np.ndarray, fill: float) -> np.ndarray:
        """The host's array [..., D, H, W] on the grid."""
        out = np.full((*array.shape[:-3], *self.shape), fill, dtype=array.dtype)
        host, grid = self._overlap(array.shape[-3:])
        out[grid] = array[host]
        return out

    def put(self, array: np.ndarray, host_shape: Sequence[int], fill: float) -> np.ndarray:
        """Inverse of :meth:`take`: an array on the grid at its place in the host, ``fill`` elsewhere."""
        out = np.full((*array.shape[:-3], *host_shape), fill, dtype=array.dtype)
        host, grid = self._overlap(host_shape)
        out[host] = array[grid]
        return out

    def _overlap(self, host_shape: Sequence[int]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """Indices of the common part in arrays [..., D, H, W] of the host and on the grid."""
        host: list[Any] = [...]
        grid: list[Any] = [...]
        for g, n, s in zip(self.shape, host_shape, self.start, strict=True):
            first, last = max(s, 0), min(s + g, n)
            host.append(slice(first, last))
            grid.append(slice(first - s, last - s))
        return tuple(host), tuple(grid)
