"""Distributions: the floor is what training cases would get, and a shift is measured in its unit."""

import numpy as np
import pytest

from nnunet_sbldm.evaluation.distributions import _mask_result, distribution_results
from nnunet_sbldm.evaluation.goals import DEFAULT_GOALS


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_training_cases_as_synthetic_ones_give_the_floor_and_a_shifted_set_gives_more(rng):
    held_out, training = rng.normal(size=(20, 6)), rng.normal(size=(20, 6))
    for r in distribution_results(training, held_out, training, rng):
        assert r.value == pytest.approx(r.floor)
    shifted = {r.id: r for r in distribution_results(training + 3, held_out, training, rng)}
    assert shifted["frechet"].value > 5 * shifted["frechet"].floor
    assert shifted["coverage"].value < shifted["coverage"].floor
    assert shifted["kid"].details["p"] < 0.01 < shifted["kid"].details["floor_p"]


def test_wasserstein_distance_of_a_shift_is_the_shift_in_its_unit(rng):
    x = rng.normal(30, 5, 25)
    result = _mask_result("tumour/volume_ml", [x + 7, x, np.append(x, np.nan)[1:]], rng, DEFAULT_GOALS)
    assert result.value == pytest.approx(7, rel=0.1)
    assert result.reached is False
    assert result.num_cases == 24
