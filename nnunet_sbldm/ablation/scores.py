"""Scores of a study's test cases, as tables: per case and structure, and per arm and number of real cases."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nnunet_sbldm.ablation.runs import IDS_FILE, ArmRun, DatasetIds, StudyRun, find_model_folder
from nnunet_sbldm.ablation.study import Study
from nnunet_sbldm.ablation.surface_distances import SUMMARY_FILE, SURFACE_FILE
from nnunet_sbldm.common.files import read_json

OVERLAP, SURFACE = ("Dice", "precision", "recall"), ("NSD", "HD95")
ROW = ["arm", "num_cases"]
"""What a table of results has a row for."""
RUN = [*ROW, "draw", "seed"]
VOXELS = {"FN": "missed_voxels", "FP": "false_voxels", "n_ref": "reference_voxels", "n_pred": "predicted_voxels"}
"""Counts in nnU-Net's ``summary.json``, and what they are called here."""
LOSS_LINE, LAST_EPOCHS = re.compile(r"train_loss (-?[0-9.]+)"), 5


def case_scores(runs: Sequence[ArmRun], folder: Path) -> pd.DataFrame:
    """Scores of all finished runs, from nnU-Net's ``summary.json`` and, where measured, surface distances.

    Args:
        runs: the runs, one at least.
        folder: the study's folder.

    Returns:
        A row per run, test case and structure: ``RUN``, ``case_id``, ``label``, ``OVERLAP``, ``SURFACE``, ``VOXELS``; NaN is
        none. A structure that is neither there nor predicted, which nnU-Net leaves out, has a Dice of 1.
    """
    found = pd.concat([_counts(run, folder / run.predictions) for run in runs], ignore_index=True).rename(columns=VOXELS)
    absent = (found["reference_voxels"] == 0) & (found["predicted_voxels"] == 0)
    found["Dice"] = found["Dice"].astype(float).mask(absent, 1.0)
    found["precision"], found["recall"] = (found["TP"] / found[f"{of}_voxels"] for of in ("predicted", "reference"))
    table = found.reindex(columns=[*RUN, "case_id", "label", *OVERLAP, *SURFACE, *VOXELS.values()])
    return table.astype(dict.fromkeys(SURFACE, float))


def _counts(run: ArmRun, folder: Path) -> pd.DataFrame:
    """Dice, counts of voxels and distances as they were written for one run."""
    dataset = read_json(folder / "dataset.json")
    names = {_key(label): name for name, label in dataset["labels"].items()}
    surface = read_json(folder / SURFACE_FILE) if (folder / SURFACE_FILE).is_file() else {}
    rows = []
    for entry in read_json(folder / SUMMARY_FILE)["metric_per_case"]:
        case_id = Path(entry["prediction_file"]).name.removesuffix(dataset["file_ending"])
        for key, measured in entry["metrics"].items():
            rows.append({"case_id": case_id, "label": names.get(key, key), **measured, **surface.get(case_id, {}).get(key, {})})
    subset = run.subset
    return pd.DataFrame(rows).assign(arm=run.arm.name, num_cases=subset.num_cases, draw=subset.draw, seed=subset.seed)


def _key(label: int | list[int]) -> str:
    """A label as nnU-Net's evaluation writes it: ``1`` or ``(1, 2)``."""
    return str(tuple(label)) if isinstance(label, list) else str(label)


def score_tables(
    scores: pd.DataFrame, study: Study, patients: Mapping[str, str], metric: str, label: str | None = None
) -> dict[tuple[str, int], np.ndarray]:
    """(arm, number of cases) -> [patients, draws, seeds]: mean over structures and scans of each, or one structure; NaN is none.

    Args:
        scores: of all runs.
        study: its draws and seeds, in that order.
        patients: test case -> patient; rows are in this order.
        metric: one of ``OVERLAP`` or ``SURFACE``.
        label: structure; None is the mean over all of a case.
    """
    used = scores[np.isfinite(scores[metric]) & (True if label is None else scores["label"] == label)]
    places = [used["case_id"].map(patients).rename("patient"), used["draw"], used["seed"]]
    axes: list[list[Any]] = [list(dict.fromkeys(patients.values())), list(study.draws), list(study.seeds)]
    return {
        (arm, n): own.groupby([p.loc[own.index] for p in places])[metric].agg(_mean)
        .reindex(pd.MultiIndex.from_product(axes)).to_numpy().reshape([len(a) for a in axes])
        for (arm, n), own in used.groupby(ROW, sort=False)
    }


def _mean(values: pd.Series) -> float:
    return float(np.mean(values.to_numpy()))


def missed_and_false(scores: pd.DataFrame) -> pd.DataFrame:
    """Voxels missed and falsely predicted per test case and structure, means over the runs of each ``ROW``."""
    return scores.groupby(ROW)[["missed_voxels", "false_voxels"]].mean()


def training_losses(study: Study, runs: Sequence[ArmRun], folder: Path) -> dict[tuple[str, int], float]:
    """(arm, number of cases) -> nnU-Net's training loss over the last epochs, mean over runs; where no log is left, nothing.

    Beside the scores it says who was still learning: a loss is comparable between arms only as far as their cases are.
    """
    ids = DatasetIds(read_json(folder / IDS_FILE))
    models = [find_model_folder(StudyRun(study, ids, run), folder) for run in runs]
    rows = [(run.arm.name, run.subset.num_cases, _last_loss(model)) for run, model in zip(runs, models, strict=True)]
    losses = pd.DataFrame(rows, columns=[*ROW, "loss"]).dropna().groupby(ROW)["loss"].agg(_mean)
    return {(arm, n): float(loss) for (arm, n), loss in losses.items()}


def _last_loss(model: Path | None) -> float:
    """Mean over the last epochs of a training, however often it was interrupted; NaN without a log."""
    logs = sorted(model.glob("training_log_*.txt"), key=_date) if model is not None else []
    found = [float(v) for log in logs for v in LOSS_LINE.findall(log.read_text(encoding="utf-8"))]
    return float(np.mean(found[-LAST_EPOCHS:])) if found else float("nan")


def _date(log: Path) -> list[int]:
    """Year to second that nnU-Net puts into a log's name, with one digit for months and days below ten."""
    return [int(number) for number in re.findall(r"\d+", log.stem)]
