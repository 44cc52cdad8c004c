"""Boxes of arrays: the smallest that holds something, and fitting an array into a shape."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage


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
    found = ndimage.find_objects(mask.view(np.int8) if mask.dtype == bool else mask.astype(np.int8), max_label=1)[0]
    if found is None:
        return tuple(slice(0, n) for n in mask.shape)
    sides = zip(found, margin, mask.shape, strict=True)
    return tuple(slice(max(s.start - m, 0), min(s.stop + m, n)) for s, m, n in sides)
