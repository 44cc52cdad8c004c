"""Scores of test cases as tables."""

import numpy as np
import pytest

from nnunet_sbldm.ablation.arms import Arm
from nnunet_sbldm.ablation.runs import ArmRun
from nnunet_sbldm.ablation.scores import case_scores, missed_and_false, score_tables
from nnunet_sbldm.ablation.split import Subset
from nnunet_sbldm.ablation.study import Study
from nnunet_sbldm.common.files import write_json

REAL = Arm("real_only", "real_only")
PATIENTS = {"a": "P2", "b": "P1", "c": "P1"}


def metrics(dice, found, false, true):
    """What nnU-Net writes of one structure."""
    return {"Dice": dice, "TP": found, "FP": false, "FN": true - found, "n_ref": true, "n_pred": found + false}


@pytest.fixture
def scores(tmp_path):
    """Two repetitions of a run on a label and a region, of which the second misses a case."""
    runs = [ArmRun(REAL, Subset(5, 0, seed)) for seed in (0, 1)]
    for run in runs:
        folder, seed = tmp_path / run.predictions, run.subset.seed
        of_cases = {"a": 0.2 + seed / 10, "b": 0.4, "c": 0.6}
        entries = [{"prediction_file": f"x/{c}.nii.gz", "metrics": {
            "1": metrics(dice, 6, 2, 8), "(1, 2)": metrics(float("nan"), 0, 0, 0) if c == "b" else metrics(dice, 3, 0, 4),
        }} for c, dice in of_cases.items() if not (seed and c == "a")]
        write_json(folder / "summary.json", {"metric_per_case": entries})
        write_json(folder / "dataset.json", {"labels": {"background": 0, "core": 1, "whole": [1, 2]}, "file_ending": ".nii.gz"})
        write_json(folder / "surface.json", {"a": {"1": {"NSD": 0.5, "HD95": None}}})
    return case_scores(runs, tmp_path)


def test_every_case_and_structure_has_a_row(scores):
    assert len(scores) == 2 * 2 * 2 + 2
    row = scores[(scores["seed"] == 0) & (scores["case_id"] == "a") & (scores["label"] == "core")].iloc[0]
    assert (row["precision"], row["recall"], row["NSD"]) == (0.75, 0.75, 0.5)
    assert np.isnan(row["HD95"])
    absent = scores[(scores["case_id"] == "b") & (scores["label"] == "whole")]
    assert list(absent["Dice"]) == [1, 1]
    assert absent["precision"].isna().all()


def test_tables_are_means_of_a_patients_scans_in_the_order_of_patients_draws_and_seeds(scores):
    study = Study("1", (5,), (REAL,), 3, seeds=(1, 0))
    (table,) = score_tables(scores, study, PATIENTS, "Dice", "core").values()
    assert table.shape == (2, 1, 2)
    np.testing.assert_allclose(table[:, 0], [[np.nan, 0.2], [0.5, 0.5]])
    (both,) = score_tables(scores, study, PATIENTS, "Dice").values()
    np.testing.assert_allclose(both[1, 0], [(0.4 + 1 + 0.6 + 0.6) / 4] * 2)
    assert score_tables(scores, study, PATIENTS, "HD95") == {}


def test_missed_and_false_voxels_are_means_over_cases_structures_and_runs(scores):
    assert missed_and_false(scores).loc[("real_only", 5)].to_dict() == {"missed_voxels": 1.3, "false_voxels": 1.0}
