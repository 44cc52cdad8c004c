"""What is to be trained: which cases, how large, from which start."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_sbldm.data.dataset import NnunetDataset
from nnunet_sbldm.data.paths import Fold
from nnunet_sbldm.generator.checkpoint import generator_folder
from nnunet_sbldm.generator.presets import Preset
from nnunet_sbldm.training.finetuning import InitialModel


@dataclass(frozen=True)
class TrainingRequest:
    """A training that is asked for, with every choice made.

    Attributes:
        dataset: preprocessed nnU-Net dataset.
        fold: fold the cases train in.
        preset: sizes and lengths; with ``initial`` its own, see :meth:`InitialModel.preset`.
        case_ids: real cases that the model may see; nothing else of the dataset is looked at.
        seed: seed of initialisation and training order.
        initial: the initial model; None trains from scratch.
    """

    dataset: NnunetDataset
    fold: Fold
    preset: Preset
    case_ids: Sequence[str]
    seed: int = 0
    initial: InitialModel | None = None

    @property
    def folder(self) -> Path:
        """The checkpoint folder."""
        return generator_folder(self.dataset, self.preset.name, self.fold)

    def identity(self) -> list[Any]:
        """What decides the result, as JSON: an unfinished run is gone on with if its own is the same."""
        beginning = [self.initial.model.hash, dict(self.initial.renamed)] if self.initial else []
        return [self.dataset.plans_hash(), list(self.case_ids), self.seed, self.preset.as_text(), *beginning]
