"""What a study's jobs came to: scores per case, time per arm, what is missing, and the check that no test case was seen."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_sbldm.ablation.cases import CaseRecord
from nnunet_sbldm.ablation.jobs import ArmRun, DatasetIds, StudyJob, model_folder, predictions_folder, runs_of
from nnunet_sbldm.ablation.runner import states_of
from nnunet_sbldm.ablation.setup import IDS_FILE
from nnunet_sbldm.ablation.study import Study
from nnunet_sbldm.ablation.surface_distances import SUMMARY_FILE, SURFACE_FILE
from nnunet_sbldm.common.files import read_json
from nnunet_sbldm.data.folds import CaseFingerprint, find_leaks
from nnunet_sbldm.types import UserError

OVERLAP, SURFACE = ("Dice", "precision", "recall"), ("NSD", "HD95")
LOSS_LINE, LAST_EPOCHS = re.compile(r"train_loss (-?[0-9.]+)"), 5
SHARED_STAGES = ("generator", "expand", "join")


@dataclass(frozen=True)
class CaseScore:
    """Scores of one structure of one test case, predicted by one run."""

    arm: str
    num_cases: int
    fold: int
    seed: int
    case_id: str
    label: str
    dice: float
    precision: float
    recall: float
    nsd: float
    hd95: float
    missed_voxels: int
    false_voxels: int
    reference_voxels: int
    predicted_voxels: int


def finished_runs(study: Study, jobs: Sequence[StudyJob], folder: Path) -> list[ArmRun]:
    """Runs whose predictions are evaluated."""
    states = states_of(jobs, folder)
    last = ("evaluate", "surface") if study.evaluation.surface_distances else ("evaluate",)
    return [r for r in runs_of(study) if all(states.get(f"{r.key}.{s}", {}).get("state") == "done" for s in last)]


def case_scores(runs: Sequence[ArmRun], folder: Path) -> list[CaseScore]:
    """Scores of all finished runs, from nnU-Net's ``summary.json`` and, where measured, surface distances."""
    return [score for run in runs for score in _scores_of(run, folder / predictions_folder(run))]


def _scores_of(run: ArmRun, folder: Path) -> list[CaseScore]:
    names = _label_names(read_json(folder / "dataset.json")["labels"])
    surface = read_json(folder / SURFACE_FILE) if (folder / SURFACE_FILE).is_file() else {}
    ending, scores = read_json(folder / "dataset.json")["file_ending"], []
    for entry in read_json(folder / SUMMARY_FILE)["metric_per_case"]:
        case_id = Path(entry["prediction_file"]).name[: -len(ending)]
        for key, m in entry["metrics"].items():
            distances = surface.get(case_id, {}).get(key, {})
            scores.append(CaseScore(
                run.arm.name, run.subset.num_cases, run.subset.fold, run.subset.seed, case_id, names.get(key, key),
                _dice(m), _share(m["TP"], m["n_pred"]), _share(m["TP"], m["n_ref"]),
                _number(distances.get("NSD")), _number(distances.get("HD95")), m["FN"], m["FP"], m["n_ref"],
                m["n_pred"]))
    return scores


def _dice(metrics: Mapping[str, Any]) -> float:
    """nnU-Net's Dice; 1 where a structure is neither there nor predicted, which nnU-Net leaves out (0 where it is predicted)."""
    return 1.0 if metrics["n_ref"] == metrics["n_pred"] == 0 else _number(metrics["Dice"])


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def _share(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")


def _label_names(labels: Mapping[str, int | list[int]]) -> dict[str, str]:
    """Keys of nnU-Net's evaluation -> names: ``1`` or ``(1, 2)``."""
    return {str(tuple(v)) if isinstance(v, list) else str(v): name for name, v in labels.items()}


def score_tables(
    scores: Sequence[CaseScore], study: Study, patients: Mapping[str, str], metric: str, label: str | None = None
) -> dict[tuple[str, int], np.ndarray]:
    """(arm, number of cases) -> [patients, folds, seeds]: mean over structures and scans of each, or one structure; NaN is none.

    Args:
        scores: of all runs.
        study: its folds and seeds, in that order.
        patients: test case -> patient; rows are in this order.
        metric: one of ``OVERLAP`` or ``SURFACE``.
        label: structure; None is the mean over all of a case.
    """
    rows = {p: i for i, p in enumerate(dict.fromkeys(patients.values()))}
    cells: dict[tuple[str, int], dict[tuple[int, int, int], list[float]]] = {}
    for score in scores:
        value = getattr(score, metric.lower())
        if label in (None, score.label) and np.isfinite(value):
            place = rows[patients[score.case_id]], study.folds.index(score.fold), study.seeds.index(score.seed)
            cells.setdefault((score.arm, score.num_cases), {}).setdefault(place, []).append(value)
    tables = {}
    for key, values in cells.items():
        tables[key] = np.full((len(rows), len(study.folds), len(study.seeds)), np.nan)
        for place, several in values.items():
            tables[key][place] = np.mean(several)
    return tables


def missed_and_false(scores: Sequence[CaseScore]) -> dict[tuple[str, int], tuple[float, float]]:
    """(arm, number of cases) -> voxels missed and falsely predicted per test case and structure, means over runs."""
    found: dict[tuple[str, int], list[tuple[int, int]]] = {}
    for score in scores:
        found.setdefault((score.arm, score.num_cases), []).append((score.missed_voxels, score.false_voxels))
    means = {key: np.mean(voxels, axis=0) for key, voxels in found.items()}
    return {key: (float(missed), float(false)) for key, (missed, false) in means.items()}


def training_losses(study: Study, runs: Sequence[ArmRun], folder: Path) -> dict[tuple[str, int], float]:
    """(arm, number of cases) -> nnU-Net's training loss over the last epochs, mean over runs; where no log is left, nothing.

    Beside the scores it says who was still learning: a loss is comparable between arms only as far as their cases are.
    """
    ids = DatasetIds(read_json(folder / IDS_FILE))
    losses: dict[tuple[str, int], list[float]] = {}
    for run in runs:
        model = model_folder(study, ids, run, folder)
        logs = sorted(model.glob("training_log_*.txt"), key=_date) if model is not None else []
        found = [float(v) for log in logs for v in LOSS_LINE.findall(log.read_text(encoding="utf-8"))]
        if found:
            losses.setdefault((run.arm.name, run.subset.num_cases), []).append(float(np.mean(found[-LAST_EPOCHS:])))
    return {key: float(np.mean(values)) for key, values in losses.items()}


def _date(log: Path) -> list[int]:
    """Year to second that nnU-Net puts into a log's name, with one digit for months and days below ten."""
    return [int(number) for number in re.findall(r"\d+", log.stem)]


# --- time ----------------------------------------------------------------------------------------------------------


def time_per_arm(study: Study, jobs: Sequence[StudyJob], folder: Path) -> list[dict[str, Any]]:
    """Per arm: seconds of its own jobs, and of the generator and synthetic cases it uses; GPU hours if the device is one.

    Attempts that failed or were interrupted count. A generator on a GPU of its own, beside a training, doubles the training's GPU
    hours. Shared jobs count for every arm that uses them, so the column says what the arm alone would cost.
    """
    states, by_id = states_of(jobs, folder), {j.job_id: j for j in jobs}
    rows = []
    for arm in study.arms:
        own = [j for j in jobs if j.arm == arm.name]
        shared = {n for j in own for n in _ancestors(j, by_id) if by_id[n].stage in SHARED_STAGES}
        measured = [(by_id[n], states[n].get("seconds", 0.0)) for n in [*(j.job_id for j in own), *sorted(shared)]]
        on_gpu = sum(seconds for job, seconds in measured if job.uses_device) if study.run.device.startswith("cuda") else 0.0
        beside = study.run.generator_device if arm.kind == "on_the_fly" else None
        on_gpu += _sum(own, states, ("train",)) if beside and beside.startswith("cuda") and beside != study.run.device else 0.0
        rows.append({
            "arm": arm.name, "training_seconds": _sum(own, states, ("train",)),
            "prediction_seconds": _sum(own, states, ("predict", "evaluate", "surface")),
            "generator_seconds": sum(seconds for job, seconds in measured if job.stage in SHARED_STAGES),
            "gpu_hours": round(on_gpu / 3600, 3),
        })
    return rows


def _ancestors(job: StudyJob, by_id: Mapping[str, StudyJob]) -> set[str]:
    return set(job.needs) | {a for n in job.needs for a in _ancestors(by_id[n], by_id)}


def _sum(jobs: Sequence[StudyJob], states: Mapping[str, Mapping[str, Any]], stages: Sequence[str]) -> float:
    return float(sum(states[j.job_id].get("seconds", 0.0) for j in jobs if j.stage in stages))


# --- checks --------------------------------------------------------------------------------------------------------


def unfinished(jobs: Sequence[StudyJob], folder: Path) -> list[dict[str, str]]:
    """Jobs that are not done, with the reason."""
    states = states_of(jobs, folder)
    return [{"job": j.job_id, "state": s["state"], "error": s.get("error", "")} for j in jobs
            if (s := states[j.job_id])["state"] != "done"]


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
