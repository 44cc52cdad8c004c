"""An ablation study: arms, numbers of real cases, folds, seeds, and how all of them are trained."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from nnunet_sbldm.ablation.arms import Arm
from nnunet_sbldm.generator.presets import DEFAULT_PRESET
from nnunet_sbldm.mixing.settings import CPU_PRECISIONS

PHANTOM = "phantom"
TEST_FOLDER = "imagesTs"
NETWORKS = ("planned", "half", "small")
BASE_CONFIGURATION = "3d_study"
"""Configuration in nnU-Net's plans that those of all arms inherit."""


@dataclass(frozen=True)
class TrainingSettings:
    """nnU-Net's training, the same for all arms.

    Attributes:
        num_epochs: epochs.
        num_iterations_per_epoch: training batches per epoch.
        num_val_iterations_per_epoch: validation batches per epoch; they choose nothing, the last checkpoint predicts.
        network: ``planned`` by nnU-Net, ``half`` of its features in every stage, or ``small``: its first three stages with few
            features.
        patch_size: voxels along the plan's axes; None is nnU-Net's.
        batch_size: None is nnU-Net's.
        test_time_augmentation: mirror while predicting, as nnU-Net does by default.
        cpu_precision: precision of the network while it trains on a CPU, ``fp32`` or ``bf16``.
    """

    num_epochs: int = 1000
    num_iterations_per_epoch: int = 250
    num_val_iterations_per_epoch: int = 50
    network: str = "planned"
    patch_size: tuple[int, ...] | None = None
    batch_size: int | None = None
    test_time_augmentation: bool = True
    cpu_precision: str = CPU_PRECISIONS[0]


@dataclass(frozen=True)
class GeneratorSettings:
    """The SBLDM of every number of cases, fold and seed, shared between arms.

    Attributes:
        preset: size and length.
        cases_per_real: synthetic cases made per real training case and mode.
        steps: denoising steps; None is the default of ``sbldm_expand_dataset``.
        guidance: guidance scale; likewise.
        edit_kinds: edits of ``sbldm_edit`` and ``sbldm_both``.
        gate: whether the quality gate judges.
    """

    preset: str = DEFAULT_PRESET
    cases_per_real: float = 2.0
    steps: int | None = None
    guidance: float | None = None
    edit_kinds: tuple[str, ...] = ("replace", "add")
    gate: bool = True


@dataclass(frozen=True)
class EvaluationSettings:
    """What is measured on the test cases.

    Attributes:
        surface_distances: also measure NSD and HD95 (needs MONAI, and files whose spacing is real).
        tolerance_mm: tolerance of the NSD.
        num_resamples: bootstrap samples.
        confidence: confidence level of the intervals.
    """

    surface_distances: bool = False
    tolerance_mm: float = 1.0
    num_resamples: int = 5000
    confidence: float = 0.95


@dataclass(frozen=True)
class RunSettings:
    """How jobs run; changing it changes no result.

    Attributes:
        device: of training and prediction.
        parallel_jobs: jobs at the same time.
        background_workers: nnU-Net's data workers per training (``nnUNet_n_proc_DA``).
        processes: processes of planning, preprocessing and evaluation.
        generator_device: ``on_the_fly``: device of the generator; None is that of the training.
        keep_checkpoints: keep nnU-Net's checkpoints after their predictions are evaluated.
        slurm_options: ``#SBATCH`` options of all jobs.
        slurm_gpu_options: and of those that use the device, if it is ``cuda``.
    """

    device: str = "cpu"
    parallel_jobs: int = 1
    background_workers: int = 0
    processes: int = 1
    generator_device: str | None = None
    keep_checkpoints: bool = False
    slurm_options: tuple[str, ...] = ()
    slurm_gpu_options: tuple[str, ...] = ("--gres=gpu:1",)


@dataclass(frozen=True)
class Study:
    """A whole study.

    Attributes:
        dataset: number or name in ``nnUNet_raw``, or ``phantom``.
        num_cases: numbers of real training cases, in the order in which they are worked off; subsets are nested.
        arms: what is compared.
        test_cases: how many to hold out, which, or ``imagesTs``: those of the dataset's ``imagesTs`` and ``labelsTs``.
        folds: draws of the training cases.
        seeds: repetitions with other seeds of generator and synthetic cases (nnU-Net takes none: each run is its own).
        split_seed: decides test cases and draws.
        groups: JSON file, case id to patient: scans of a patient never straddle.
        num_phantom_cases: cases of the phantom, if it is the dataset.
        training: nnU-Net's training.
        generator: the SBLDM.
        evaluation: what is measured.
        run: how jobs run.
    """

    dataset: str
    num_cases: tuple[int, ...]
    arms: tuple[Arm, ...]
    test_cases: int | str | tuple[str, ...]
    folds: tuple[int, ...] = (0,)
    seeds: tuple[int, ...] = (0,)
    split_seed: int = 0
    groups: str | None = None
    num_phantom_cases: int = 24
    training: TrainingSettings = field(default_factory=TrainingSettings)
    generator: GeneratorSettings = field(default_factory=GeneratorSettings)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    run: RunSettings = field(default_factory=RunSettings)

    def fixed(self) -> dict[str, Any]:
        """All that must stay the same when a study is extended by arms, cases, folds or seeds.

        Where the file of the patients lies may change; whether they are the same is seen from the split.
        """
        grown = ("num_cases", "arms", "folds", "seeds", "groups", "run", "evaluation")
        return {k: v for k, v in asdict(self).items() if k not in grown}
