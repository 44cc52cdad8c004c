import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnunet_sbldm.mixing.schedule import RAMP_END, RAMP_START, SCHEDULES, ratio_at

RATIOS, LENGTHS = st.floats(0, 1), st.integers(1, 400)


def shares(schedule, ratio, num_epochs):
    return np.array([ratio_at(schedule, ratio, e, num_epochs) for e in range(num_epochs)])


@given(st.sampled_from(SCHEDULES), RATIOS, LENGTHS)
def test_a_share_never_rises_and_lies_between_0_and_1(schedule, ratio, num_epochs):
    values = shares(schedule, ratio, num_epochs)
    assert (np.diff(values) <= 0).all()
    assert values.min() >= 0
    assert values.max() <= 1


@given(st.sampled_from(SCHEDULES), LENGTHS)
def test_ratio_0_is_real_only_in_every_schedule(schedule, num_epochs):
    assert (shares(schedule, 0.0, num_epochs) == 0).all()


@given(RATIOS, LENGTHS)
def test_constant_is_the_ratio(ratio, num_epochs):
    assert (shares("constant", ratio, num_epochs) == ratio).all()


@given(RATIOS, LENGTHS)
def test_pretrain_draws_the_ratio_over_the_whole_training_and_mixes_in_one_epoch_at_most(ratio, num_epochs):
    values = shares("pretrain", ratio, num_epochs)
    assert values.mean() == pytest.approx(ratio)
    assert ((values > 0) & (values < 1)).sum() <= 1


@given(RATIOS, st.integers(1, 100))
def test_ramp_down_draws_half_the_ratio_over_the_whole_training(ratio, quarter):
    assert shares("ramp_down", ratio, 4 * quarter).mean() == pytest.approx(ratio / 2)


def test_ramp_down_holds_the_ratio_falls_linearly_and_ends_real_only():
    values = shares("ramp_down", 0.5, 1000)
    assert (values[: int(1000 * RAMP_START)] == 0.5).all()
    assert (values[int(1000 * RAMP_END) :] == 0).all()
    assert np.ptp(np.diff(values[250:750])) < 1e-12
    assert values[500] == pytest.approx(0.25, abs=1e-3)
