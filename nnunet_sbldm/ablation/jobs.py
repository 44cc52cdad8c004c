"""The table of a study's jobs: ordinary commands, what each needs, and what may be deleted after it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nnunet_sbldm.ablation.arms import Arm, pool_words
from nnunet_sbldm.ablation.split import TEST_IMAGES, TEST_LABELS, Subset
from nnunet_sbldm.ablation.study import Study
from nnunet_sbldm.data.paths import DEFAULT_CONFIGURATION, DEFAULT_PLANS
from nnunet_sbldm.generator.presets import training_options
from nnunet_sbldm.generator.zoo import folder_name
from nnunet_sbldm.mixing.settings import MixingSettings

STAGES = ("plan", "generator", "expand", "join", "configure", "train", "predict", "evaluate", "surface")
FOLD = "all"
"""nnU-Net's fold: all cases of a subset train; who is tested is in no dataset."""


@dataclass(frozen=True)
class StudyJob:
    """One command.

    Attributes:
        job_id: name, also of its state and log files.
        stage: one of ``STAGES``.
        command: program and arguments; it runs in the study's folder.
        needs: jobs that have to be done before.
        subset: key of the training cases it serves.
        arm: arm it serves; empty if arms share it.
        uses_device: whether it computes on the study's device.
        environment: variables for this command alone.
        deletes: patterns of files in the study's folder that are deleted once it is done.
        counterparts: two folders in it: for every file of the first the command has to leave one of that name in the second.
    """

    job_id: str
    stage: str
    command: tuple[str, ...]
    needs: tuple[str, ...] = ()
    subset: str = ""
    arm: str = ""
    uses_device: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)
    deletes: tuple[str, ...] = ()
    counterparts: tuple[str, ...] = ()


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


def runs_of(study: Study) -> list[ArmRun]:
    """Every training of a study; an oracle is trained once per fold and seed, whatever n it is compared at."""
    repeats = [(fold, seed) for fold in study.folds for seed in study.seeds]
    oracles = [a for a in study.arms if a.num_cases]
    runs = [ArmRun(a, Subset(n, f, s)) for n in study.num_cases for f, s in repeats for a in study.arms if not a.num_cases]
    return runs + [ArmRun(a, Subset(a.num_cases or 0, f, s)) for f, s in repeats for a in oracles]


class DatasetIds:
    """Numbers of the study's own datasets; a number once given stays, so that a study can be extended."""

    def __init__(self, known: Mapping[str, int]) -> None:
        self.known = dict(known)

    def __getitem__(self, key: str) -> int:
        return self.known.setdefault(key, max(self.known.values(), default=0) + 1)

    def name(self, key: str) -> str:
        """``DatasetXXX_Name`` of a subset's dataset."""
        return f"Dataset{self[key]:03d}_{key.replace('_', '')}"


def plan_study_jobs(study: Study, ids: DatasetIds) -> list[StudyJob]:
    """All jobs of a study, every job after those it needs."""
    table: dict[str, StudyJob] = {}
    for run in runs_of(study):
        for job in _Planner(study, ids, run).jobs():
            table.setdefault(job.job_id, job)
    return sorted(table.values(), key=lambda job: STAGES.index(job.stage))


@dataclass(frozen=True)
class _Planner:
    """The jobs of one arm on one subset; those that arms share come out alike from every arm."""

    study: Study
    ids: DatasetIds
    run: ArmRun

    def jobs(self) -> list[StudyJob]:
        jobs = [self._plan(self.subset)]
        if self.arm.what.needs_generator():
            jobs += [self._plan(self.generator), self._generator()]
        if self.arm.what.pool:
            modes = ("generate", "edit") if self.arm.what.pool == "both" else (self.arm.what.pool,)
            jobs += [self._expand(mode) for mode in modes]
        if self.arm.what.pool == "both":
            jobs.append(self._join())
        configure, train, predict = self._configure(jobs[-1]), self._train(), self._predict()
        return [*jobs, configure, train, predict, *self._evaluate()]

    @property
    def arm(self) -> Arm:
        return self.run.arm

    @property
    def subset(self) -> str:
        return self.run.subset.key

    @property
    def generator(self) -> str:
        """Key of the subset that the generator is trained on."""
        return self.run.generator_subset.key

    @property
    def preset(self) -> str:
        return self.arm.preset or self.study.generator.preset

    @property
    def data_key(self) -> str:
        """Key of the dataset that is trained: the subset's own, or one with synthetic cases."""
        pool = self.arm.what.pool
        return f"{self.subset}_{self.preset}_{self._made(pool)}" if pool else self.subset

    def _made(self, mode: str) -> str:
        """What is made in a mode: its name, and the volumes and edits where the arm chooses them."""
        kinds = self.arm.edit_kinds if mode != "generate" else None
        return "_".join([mode, *pool_words(self.arm.size_range, kinds, self.arm.generator_cases)])

    def _device(self) -> tuple[str, str]:
        return ("-device", self.study.run.device)

    def _plan(self, subset: str) -> StudyJob:
        processes = str(self.study.run.processes)
        return StudyJob(f"{subset}.plan", "plan", (
            "nnUNetv2_plan_and_preprocess", "-d", str(self.ids[subset]), "-c", DEFAULT_CONFIGURATION,
            "-np", processes, "-npfp", processes, "--no_pbar"), subset=subset)

    def _generator(self) -> StudyJob:
        return StudyJob(f"{self.generator}.generator.{self.preset}", "generator", (
            "sbldm_train", "-d", str(self.ids[self.generator]), "-f", FOLD, *training_options(self.preset),
            "-seed", str(self.run.subset.seed), *self._device()), (f"{self.generator}.plan",), self.generator, uses_device=True)

    def _expand(self, mode: str) -> StudyJob:
        settings, target = self.study.generator, self.ids[f"{self.subset}_{self.preset}_{self._made(mode)}"]
        kinds = self.arm.edit_kinds or settings.edit_kinds
        options: list[str] = ["-mode", "edit", "-kind", *kinds] if mode == "edit" else []
        options += ["-size_range", *(f"{ml:g}" for ml in self.arm.size_range)] if self.arm.size_range else []
        options += ["-steps", str(settings.steps)] if settings.steps else []
        options += ["-guidance", f"{settings.guidance:g}"] if settings.guidance is not None else []
        options += [] if settings.gate else ["--no_gate"]
        return StudyJob(f"{self.subset}.expand.{self.preset}.{self._made(mode)}", "expand", (
            "sbldm_expand_dataset", "-d", str(self.ids[self.subset]), "-o", str(target), "-f", FOLD,
            "-ratio", f"{settings.cases_per_real:g}", *self._model(), "-seed", str(self.run.subset.seed), *options,
            *self._device()), (f"{self.subset}.plan", f"{self.generator}.generator.{self.preset}"), self.subset, uses_device=True)

    def _model(self) -> tuple[str, str]:
        """Which generator makes the cases: that of the preset, or one that was trained on other cases than are expanded."""
        if self.generator == self.subset:
            return "-preset", self.preset
        folder = folder_name(DEFAULT_PLANS, self.preset)
        return "-m", f"nnUNet_results/{self.ids.name(self.generator)}/{folder}/fold_{FOLD}"

    def _join(self) -> StudyJob:
        made = [self._made(mode) for mode in ("generate", "edit")]
        sources = [str(self.ids[f"{self.subset}_{self.preset}_{name}"]) for name in made]
        return StudyJob(f"{self.subset}.join.{self.preset}.{self._made('both')}", "join", (
            "python", "-m", "nnunet_sbldm.ablation.steps", "join", "-d", *sources, "-o", self.ids.name(self.data_key)),
            tuple(f"{self.subset}.expand.{self.preset}.{name}" for name in made), self.subset)

    def _configure(self, data_job: StudyJob) -> StudyJob:
        """One job for all arms that train on a dataset: two at a time would overwrite each other's plans."""
        need = f"{self.subset}.plan" if not self.arm.what.pool else data_job.job_id
        arms = [a for a in self._arms_on_this_dataset() if _Planner(self.study, self.ids, ArmRun(a, self.run.subset)).data_key
                == self.data_key]
        blocks = {a.name: arm_settings(self.study, a) for a in arms}
        return StudyJob(f"{self.data_key}.configure", "configure", (
            "python", "-m", "nnunet_sbldm.ablation.steps", "configure", "-d", str(self.ids[self.data_key]),
            "-base", json.dumps(base_settings(self.study)), "-arms", json.dumps(blocks)), (need,), self.subset)

    def _arms_on_this_dataset(self) -> list[Arm]:
        n = self.run.subset.num_cases
        return [a for a in self.study.arms if (a.num_cases == n if a.num_cases else n in self.study.num_cases)]

    def _train(self) -> StudyJob:
        needs = [f"{self.data_key}.configure"]
        if self.arm.what.needs_generator() and not self.arm.what.pool:
            needs.append(f"{self.generator}.generator.{self.preset}")
        workers = {"nnUNet_n_proc_DA": str(self.study.run.background_workers)}  # not while planning, which 0 breaks
        return self._own("train", (
            "nnUNetv2_train", str(self.ids[self.data_key]), self.arm.name, FOLD, "-tr", self.arm.what.trainer, *self._device(),
            "--c"), tuple(needs), environment=workers)

    def _predict(self) -> StudyJob:
        mirror = () if self.study.training.test_time_augmentation else ("--disable_tta",)
        return self._own("predict", (
            "nnUNetv2_predict", "-d", str(self.ids[self.data_key]), "-c", self.arm.name, "-f", FOLD, "-tr", self.arm.what.trainer,
            "-i", TEST_IMAGES, "-o", self.predictions, "-npp", "1", "-nps", "1", *self._device(), *mirror),
            (f"{self.run.key}.train",), counterparts=(TEST_LABELS, self.predictions))

    def _evaluate(self) -> list[StudyJob]:
        folder, needs = self.predictions, (f"{self.run.key}.predict",)
        prune = () if self.study.run.keep_checkpoints else (f"{self.model_folder}/checkpoint_*.pth",)
        jobs = [self._own("evaluate", (
            "nnUNetv2_evaluate_folder", TEST_LABELS, folder, "-djfile", f"{folder}/dataset.json",
            "-pfile", f"{folder}/plans.json", "-np", str(self.study.run.processes)), needs, uses_device=False, deletes=prune)]
        if self.study.evaluation.surface_distances:
            jobs.append(self._own("surface", (
                "python", "-m", "nnunet_sbldm.ablation.surface_distances", TEST_LABELS, folder, "-tolerance_mm",
                f"{self.study.evaluation.tolerance_mm:g}"), needs, uses_device=False))
        return jobs

    @property
    def model_folder(self) -> str:
        """Pattern of the folder that nnU-Net trains in, relative to the study's."""
        model = f"{self.arm.what.trainer}__{DEFAULT_PLANS}__{self.arm.name}"
        return f"nnUNet_results/Dataset{self.ids[self.data_key]:03d}_*/{model}/fold_{FOLD}"

    @property
    def predictions(self) -> str:
        return predictions_folder(self.run)

    def _own(
        self, stage: str, command: Sequence[str], needs: tuple[str, ...], uses_device: bool = True,
        environment: Mapping[str, str] | None = None, deletes: tuple[str, ...] = (), counterparts: tuple[str, ...] = (),
    ) -> StudyJob:
        return StudyJob(f"{self.run.key}.{stage}", stage, tuple(command), needs, self.subset, self.arm.name, uses_device,
                        environment or {}, deletes, counterparts)


def model_folder(study: Study, ids: DatasetIds, run: ArmRun, folder: Path) -> Path | None:
    """Folder that nnU-Net trained a run in; None before it did."""
    return next(iter(folder.glob(_Planner(study, ids, run).model_folder)), None)


def predictions_folder(run: ArmRun) -> str:
    """Folder of a run's predictions, relative to the study's."""
    return f"predictions/{run.key}"


def arm_settings(study: Study, arm: Arm) -> dict[str, Any]:
    """Settings of an arm's configuration in nnU-Net's plans; how they train is the same for all, without validation."""
    training = study.training
    on_the_fly: dict[str, Any] = {}
    if arm.kind == "on_the_fly":
        on_the_fly = {
            "model": arm.preset or study.generator.preset,
            "sbldm_device": study.run.generator_device or None,
            "wait_s": arm.wait_s or None,
        }
    return MixingSettings(
        ratio=arm.ratio,
        num_epochs=training.num_epochs,
        num_iterations_per_epoch=training.num_iterations_per_epoch,
        num_val_iterations_per_epoch=training.num_val_iterations_per_epoch,
        schedule=arm.schedule,
        cpu_precision=training.cpu_precision,
        final_validation=False,
        **on_the_fly,
    ).to_block()


def base_settings(study: Study) -> dict[str, Any]:
    """What all arms' configurations change in nnU-Net's ``3d_fullres``."""
    training = study.training
    chosen = {"network": training.network, "patch_size": training.patch_size, "batch_size": training.batch_size}
    return {k: list(v) if isinstance(v, tuple) else v for k, v in chosen.items() if v not in (None, "planned")}


def job_environment(folder: str, processes: int) -> dict[str, str]:
    """Variables that all jobs of a study run with."""
    from importlib.util import find_spec

    names = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
    variables = {name: os.path.join(folder, name) for name in names}
    variables |= {"nnUNet_def_n_proc": str(processes), "OMP_WAIT_POLICY": "PASSIVE"}
    trainers = find_spec("nnunet_sbldm.trainers")
    if "nnUNet_extTrainer" not in os.environ and trainers and trainers.submodule_search_locations:
        variables["nnUNet_extTrainer"] = os.path.abspath(trainers.submodule_search_locations[0])
    return variables
