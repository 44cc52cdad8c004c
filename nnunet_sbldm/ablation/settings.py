"""Settings of a study: how networks are trained, how synthetic cases are made, what is measured, and how jobs run."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema
from pydantic.dataclasses import dataclass

from nnunet_sbldm.common.validation import FILE, MustBe, OneOf, OneOrSeveral, text
from nnunet_sbldm.generator.presets import DEFAULT_PRESET, PRESETS, known_preset
from nnunet_sbldm.ldm.config import DiffusionConfig
from nnunet_sbldm.mixing.settings import CPU_PRECISIONS

NETWORKS = ("planned", "half", "small")
EDIT_KINDS = ("replace", "add", "remove")
DEVICES = ("cpu", "cuda", "mps")
BASE_CONFIGURATION = "3d_study"
"""Configuration in nnU-Net's plans that those of all arms inherit."""
MAX_STEPS = DiffusionConfig.num_train_timesteps

Flag = Annotated[bool, Field(strict=True), MustBe("true or false")]
Whole = Annotated[int, Field(strict=True, ge=0), MustBe("a whole number from 0")]
Count = Annotated[int, Field(strict=True, ge=1), MustBe("a whole number from 1")]
Amount = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False), MustBe("a number from 0")]
Text = Annotated[str, BeforeValidator(text), WithJsonSchema({"type": ["string", "integer"]})]
PresetName = Annotated[
    str, Field(strict=True), AfterValidator(known_preset),
    MustBe(f"one of {', '.join(PRESETS)}, or such a name with a length, as small_x2")]
EditKinds = Annotated[
    tuple[Annotated[str, OneOf(EDIT_KINDS)], ...], OneOrSeveral(), MustBe(f"a list of {', '.join(EDIT_KINDS)}")]
Options = Annotated[tuple[Text, ...], MustBe("a list of options")]


@dataclass(frozen=True, config=FILE)
class StudyTraining:
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

    num_epochs: Count = 1000
    num_iterations_per_epoch: Count = 250
    num_val_iterations_per_epoch: Count = 50
    network: Annotated[str, OneOf(NETWORKS)] = "planned"
    patch_size: Annotated[tuple[Count, Count, Count], MustBe("three whole numbers from 1")] | None = None
    batch_size: Annotated[int, Field(strict=True, ge=2), MustBe("a whole number from 2")] | None = None
    test_time_augmentation: Flag = True
    cpu_precision: Annotated[str, OneOf(CPU_PRECISIONS)] = CPU_PRECISIONS[0]


@dataclass(frozen=True, config=FILE)
class GeneratorSettings:
    """The SBLDM of every number of cases, draw and seed, shared between arms.

    Attributes:
        preset: size and length.
        cases_per_real: synthetic cases made per real training case and mode.
        steps: denoising steps; None is the default of ``sbldm_expand_dataset``.
        guidance: guidance scale; likewise.
        edit_kinds: edits of ``sbldm_edit`` and ``sbldm_both``.
        gate: whether the quality gate judges.
    """

    preset: PresetName = DEFAULT_PRESET
    cases_per_real: Annotated[float, Field(strict=True, ge=0.01, allow_inf_nan=False), MustBe("a number above 0")] = 2.0
    steps: Annotated[int, Field(strict=True, ge=1, le=MAX_STEPS), MustBe(f"a whole number from 1 to {MAX_STEPS}")] | None = None
    guidance: Amount | None = None
    edit_kinds: EditKinds = ("replace", "add")
    gate: Flag = True


@dataclass(frozen=True, config=FILE)
class StudyEvaluation:
    """What is measured on the test cases.

    Attributes:
        surface_distances: also measure NSD and HD95 (needs MONAI, and files whose spacing is real).
        tolerance_mm: tolerance of the NSD.
        num_resamples: bootstrap samples.
        confidence: confidence level of the intervals.
    """

    surface_distances: Flag = False
    tolerance_mm: Amount = 1.0
    num_resamples: Annotated[int, Field(strict=True, ge=100), MustBe("a whole number from 100")] = 5000
    confidence: Annotated[float, Field(strict=True, ge=0.5, le=0.999), MustBe("a number from 0.5 to 0.999")] = 0.95


@dataclass(frozen=True, config=FILE)
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

    device: Annotated[str, OneOf(DEVICES)] = "cpu"
    parallel_jobs: Count = 1
    background_workers: Whole = 0
    processes: Count = 1
    generator_device: Annotated[
        str, Field(strict=True, pattern=rf"^({'|'.join(DEVICES)})(:[0-9]+)?$"), MustBe("a device such as cuda:1")] | None = None
    keep_checkpoints: Flag = False
    slurm_options: Options = ()
    slurm_gpu_options: Options = ("--gres=gpu:1",)
