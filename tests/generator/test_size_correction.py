"""Draws of wrong size are made again, told of more or less; the best is kept."""

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest

from nnunet_sbldm.data.conditions import FEATURES, Target, as_dict, as_vector, feature_names
from nnunet_sbldm.generator.size_correction import correction, draw_to_size, size_error, tolerance

TARGETS = (Target("tumour", (1,)), Target("cyst", (2,)))
NAMES = feature_names(TARGETS)
VOLUME, EXTENT = NAMES.index("tumour/volume_ml"), NAMES.index("tumour/extent_d_mm")


def vector(volume_ml, cyst_ml=np.nan):
    known = {f"tumour/{f}": 1.0 for f in FEATURES} | {"tumour/volume_ml": volume_ml, "cyst/volume_ml": cyst_ml}
    return as_vector(NAMES, known | {f"tumour/extent_{a}_mm": 10.0 for a in "dhw"})


TABLE = np.stack([vector(1.0), vector(128.0)])
TABLE[0, EXTENT], TABLE[1, EXTENT] = 5.0, 20.0


def plan_of(spread):
    std = np.where([n.endswith("volume_ml") for n in NAMES], spread, 1.0)
    model = SimpleNamespace(table=TABLE, scaling=SimpleNamespace(std=tuple(std)))
    return SimpleNamespace(targets=TARGETS, condition_model=model)


PLAN = plan_of(2.0)


@dataclass
class Drawn:
    obtained: np.ndarray


def stubborn(follow):
    """A denoiser whose lesions follow the volume that it is told by a power law, as if it had been asked for 8 ml more often."""
    calls = []

    def make(chosen, corrected):
        calls.append(list(chosen))
        return [Drawn(vector(8 * (c[VOLUME] / 8) ** follow)) for c in corrected]

    return make, calls


@pytest.mark.parametrize(("corrections", "volume"), [(0, 16.0), (1, 22.63), (2, 26.9)])
def test_each_correction_comes_nearer_and_what_is_right_is_left_alone(corrections, volume):
    make, calls = stubborn(0.5)
    asked = [vector(8.0), vector(32.0)]
    (right, one), (wrong, several) = draw_to_size(PLAN, asked, asked, corrections, make)
    assert (one, several) == (1, 1 + corrections)
    assert calls == [[0, 1], *[[1]] * corrections]
    assert right.obtained[VOLUME] == pytest.approx(8)
    assert wrong.obtained[VOLUME] == pytest.approx(volume, rel=0.01)


def test_the_best_draw_is_kept_where_corrections_make_it_worse():
    volumes = iter([20.0, 60.0, 5.0])
    (drawn, num_draws), = draw_to_size(PLAN, [vector(32.0)], [vector(32.0)], 2, lambda i, c: [Drawn(vector(next(volumes)))])
    assert (drawn.obtained[VOLUME], num_draws) == (20.0, 3)


def test_a_correction_stays_in_the_range_of_the_training_and_ends_at_its_limit():
    asked = vector(32.0)
    corrected = correction(PLAN, asked, asked, vector(4.0))
    assert (corrected[VOLUME], corrected[EXTENT]) == (128.0, 20.0)
    assert as_dict(NAMES, corrected).keys() == as_dict(NAMES, asked).keys()
    further = correction(PLAN, asked, corrected, vector(4.0))
    assert further is None or np.array_equal(further[[VOLUME, EXTENT]], corrected[[VOLUME, EXTENT]])


def test_a_missing_lesion_is_as_wrong_as_can_be_and_what_nobody_asked_for_is_right():
    assert size_error(PLAN, vector(8.0), vector(np.nan)) == np.inf
    assert size_error(PLAN, vector(8.0, 4.0), vector(8.0)) == np.inf
    assert size_error(PLAN, vector(np.nan), vector(8.0)) == 0
    assert size_error(PLAN, vector(8.0, 4.0), vector(8.0, 8.0)) == pytest.approx(np.log(2) / 2)
    assert correction(PLAN, vector(8.0), vector(8.0), vector(np.nan)) is None


@pytest.mark.parametrize(("spread", "allowed"), [(2.0, 0.15), (0.2, np.exp(0.07) - 1), (1e-4, 0.02)])
def test_errors_are_small_beside_15_percent_and_beside_the_spread_of_volumes(spread, allowed):
    plan, asked = plan_of(spread), vector(8.0)
    assert np.exp(tolerance(plan)) - 1 == pytest.approx(allowed)
    assert correction(plan, asked, asked, vector(8.0 * (1 + 0.9 * allowed))) is None
    assert correction(plan, asked, asked, vector(8.0 * (1 + 1.1 * allowed))) is not None
