"""Jobs that make what networks are trained on: plans, generators, synthetic cases, configurations. Arms share them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from nnunet_sbldm.ablation.arms import Arm
from nnunet_sbldm.ablation.jobs import FOLD, StudyJob, job_id
from nnunet_sbldm.ablation.runs import StudyRun
from nnunet_sbldm.ablation.settings import GeneratorSettings
from nnunet_sbldm.ablation.study import Study
from nnunet_sbldm.data.paths import DEFAULT_CONFIGURATION, DEFAULT_PLANS
from nnunet_sbldm.generator.presets import training_options
from nnunet_sbldm.generator.zoo import folder_name
from nnunet_sbldm.mixing.settings import MixingSettings

STEPS = ("python", "-m", "nnunet_sbldm.ablation.steps")


def data_jobs(run: StudyRun) -> list[StudyJob]:
    """Jobs that make the dataset of a run, and the generator that it needs."""
    jobs = [_plan(run, run.subset)]
    if run.kind.needs_generator:
        jobs += [_plan(run, run.generator_subset), _generator(run)]
    jobs += [_expand(run, mode) for mode in run.kind.modes]
    return [*jobs, _join(run)] if len(run.kind.modes) > 1 else jobs


def generator_job(run: StudyRun) -> str:
    """Name of the job that trains the generator of a run."""
    return job_id(run.generator_subset, "generator", run.preset)


def _plan(run: StudyRun, subset: str) -> StudyJob:
    processes = str(run.study.run.processes)
    return StudyJob(job_id(subset, "plan"), "plan", (
        "nnUNetv2_plan_and_preprocess", "-d", str(run.ids[subset]), "-c", DEFAULT_CONFIGURATION,
        "-np", processes, "-npfp", processes, "--no_pbar"), subset=subset)


def _generator(run: StudyRun) -> StudyJob:
    subset = run.generator_subset
    return StudyJob(generator_job(run), "generator", (
        "sbldm_train", "-d", str(run.ids[subset]), "-f", FOLD, *training_options(run.preset),
        "-seed", str(run.run.subset.seed), "-device", run.study.run.device), (job_id(subset, "plan"),), subset, uses_device=True)


def _expand(run: StudyRun, mode: str) -> StudyJob:
    settings = run.study.generator
    return StudyJob(_expand_job(run, mode), "expand", (
        "sbldm_expand_dataset", "-d", str(run.ids[run.subset]), "-o", str(run.ids[run.pool_dataset(mode)]), "-f", FOLD,
        "-ratio", f"{settings.cases_per_real:g}", *_model(run), "-seed", str(run.run.subset.seed),
        *_expansion_options(run.arm, settings, mode), "-device", run.study.run.device),
        (job_id(run.subset, "plan"), generator_job(run)), run.subset, uses_device=True)


def _expand_job(run: StudyRun, mode: str) -> str:
    return job_id(run.subset, "expand", run.preset, run.pool(mode))


def _expansion_options(arm: Arm, settings: GeneratorSettings, mode: str) -> list[str]:
    edits = ["-mode", "edit", "-kind", *(arm.edit_kinds or settings.edit_kinds)] if mode == "edit" else []
    sizes = ["-size_range", *(f"{ml:g}" for ml in arm.size_range)] if arm.size_range else []
    steps = ["-steps", str(settings.steps)] if settings.steps else []
    guidance = ["-guidance", f"{settings.guidance:g}"] if settings.guidance is not None else []
    return [*edits, *sizes, *steps, *guidance, *([] if settings.gate else ["--no_gate"])]


def _model(run: StudyRun) -> tuple[str, str]:
    """Which generator makes the cases: that of the preset, or one that was trained on other cases than are expanded."""
    if run.generator_subset == run.subset:
        return "-preset", run.preset
    folder = folder_name(DEFAULT_PLANS, run.preset)
    return "-m", f"nnUNet_results/{run.ids.name(run.generator_subset)}/{folder}/fold_{FOLD}"


def _join(run: StudyRun) -> StudyJob:
    sources = [str(run.ids[run.pool_dataset(mode)]) for mode in run.kind.modes]
    return StudyJob(_join_job(run), "join", (*STEPS, "join", "-d", *sources, "-o", run.ids.name(run.dataset)),
                    tuple(_expand_job(run, mode) for mode in run.kind.modes), run.subset)


def _join_job(run: StudyRun) -> str:
    return job_id(run.subset, "join", run.preset, run.pool(run.kind.pool))


def configure_job(run: StudyRun, arms: Sequence[Arm]) -> StudyJob:
    """One job for all arms that train on a dataset: two at a time would overwrite each other's plans."""
    blocks = {arm.name: arm_settings(run.study, arm) for arm in arms}
    return StudyJob(job_id(run.dataset, "configure"), "configure", (
        *STEPS, "configure", "-d", str(run.ids[run.dataset]), "-base", json.dumps(base_settings(run.study)),
        "-arms", json.dumps(blocks)), (_made_by(run),), run.subset)


def _made_by(run: StudyRun) -> str:
    """Name of the job that makes the dataset of a run."""
    if not run.kind.modes:
        return job_id(run.subset, "plan")
    return _join_job(run) if len(run.kind.modes) > 1 else _expand_job(run, run.kind.pool)


def arm_settings(study: Study, arm: Arm) -> dict[str, Any]:
    """Settings of an arm's configuration in nnU-Net's plans; how they train is the same for all, without validation."""
    training = study.training
    return MixingSettings(
        ratio=arm.ratio,
        num_epochs=training.num_epochs,
        num_iterations_per_epoch=training.num_iterations_per_epoch,
        num_val_iterations_per_epoch=training.num_val_iterations_per_epoch,
        schedule=arm.schedule,
        cpu_precision=training.cpu_precision,
        final_validation=False,
        **arm.definition.mixing(arm, study.generator, study.run),
    ).to_block()


def base_settings(study: Study) -> dict[str, Any]:
    """What all arms' configurations change in nnU-Net's ``3d_fullres``."""
    training = study.training
    chosen = {"network": training.network, "patch_size": training.patch_size, "batch_size": training.batch_size}
    return {k: list(v) if isinstance(v, tuple) else v for k, v in chosen.items() if v not in (None, "planned")}
