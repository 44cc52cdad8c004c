"""Asked and obtained: errors of known deviations."""

import numpy as np
import pytest

from nnunet_sbldm.data.conditions import FEATURES
from nnunet_sbldm.evaluation.adherence import NAMES, condition_errors, errors_of_an_edit


def test_condition_errors_of_known_deviations():
    asked = np.full((4, len(FEATURES)), np.nan)
    asked[:, 0], asked[:, 1], asked[:, 2:5] = [1, 1, 1, 0], [10, 20, 40, np.nan], 0.5
    obtained = asked.copy()
    obtained[:, 1] *= 1.5
    obtained[:, 2] += 0.03
    obtained[:, 3] += 0.04
    obtained[3, 0] = 1
    errors = condition_errors(asked, obtained, np.full((4, 3), 100.0))
    assert errors["presence"] == 0.75
    assert errors["volume_r"] == pytest.approx(1)
    assert errors["volume_error_ml"] == pytest.approx(10)
    assert errors["volume_error"] == pytest.approx(0.5)
    assert errors["centroid_error"] == pytest.approx(0.05)
    assert errors["centroid_error_mm"] == pytest.approx(5)
    assert set(errors) == set(NAMES)


def test_errors_of_one_edit():
    asked = {"tumour/volume_ml": 10.0, **{f"tumour/centroid_{a}": 0.5 for a in "dhw"}}
    obtained = {**asked, "tumour/volume_ml": 12.0, "tumour/centroid_h": 0.4}
    assert errors_of_an_edit(asked, obtained, "tumour") == pytest.approx({"volume_error": 0.2, "centroid_error": 0.1})
    assert errors_of_an_edit(asked, {}, "tumour") == {"volume_error": 1.0, "centroid_error": 1.0}  # missing
    assert errors_of_an_edit({}, {}, "tumour") == {"volume_error": None, "centroid_error": None}  # removed
