"""Conditions: measured in physical units, scaled, fitted, and sampled as asked."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnunet_sbldm.data.conditions import FEATURES, ConditionModel, ConditionScaling, Target, feature_names, measure
from nnunet_sbldm.types import OUTSIDE

TARGETS = (Target("tumour", (1,)), Target("core", (2,)))
NAMES = feature_names(TARGETS)


def ball(shape, spacing, centre_mm, radius_mm):
    grid = np.stack(np.meshgrid(*((np.arange(n) + 0.5) * s for n, s in zip(shape, spacing, strict=True)), indexing="ij"))
    return ((grid - np.reshape(centre_mm, (3, 1, 1, 1))) ** 2).sum(0) < radius_mm**2


def test_a_ball_is_measured_in_millimetres_and_millilitres():
    spacing = (2.0, 1.0, 1.0)
    label = np.zeros((30, 60, 60), np.int16)
    label[ball(label.shape, spacing, (30, 20, 40), 12)] = 1
    c = dict(zip(NAMES, measure(label, TARGETS, spacing), strict=True))
    assert c["tumour/volume_ml"] == pytest.approx(4 / 3 * np.pi * 12**3 / 1000, rel=0.02)
    assert [c[f"tumour/centroid_{a}"] for a in "dhw"] == pytest.approx([30 / 60, 20 / 60, 40 / 60], abs=0.01)
    assert [c[f"tumour/extent_{a}_mm"] for a in "dhw"] == pytest.approx([24, 24, 24], abs=2)
    assert c["tumour/sphericity"] > 0.85
    assert c["tumour/num_components"] == 1
    assert c["core/presence"] == 0
    assert np.isnan(c["core/volume_ml"])


def test_the_centroid_is_relative_to_the_anatomy_not_to_the_array():
    label = np.full((20, 20, 20), OUTSIDE, np.int16)
    label[5:15, 5:15, 5:15] = 0
    label[5:7, 5:7, 5:7] = 1
    c = dict(zip(NAMES, measure(label, TARGETS, (1, 1, 1)), strict=True))
    assert [c[f"tumour/centroid_{a}"] for a in "dhw"] == pytest.approx([0.1] * 3)
    assert [c[f"anatomy/extent_{a}_mm"] for a in "dhw"] == [10, 10, 10]


def test_where_there_is_no_anatomy_every_label_is_absent_and_nothing_else_is_known():
    c = dict(zip(NAMES, measure(np.full((6, 6, 6), OUTSIDE, np.int16), TARGETS, (1, 1, 1)), strict=True))
    assert {n: v for n, v in c.items() if not np.isnan(v)} == {"tumour/presence": 0, "core/presence": 0}


def test_a_region_is_the_union_of_its_labels():
    label = np.zeros((8, 8, 8), np.int16)
    label[2:4, 2:4, 2:4], label[4:6, 2:4, 2:4] = 1, 2
    targets = (Target("whole", (1, 2)), Target("one", (1,)))
    c = dict(zip(feature_names(targets), measure(label, targets, (1, 1, 1)), strict=True))
    assert c["whole/volume_ml"] == pytest.approx(2 * c["one/volume_ml"])


def made_up_table(num_cases=30, seed=0):
    rng = np.random.default_rng(seed)
    volume = np.exp(rng.normal(2, 0.7, num_cases))
    side = 10 * volume ** (1 / 3)
    block = np.column_stack(
        [
            np.ones(num_cases),
            volume,
            *rng.uniform(0.2, 0.8, (3, num_cases)),
            side,
            side,
            side,
            rng.uniform(0.5, 0.9, num_cases),
            np.ones(num_cases),
        ]
    )
    absent = np.tile([0.0] + [np.nan] * (len(FEATURES) - 1), (num_cases, 1))
    absent[::3] = block[::3] * [1, 0.2, 1, 1, 1, 0.5, 0.5, 0.5, 1, 1]
    return np.hstack([block, absent, rng.normal(100, 5, (num_cases, 3))])


def fitted():
    table = made_up_table()
    return ConditionModel(ConditionScaling.fit(NAMES, table), table)


def test_scaling_has_zero_mean_unit_variance_and_an_inverse():
    model = fitted()
    scaled = model.scaling.scaled(model.table)
    assert abs(np.nanmean(scaled[:, 1])) < 1e-9
    assert np.nanstd(scaled[:, 1]) == pytest.approx(1)
    np.testing.assert_allclose(model.scaling.physical(scaled), model.table, rtol=1e-6)


@given(st.integers(0, 10**6), st.floats(1, 60), st.floats(0.2, 0.8))
def test_what_is_asked_is_kept_and_the_rest_is_plausible(seed, volume, centroid):
    asked = {"tumour/presence": 1.0, "tumour/volume_ml": volume, "tumour/centroid_d": centroid}
    c = dict(zip(NAMES, fitted().sample(np.random.default_rng(seed), asked), strict=True))
    assert {k: c[k] for k in asked} == asked
    assert all(0 <= c[f"tumour/centroid_{a}"] <= 1 for a in "dhw")
    assert c["core/presence"] in (0, 1)
    assert np.isnan(c["core/volume_ml"]) == (c["core/presence"] == 0)


def test_samples_follow_the_training_conditions_and_keep_their_correlations():
    model = fitted()
    drawn = np.array([model.sample(np.random.default_rng(i)) for i in range(400)])
    log_volume, log_extent = np.log(drawn[:, 1]), np.log(drawn[:, 5])
    assert log_volume.mean() == pytest.approx(np.log(model.table[:, 1]).mean(), abs=0.15)
    assert np.corrcoef(log_volume, log_extent)[0, 1] > 0.6
    assert np.mean(drawn[:, len(FEATURES)]) == pytest.approx(1 / 3, abs=0.08)


@pytest.mark.parametrize("num_cases", [8, 40])
def test_samples_spread_as_the_training_conditions_do_and_more_diversity_spreads_them_more(num_cases):
    table = made_up_table(num_cases)
    model = ConditionModel(ConditionScaling.fit(NAMES, table), table)
    spread = [
        np.std([np.log(model.sample(np.random.default_rng(i), diversity=d)[1]) for i in range(400)])
        / np.log(table[:, 1]).std()
        for d in (0.5, 1.0, 2.0)
    ]
    assert spread[:2] == pytest.approx([1, 1], abs=0.12)
    assert spread[2] > 1.3


def test_a_large_asked_volume_draws_large_extents():
    model = fitted()
    mean_extent = [
        np.mean([model.sample(np.random.default_rng(i), {"tumour/presence": 1, "tumour/volume_ml": v})[5] for i in range(100)])
        for v in (2.0, 30.0)
    ]
    assert mean_extent[1] > 1.3 * mean_extent[0]


def test_no_diversity_repeats_training_conditions():
    model = fitted()
    drawn = model.sample(np.random.default_rng(3), diversity=1e-6)
    distance = np.nanmax(np.abs(model.scaling.scaled(model.table) - model.scaling.scaled(drawn)), axis=1)
    assert distance.min() < 1e-3


def test_measuring_takes_memory_within_three_times_the_label_map():
    label = np.zeros((64, 128, 128), np.int16)
    label[20:40, 30:90, 40:100] = 1
    tracemalloc.start()
    measure(label, (Target("tumour", (1,)),), (1.0, 1.0, 1.0))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    surface = 20 * 60 * 60 * 4 * 30  # marching cubes of the lesion, whatever the size of the volume
    assert peak < 3 * label.nbytes + surface


@given(st.integers(0, 2**32 - 1))
def test_the_place_of_a_label_is_the_mean_of_its_voxels(seed):
    rng = np.random.default_rng(seed)
    label = np.where(rng.random((5, 7, 6)) < 0.1, 1, 0).astype(np.int16)
    label[2, 3, 1] = 1
    found = dict(zip(feature_names([Target("a", (1,))]), measure(label, [Target("a", (1,))], (1.0, 1.0, 1.0)), strict=True))
    expected = (np.argwhere(label == 1).mean(axis=0) + 0.5) / label.shape
    np.testing.assert_array_equal([found[f"a/centroid_{axis}"] for axis in "dhw"], expected)
