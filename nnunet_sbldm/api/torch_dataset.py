"""Synthetic cases as a dataset of torch, for training loops of one's own."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from nnunet_sbldm.api.drawing import Drawer
from nnunet_sbldm.api.sample import Sample
from nnunet_sbldm.data.boxes import to_grid


class SampleDataset(IterableDataset[dict[str, Any]]):
    """Synthetic cases, drawn while they are needed.

    Every worker of a ``DataLoader`` draws its own share: case i belongs to worker i modulo their number and depends on its seed
    alone, so the cases are the same for any number of workers. On a GPU use ``num_workers=0``, or workers that are spawned.

    Each item is a dictionary:

    * ``image``: float32 [C, D, H, W], raw intensities, exactly 0 outside the anatomy;
    * ``label``: int64 [1, D, H, W], the label values of ``dataset.json``;
    * ``spacing_mm``: float32 [3], voxel size along (D, H, W);
    * ``case_id`` and ``seed``.

    (D, H, W) is reader order (Z, Y, X). Every item has the size of the model's grid, with the anatomy in the middle, so that
    items can be put into one batch.

    Examples:
        >>> dataset = SBLDM.load("hippocampus_t1").dataset(100)
        >>> for batch in torch.utils.data.DataLoader(dataset, batch_size=2):
        ...     train_on(batch["image"], batch["label"])
    """

    def __init__(self, drawer: Drawer, num_cases: int | None) -> None:
        super().__init__()
        self.drawer, self.num_cases = drawer, num_cases

    def samples(self) -> Iterator[Sample]:
        """The cases of this worker as :class:`Sample`, one after another; none is kept."""
        worker = get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        numbers = count(first, step) if self.num_cases is None else range(first, self.num_cases, step)
        return self.drawer.draw(numbers)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return map(self._item, self.samples())

    def _item(self, sample: Sample) -> dict[str, Any]:
        grid = self.drawer.model.plan.grid
        shape = [grid.shape[a] for a in np.argsort(grid.transpose_forward)]
        return {
            "image": torch.from_numpy(np.ascontiguousarray(to_grid(sample.image, shape, 0))),
            "label": torch.from_numpy(to_grid(sample.label, shape, 0)[None].astype(np.int64)),
            "spacing_mm": torch.tensor(sample.spacing_mm),
            "case_id": sample.case_id,
            "seed": sample.record.seed,
        }
