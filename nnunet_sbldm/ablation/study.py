"""An ablation study: arms, numbers of real cases, draws, seeds, and how all of them are trained."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, TypeAdapter, WithJsonSchema
from pydantic.dataclasses import dataclass

from nnunet_sbldm.ablation.arms import Arm
from nnunet_sbldm.ablation.settings import (
    Count,
    GeneratorSettings,
    RunSettings,
    StudyEvaluation,
    StudyTraining,
    Text,
    Whole,
)
from nnunet_sbldm.common.validation import FILE, Different, MustBe, OneOrSeveral, text

PHANTOM = "phantom"
TEST_FOLDER = "imagesTs"


def _without_zeros(dataset: Any) -> str:
    word = text(dataset)
    return str(int(word)) if word.isdecimal() else word


Dataset = Annotated[str, BeforeValidator(_without_zeros), WithJsonSchema({"type": ["string", "integer"]}),
                    MustBe(f"the number or name of a dataset in nnUNet_raw, or {PHANTOM}")]
TestCases = Annotated[
    Annotated[int, Field(strict=True, ge=1)] | Literal["imagesTs"] | Annotated[tuple[Text, ...], Different()],
    MustBe(f"a whole number from 1, a list of case ids, or {TEST_FOLDER}")]
CaseNumbers = Annotated[tuple[Annotated[int, Field(strict=True, ge=2)], ...], OneOrSeveral(),
                        MustBe("a whole number from 2, or a list of different ones")]
Numbers = Annotated[tuple[Whole, ...], OneOrSeveral(), MustBe("a whole number from 0, or a list of different ones")]


@dataclass(frozen=True, config=FILE)
class Study:
    """A whole study.

    Attributes:
        dataset: number or name in ``nnUNet_raw``, or ``phantom``.
        num_cases: numbers of real training cases, in the order in which they are worked off; subsets are nested.
        arms: what is compared.
        test_cases: how many to hold out, which, or ``imagesTs``: those of the dataset's ``imagesTs`` and ``labelsTs``.
        draws: draws of the training cases; the key ``folds`` of the file.
        seeds: repetitions with other seeds of generator and synthetic cases (nnU-Net takes none: each run is its own).
        split_seed: decides test cases and draws.
        groups: JSON file, case id to patient: scans of a patient never straddle.
        num_phantom_cases: cases of the phantom, if it is the dataset.
        training: nnU-Net's training.
        generator: the SBLDM.
        evaluation: what is measured.
        run: how jobs run.
    """

    dataset: Dataset
    num_cases: CaseNumbers
    arms: tuple[Arm, ...]
    test_cases: TestCases
    draws: Numbers = Field((0,), validation_alias="folds", serialization_alias="folds")
    seeds: Numbers = (0,)
    split_seed: Whole = 0
    groups: Annotated[Text, MustBe("a JSON file, case id to patient")] | None = None
    num_phantom_cases: Count = 24
    training: StudyTraining = Field(default_factory=StudyTraining)
    generator: GeneratorSettings = Field(default_factory=GeneratorSettings)
    evaluation: StudyEvaluation = Field(default_factory=StudyEvaluation)
    run: RunSettings = Field(default_factory=RunSettings)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON, with the keys of the file."""
        content: dict[str, Any] = TypeAdapter(Study).dump_python(self, mode="json", by_alias=True)
        return content

    def fixed(self) -> dict[str, Any]:
        """All that must stay the same when a study is extended by arms, cases, draws or seeds.

        Where the file of the patients lies may change; whether they are the same is seen from the split.
        """
        grown = ("num_cases", "arms", "folds", "seeds", "groups", "run", "evaluation")
        return {k: v for k, v in self.to_json().items() if k not in grown}
