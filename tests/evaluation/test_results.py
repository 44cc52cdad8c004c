"""A result: its id tells code what was measured, and its JSON calls the goal a target."""

import numpy as np

from nnunet_sbldm.evaluation.results import Result, finite_mean


def test_the_measure_is_the_id_without_its_owner():
    assert Result("tumour/volume_r", "tumour: r of log volume", 1.0, 1.0, 3).measure == "volume_r"
    assert Result("a/b/contrast", "", 1.0, 1.0, 3).measure == "contrast"
    assert Result("specks", "specks", 0, 0, 3).measure == "specks"


def test_the_json_of_a_result_calls_the_goal_target_and_judges_no_missing_number():
    result = Result("frechet", "Frechet distance", 2.0, 1.0, 3, "at most 3", True, {"sd": 0.1})
    assert result.to_json() == {
        "id": "frechet", "name": "Frechet distance", "value": 2.0, "floor": 1.0, "num_cases": 3, "reached": True,
        "details": {"sd": 0.1}, "target": "at most 3",
    }
    assert Result("x", "x", float("nan"), 1.0, 0, "at most 3", False).to_json()["reached"] is None


def test_missing_values_do_not_count():
    assert finite_mean([1.0, np.nan, 3.0]) == 2
    assert np.isnan(finite_mean([np.nan]))
