"""The trainings of a study, and the names of what belongs to each: datasets, generators, folders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from nnunet_sbldm.ablation.arms import Arm, ArmKind
from nnunet_sbldm.ablation.jobs import FOLD
from nnunet_sbldm.ablation.split import Subset
from nnunet_sbldm.ablation.study import Study
from nnunet_sbldm.data.paths import DEFAULT_PLANS

IDS_FILE = "datasets.json"


@dataclass(frozen=True)
class ArmRun:
    """One arm trained on one subset."""

    arm: Arm
    subset: Subset

    @property
    def key(self) -> str:
        """As in file names."""
        return f"{self.subset.key}.{self.arm.name}"

    @property
    def generator_subset(self) -> Subset:
        """The cases that its generator is trained on."""
        return replace(self.subset, num_cases=self.arm.generator_cases or self.subset.num_cases)

    @property
    def predictions(self) -> str:
        """Folder of its predictions, relative to the study's."""
        return f"predictions/{self.key}"


def runs_of(study: Study) -> list[ArmRun]:
    """Every training of a study; an oracle is trained once per draw and seed, whatever n it is compared at."""
    repeats = [(draw, seed) for draw in study.draws for seed in study.seeds]
    oracles = [a for a in study.arms if a.num_cases]
    runs = [ArmRun(a, Subset(n, d, s)) for n in study.num_cases for d, s in repeats for a in study.arms if not a.num_cases]
    return runs + [ArmRun(a, Subset(a.num_cases or 0, d, s)) for d, s in repeats for a in oracles]


class DatasetIds:
    """Numbers of the study's own datasets; a number once given stays, so that a study can be extended."""

    def __init__(self, known: Mapping[str, int]) -> None:
        self.known = dict(known)

    def __getitem__(self, key: str) -> int:
        return self.known.setdefault(key, max(self.known.values(), default=0) + 1)

    def name(self, key: str) -> str:
        """``DatasetXXX_Name`` of a subset's dataset."""
        return f"Dataset{self[key]:03d}_{key.replace('_', '')}"


@dataclass(frozen=True)
class StudyRun:
    """A training within its study."""

    study: Study
    ids: DatasetIds
    run: ArmRun

    @property
    def arm(self) -> Arm:
        """Its arm."""
        return self.run.arm

    @property
    def kind(self) -> ArmKind:
        """What the kind of its arm says."""
        return self.arm.definition

    @property
    def subset(self) -> str:
        """Key of its real training cases, and of their dataset."""
        return self.run.subset.key

    @property
    def generator_subset(self) -> str:
        """Key of the cases that its generator is trained on, and of their dataset."""
        return self.run.generator_subset.key

    @property
    def preset(self) -> str:
        """Preset of its generator."""
        return self.arm.preset or self.study.generator.preset

    def pool(self, mode: str) -> str:
        """Name of synthetic cases: the mode that makes them, and the volumes and edits where the arm chooses them."""
        return "_".join([mode, *self.kind.pool_words(self.arm, edits=mode != "generate")])

    def pool_dataset(self, mode: str) -> str:
        """Key of the dataset of the real cases with those that a mode makes."""
        return f"{self.subset}_{self.preset}_{self.pool(mode)}"

    @cached_property
    def dataset(self) -> str:
        """Key of the dataset that is trained: the subset's own, or one with synthetic cases."""
        return self.pool_dataset(self.kind.pool) if self.kind.pool else self.subset

    @property
    def model_folder(self) -> str:
        """Pattern of the folder that nnU-Net trains in, relative to the study's."""
        model = f"{self.kind.trainer}__{DEFAULT_PLANS}__{self.arm.name}"
        return f"nnUNet_results/Dataset{self.ids[self.dataset]:03d}_*/{model}/fold_{FOLD}"


def find_model_folder(run: StudyRun, folder: Path) -> Path | None:
    """Folder that nnU-Net trained a run in; None before it did.

    Args:
        run: the run.
        folder: the study's folder.
    """
    return next(iter(folder.glob(run.model_folder)), None)
