"""Shares of synthetic cases that trainings drew."""

import pandas as pd
import pytest

from nnunet_sbldm.ablation.shares import COLUMNS, mean_shares, other_share


def shares(*runs):
    """Runs of one arm: draws, asked and drawn share of each."""
    return pd.DataFrame([["a", 5, 0, i, *run, 0, ""] for i, run in enumerate(runs)], columns=COLUMNS)


@pytest.mark.parametrize(("draws", "drawn", "differs"), [
    (100, 0.25, False), (100, 0.3, False), (100, 0.32, True), (10000, 0.28, True)])
def test_a_share_may_miss_by_a_few_draws(draws, drawn, differs):
    assert bool(len(other_share(shares((draws, 0.25, drawn))))) == differs


def test_the_worst_share_is_named_first():
    assert list(other_share(shares((100, 0.25, 0.25), (100, 0.25, 0.1), (100, 0.25, 0.5)))["drawn"]) == [0.5, 0.1]


def test_a_mean_share_weighs_runs_by_their_draws():
    assert mean_shares(shares((100, 0.25, 0.0), (300, 0.25, 0.2))) == {("a", 5): {
        "asked": 0.25, "drawn": pytest.approx(0.15), "lowest": 0.0, "highest": 0.2, "num_runs": 2}}
