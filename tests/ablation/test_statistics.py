"""Intervals, tests and verdicts of a study."""


import numpy as np
import pytest

from nnunet_sbldm.ablation.statistics import (
    Comparison,
    Interval,
    compare,
    holm,
    interval_of_mean,
    signed_rank,
    terciles,
    verdict,
)
from nnunet_sbldm.types import UserError


def test_holm_on_a_worked_example():
    """Adjusted as by R's ``p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm")``."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert np.isnan(holm([0.01, float("nan")])[1])
    assert holm([0.01, float("nan")])[0] == 0.01


def test_signed_rank_on_known_values():
    """All ten pairs of one sign: 2 of the 1024 sign patterns are as extreme."""
    assert signed_rank(np.arange(1.0, 11.0)[:, None, None]) == (pytest.approx(2 / 1024), 1)
    assert signed_rank(-np.arange(1.0, 11.0)[:, None, None]) == (pytest.approx(2 / 1024), -1)
    assert signed_rank(np.zeros((10, 2, 1))) == (1, 0)
    assert np.isnan(signed_rank(np.ones((5, 2, 1)))[0])


def test_pairs_that_do_not_differ_are_no_evidence():
    unchanged = np.zeros((12, 1, 1))
    assert np.isnan(signed_rank(np.concatenate([unchanged, np.arange(1.0, 6.0)[:, None, None]]))[0])
    assert signed_rank(np.concatenate([unchanged, np.arange(1.0, 11.0)[:, None, None]])) == (pytest.approx(2 / 1024), 1)


@pytest.mark.parametrize("seeds", [1, 5])
def test_an_interval_covers_the_mean_as_often_as_it_says(seeds):
    """Seeds of one fold share its training cases: more of them make an interval no narrower than the folds allow."""
    rng, hits = np.random.default_rng(0), 0
    for i in range(200):
        folds = rng.normal(0, 0.1, (1, 8, 1)) + rng.normal(0, 0.02, (1, 8, seeds))
        interval = interval_of_mean(0.5 + rng.normal(0, 0.2, (30, 1, 1)) + folds, 400, 0.95, i)
        hits += interval.low <= 0.5 <= interval.high
    assert 0.85 < hits / 200 <= 1


def test_an_interval_of_cases_alone_is_that_of_the_standard_error():
    values = np.random.default_rng(1).normal(0, 1, (400, 1, 1))
    interval = interval_of_mean(values, 5000, 0.95)
    assert interval.mean == pytest.approx(values.mean())
    assert (interval.high - interval.low) / 2 == pytest.approx(1.96 * values.std() / 20, rel=0.1)


def test_missing_values_and_single_cases():
    table = np.array([[0.5, np.nan], [np.nan, np.nan], [0.7, 0.9]])[..., None]
    assert interval_of_mean(table, 200, 0.95).mean == pytest.approx(0.7)
    one = interval_of_mean(np.array([[[0.5]]]), 200, 0.95)
    assert (one.mean, np.isnan(one.low)) == (0.5, True)
    assert np.isnan(interval_of_mean(np.full((3, 2, 2), np.nan), 200, 0.95).mean)


def test_a_study_that_is_not_finished_has_intervals():
    table = np.random.default_rng(0).uniform(0.4, 0.6, (20, 2, 2))
    table[:, 1, 1] = np.nan
    interval = interval_of_mean(table, 500, 0.95)
    assert 0.4 < interval.low < interval.mean < interval.high < 0.6


def test_thirds_are_by_size_and_leave_out_cases_without_foreground():
    parts = terciles(np.array([5.0, 0.0, 1.0, 9.0, 2.0, 7.0, 3.0]))
    assert [p.tolist() for p in parts] == [[2, 4], [6, 0], [5, 3]]


def test_a_verdict_needs_interval_and_test_in_one_direction():
    assert verdict(Interval(0.1, 0.05, 0.15), 0.01, 1) == "better"
    assert verdict(Interval(-0.1, -0.15, -0.05), 0.01, -1) == "worse"
    assert verdict(Interval(0.1, 0.05, 0.15), 0.01, -1) == "mixed"
    assert verdict(Interval(-0.1, -0.15, -0.05), 0.01, 1) == "mixed"
    assert verdict(Interval(0.1, 0.05, 0.15), 0.06, 1) == "tends better"
    assert verdict(Interval(-0.1, -0.15, -0.05), 0.06, -1) == "tends worse"
    assert verdict(Interval(0.1, -0.05, 0.15), 0.01, 1) == "no difference shown"
    assert verdict(Interval(0.1, 0.05, 0.15), float("nan"), 0) == "tends better"
    assert verdict(Interval(0.1, float("nan"), float("nan")), 0.01, 1) == "no difference shown"


def test_few_that_gain_much_do_not_make_better_what_most_lose_by():
    real = np.full((100, 1, 1), 0.5)
    other = real + np.where(np.arange(100) < 15, 0.3, -0.01)[:, None, None]
    what = Comparison("real_only", ["real_only", "other"], [5], {}, np.arange(100.0), 500, 0.95)
    _, row = compare({("real_only", 5): real, ("other", 5): other}, what)
    assert row["difference"]["low"] > 0
    assert row["p_holm"] < 0.05
    assert row["verdict"] == "mixed"


def test_comparisons_are_paired_and_oracles_stand_at_every_number_of_cases():
    rng = np.random.default_rng(0)
    real = {n: rng.uniform(0.3, 0.9, (24, 2, 1)) for n in (5, 10)}
    scores = {("real_only", n): real[n] for n in real}
    scores |= {("good", n): real[n] + 0.02 + rng.normal(0, 0.01, (24, 2, 1)) for n in real}
    scores |= {("bad", 5): real[5] - 0.02 + rng.normal(0, 0.01, (24, 2, 1)), ("oracle", 20): real[10] + 0.05}
    what = Comparison("real_only", ["real_only", "good", "bad", "oracle"], [5, 10], {"oracle": 20}, np.arange(24.0), 500, 0.95)
    rows = {(r["arm"], r["num_cases"]): r for r in compare(scores, what)}
    assert set(rows) == {(a, n) for a in ("real_only", "good", "oracle") for n in (5, 10)} | {("bad", 5)}
    assert rows["good", 5]["difference"]["mean"] == pytest.approx(0.02, abs=0.005)
    assert rows["good", 5]["verdict"] == "better"
    assert (rows["good", 5]["num_runs"], rows["good", 5]["num_folds"]) == (2, 2)
    assert rows["bad", 5]["verdict"] == "worse"
    assert rows["bad", 5]["num_worse"] > 20
    assert rows["oracle", 10]["difference"]["mean"] == pytest.approx(0.05)
    assert rows["real_only", 5]["verdict"] is None
    assert len(rows["good", 5]["thirds"]) == 3
    with pytest.raises(UserError, match="No run of real_only is finished"):
        compare({k: v for k, v in scores.items() if k[0] != "real_only"}, what)
