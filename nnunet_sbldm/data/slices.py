"""Training data of the generator: nnU-Net's preprocessed cases on the grid, cut into slices.

Cases are read once into memory-mapped arrays, so memory stays small however many cases there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nnunet_sbldm.data.intensities import FILL
from nnunet_sbldm.data.labels import IGNORED

FOREGROUND_WEIGHT = 3.0
EMPTY_WEIGHT = 0.05


@dataclass(frozen=True)
class TrainingArrays:
    """All training cases on the grid.

    Attributes:
        images: float16 [N, C, D, H, W], network scale, ``FILL`` outside.
        classes: uint8 [N, D, H, W], class indices, ``IGNORED`` where unknown.
    """

    images: np.ndarray
    classes: np.ndarray

    @staticmethod
    def create(folder: Path, num_cases: int, num_channels: int, shape: Sequence[int]) -> TrainingArrays:
        """New arrays on disk."""
        folder.mkdir(parents=True, exist_ok=True)
        make = np.lib.format.open_memmap
        return TrainingArrays(
            make(folder / "images.npy", "w+", np.float16, (num_cases, num_channels, *shape)),
            make(folder / "classes.npy", "w+", np.uint8, (num_cases, *shape)),
        )

    @staticmethod
    def open(folder: Path) -> TrainingArrays:
        """Arrays that :meth:`create` made."""
        return TrainingArrays(np.load(folder / "images.npy", mmap_mode="r"), np.load(folder / "classes.npy", mmap_mode="r"))

    def put(self, index: int, image: np.ndarray, classes: np.ndarray) -> None:
        """Store one case; image values outside the anatomy become ``FILL``."""
        self.images[index] = np.where(classes == 0, FILL, image)
        self.classes[index] = classes

    def slice_weights(self) -> np.ndarray:
        """Drawing probability of every slice [N * D]: slices with foreground more often, empty ones seldom."""
        foreground = np.array([((c > 1) & (c != IGNORED)).any(axis=(1, 2)) for c in self.classes])
        anatomy = np.array([(c > 0).any(axis=(1, 2)) for c in self.classes])
        weights = np.where(foreground, FOREGROUND_WEIGHT, np.where(anatomy, 1.0, EMPTY_WEIGHT)).ravel()
        return weights / weights.sum()

    def crops(self, indices: np.ndarray, side: int, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Crops of slices: image [B, C, h, w], classes [B, h, w] int64, position of the slice [B] in [0, 1].

        A crop holds a random voxel of the anatomy; half of those of slices with foreground, a voxel of that.

        Args:
            indices: flat indices [B] of slices, into N * D.
            side: largest side of a crop in pixels; slices that are smaller stay whole.
            rng: source of randomness.
        """
        image, classes, position = self._slices(indices)
        shape = np.array(image.shape[2:])
        size = np.minimum(shape, side)
        pairs = []
        for pixels, labels in zip(image, classes, strict=True):
            foreground = (labels > 1) & (labels != IGNORED)
            inside = foreground if foreground.any() and rng.random() < 0.5 else labels > 0
            places = inside.nonzero().numpy()
            place = rng.choice(places) if len(places) else shape // 2
            y, x = (place - rng.integers(size)).clip(0, shape - size)
            window = (slice(y, y + size[0]), slice(x, x + size[1]))
            pairs.append((pixels[(slice(None), *window)], labels[window]))
        crops, cropped_labels = zip(*pairs, strict=True)
        return torch.stack(crops), torch.stack(cropped_labels), position

    def _slices(self, indices: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        """Whole slices, as :meth:`crops` gives crops."""
        case, d = np.divmod(indices, self.classes.shape[1])
        image = torch.from_numpy(np.stack([self.images[n, :, i] for n, i in zip(case, d, strict=True)]).astype(np.float32))
        classes = torch.from_numpy(np.stack([self.classes[n, i] for n, i in zip(case, d, strict=True)]).astype(np.int64))
        return image, classes, torch.from_numpy(slice_positions(self.classes.shape[1])[d])


def slice_positions(num_slices: int) -> np.ndarray:
    """Normalised position of every slice, float32 [D] from 0 to 1: the argument of l(i)."""
    return np.linspace(0, 1, num_slices, dtype=np.float32)
