"""Cases on the generator's grid, as they are laid there for training.

Real and synthetic cases alike have gone through nnU-Net's preprocessing and lie on the grid in the generator's intensity
scale, an affine map of nnU-Net's normalised intensities.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nnunet_sbldm.data.slices import TrainingArrays
from nnunet_sbldm.generator.plan import GeneratorPlan
from nnunet_sbldm.types import FloatArray, LabelArray


@dataclass(frozen=True)
class CaseSet:
    """Cases on the generator's grid.

    Attributes:
        case_ids: identifiers.
        arrays: images and classes, memory-mapped.
        plan: the generator's plan.
    """

    case_ids: tuple[str, ...]
    arrays: TrainingArrays
    plan: GeneratorPlan

    @staticmethod
    def collect(
        folder: Path, plan: GeneratorPlan, case_ids: Sequence[str], cases: Iterable[tuple[FloatArray, LabelArray]]
    ) -> CaseSet:
        """Lay preprocessed cases (image [C, D, H, W], label [D, H, W]) on the grid, as for training."""
        arrays = TrainingArrays.create(folder, len(case_ids), len(plan.channel_names), plan.grid.shape)
        for i, (image, label) in enumerate(cases):
            arrays.put(i, *plan.to_network(image, label))
        return CaseSet(tuple(case_ids), arrays, plan)

    def __len__(self) -> int:
        return len(self.case_ids)

    def image(self, index: int) -> FloatArray:
        """[C, D, H, W] in network scale, ``FILL`` outside."""
        return np.asarray(self.arrays.images[index], dtype=np.float32)

    def classes(self, index: int) -> np.ndarray:
        """[D, H, W] class indices, ``IGNORED`` where ignored."""
        return np.asarray(self.arrays.classes[index])

    def label(self, index: int) -> LabelArray:
        """[D, H, W] label values; ignored voxels are background."""
        return self.plan.encoding.decode(self.classes(index))
