"""How far a study is: finished runs, time per arm, unfinished jobs, and the check that no generator has seen a test case."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from nnunet_sbldm.ablation.cases import CaseRecord
from nnunet_sbldm.ablation.jobs import StudyJob, job_id
from nnunet_sbldm.ablation.runner import states_of
from nnunet_sbldm.ablation.runs import ArmRun, runs_of
from nnunet_sbldm.ablation.study import Study
from nnunet_sbldm.common.files import read_json
from nnunet_sbldm.data.folds import CaseFingerprint, find_leaks
from nnunet_sbldm.types import UserError

SHARED_STAGES = ["generator", "expand", "join"]
TEST_STAGES = ["predict", "evaluate", "surface"]


def finished_runs(study: Study, jobs: Sequence[StudyJob], folder: Path) -> list[ArmRun]:
    """Runs whose predictions are evaluated."""
    done = {name for name, state in states_of(jobs, folder).items() if state["state"] == "done"}
    last = ("evaluate", "surface") if study.evaluation.surface_distances else ("evaluate",)
    return [run for run in runs_of(study) if all(job_id(run.key, stage) in done for stage in last)]


def unfinished(jobs: Sequence[StudyJob], folder: Path) -> list[dict[str, str]]:
    """Jobs that are not done, with the reason."""
    states = states_of(jobs, folder)
    return [{"job": j.job_id, "state": s["state"], "error": s.get("error", "")} for j in jobs
            if (s := states[j.job_id])["state"] != "done"]


def time_per_arm(study: Study, jobs: Sequence[StudyJob], folder: Path) -> list[dict[str, Any]]:
    """Per arm: seconds of its own jobs, and of the generator and synthetic cases it uses; GPU hours if the device is one.

    Attempts that failed or were interrupted count. A generator on a GPU of its own, beside a training, doubles the training's GPU
    hours. Shared jobs count for every arm that uses them, so the column says what the arm alone would cost.
    """
    states, by_id = states_of(jobs, folder), {j.job_id: j for j in jobs}
    table = pd.DataFrame([{"arm": j.arm, "stage": j.stage, "on_device": j.uses_device,
                           "seconds": states[j.job_id].get("seconds", 0.0)} for j in jobs], index=list(by_id))
    rows = []
    for arm in study.arms:
        own = table[table["arm"] == arm.name]
        used = table.loc[sorted({n for name in own.index for n in _ancestors(by_id[name], by_id)})]
        shared = used[used["stage"].isin(SHARED_STAGES)]
        training = float(own["seconds"][own["stage"] == "train"].sum())
        on_device = sum(float(part["seconds"][part["on_device"]].sum()) for part in (own, shared))
        rows.append({
            "arm": arm.name, "training_seconds": training,
            "prediction_seconds": float(own["seconds"][own["stage"].isin(TEST_STAGES)].sum()),
            "generator_seconds": float(shared["seconds"].sum()),
            "gpu_hours": round((_is_gpu(study.run.device) * on_device
                                + _trains_beside_a_gpu(study, arm.definition.is_on_the_fly) * training) / 3600, 3),
        })
    return rows


def _is_gpu(device: str | None) -> bool:
    return bool(device) and str(device).startswith("cuda")


def _trains_beside_a_gpu(study: Study, is_on_the_fly: bool) -> bool:
    """Whether an arm's generator keeps a GPU of its own busy during its trainings."""
    return is_on_the_fly and _is_gpu(study.run.generator_device) and study.run.generator_device != study.run.device


def _ancestors(job: StudyJob, by_id: Mapping[str, StudyJob]) -> set[str]:
    return set(job.needs) | {a for n in job.needs for a in _ancestors(by_id[n], by_id)}


def check_generators(held_out: Sequence[CaseRecord], folder: Path) -> int:
    """Compare what every generator has seen with the test cases, by id and content.

    Args:
        held_out: the test cases.
        folder: the study's folder.

    Returns:
        Number of generators.

    Raises:
        UserError: one of them has seen a test case.
    """
    lists = sorted((folder / "nnUNet_results").glob("*/SBLDM__*/fold_*/training_cases.json"))
    for file in lists:
        leaks = find_leaks([CaseFingerprint.from_json(c) for c in read_json(file)], [r.content for r in held_out])
        if leaks:
            raise UserError(f"The generator in {file.parent} has seen test cases ({leaks[0]}): its results are worth nothing.")
    return len(lists)
