"""Requests: a larger count extends a smaller one, every fold has its own, and what is asked is what was written."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from label_plans import plan_of

from nnunet_sbldm.data.splits import fold_cases
from nnunet_sbldm.generator.requests import (
    ExpansionRequest,
    apportion,
    balanced_labels,
    plan_requests,
    range_warnings,
)
from nnunet_sbldm.generator.sampling import condition_of
from nnunet_sbldm.generator.spec import SpecEntry
from nnunet_sbldm.types import UserError


@pytest.fixture
def plan(generator):
    return generator.plan


# --- counts, ids and seeds -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"balance": True}, {"size_range_ml": (1.0, 9.0)}], ids=str)
def test_a_larger_count_extends_a_smaller_one(plan, options):
    plan = plan_of(plan, [[1, 0], [1, 0], [1, 1]])
    few, many = (plan_requests(plan, 0, 8, ExpansionRequest(num_cases=n, seed=5, **options), []) for n in (7, 20))
    assert many[:7] == few
    assert len({r.seed for r in many}) == 20


def test_folds_and_seeds_differ_and_the_same_request_comes_again(plan):
    def seeds(fold, seed):
        return [r.seed for r in plan_requests(plan, fold, 8, ExpansionRequest(num_cases=3, seed=seed), [])]

    assert seeds(0, 0) == seeds(0, 0)
    assert len({s for fold in (0, 1, "all") for seed in (0, 1) for s in seeds(fold, seed)}) == 18


def test_a_ratio_counts_the_training_cases_of_the_fold(plan, phantom_dataset):
    train, _ = fold_cases(phantom_dataset, 0)
    requests = plan_requests(plan, 0, len(train), ExpansionRequest(ratio=1.5), phantom_dataset.real_case_ids)
    assert [r.case_id for r in requests] == [f"sbldm_f0_{i:04d}" for i in range(12)]


def test_no_case_and_taken_ids_are_refused(plan):
    with pytest.raises(UserError, match="Fold 2: 0.01 synthetic per real case of 8 makes no case"):
        plan_requests(plan, 2, 8, ExpansionRequest(ratio=0.01), [])
    with pytest.raises(UserError, match="a real case named sbldm_f2_0001"):
        plan_requests(plan, 2, 8, ExpansionRequest(num_cases=2), ["sbldm_f2_0001", "sbldm_f2_00"])


@pytest.mark.parametrize(
    ("wanted", "sentence"),
    [
        ({}, "Exactly one of -ratio, -n and -spec"),
        ({"ratio": 1.0, "num_cases": 2}, "Exactly one of -ratio, -n and -spec"),
        ({"spec": (SpecEntry(),), "balance": True}, "go with -ratio or -n"),
        ({"num_cases": 1, "size_range_ml": (3.0, 2.0)}, "0 < LOW <= HIGH; got 3 and 2"),
        ({"num_cases": 1, "size_range_ml": (0.0, 2.0)}, "0 < LOW <= HIGH; got 0 and 2"),
        ({"num_cases": 1, "label": "core"}, "give both or neither"),
        ({"num_cases": 1, "diversity": float("nan")}, "-diversity takes a number from 0"),
    ],
)
def test_contradictory_wishes_are_refused(wanted, sentence):
    with pytest.raises(UserError, match=sentence):
        ExpansionRequest(**wanted)


# --- size range ----------------------------------------------------------------------------------------------------


def test_volumes_are_log_uniform_in_the_range_and_belong_to_their_label(plan):
    plan = plan_of(plan, [[1, 1], [1, 0]])
    requests = plan_requests(plan, 0, 8, ExpansionRequest(num_cases=600, size_range_ml=(1.0, 100.0), label="3"), [])
    volumes = np.array([r.asked["core/volume_ml"] for r in requests])
    assert (volumes >= 1).all()
    assert (volumes <= 100).all()
    position = np.sort(np.log(volumes) / np.log(100))
    assert np.abs(position - (np.arange(600) + 0.5) / 600).max() < 1.63 / np.sqrt(600)  # Kolmogorov-Smirnov at 1 %


def test_a_drawn_volume_is_the_same_under_the_same_version_of_the_streams(plan):
    (request,) = plan_requests(plan, 0, 8, ExpansionRequest(num_cases=1, size_range_ml=(4.0, 60.0), seed=3), [])
    first = request.with_streams(1)
    drawn = math.exp(np.random.default_rng([request.seed, 2]).uniform(math.log(4), math.log(60)))
    assert first.asked == {**request.asked, "tumour/volume_ml": drawn} != request.asked
    assert first.with_streams(2) == request
    identity = {"case_id": "sbldm_f0_0000", "seed": request.seed, "asked": first.asked, "diversity": 1.0, "attempt": 0}
    assert request.identity() == first.identity() == identity


def test_asked_volumes_reach_the_condition(plan, generator):
    for request in plan_requests(plan, 0, 8, ExpansionRequest(num_cases=3, size_range_ml=(4.0, 6.0)), []):
        condition = condition_of(generator, request)[list(plan.condition_scaling.names).index("tumour/volume_ml")]
        assert condition == pytest.approx(request.asked["tumour/volume_ml"])
        assert 4 <= condition <= 6


def test_values_outside_the_training_range_are_said_once_for_each_feature(plan):
    assert range_warnings(plan, [{"tumour/volume_ml": 1e4}])[0].startswith(
        "tumour/volume_ml = 10000 is outside the training range "
    )
    asked = [{"tumour/volume_ml": v} for v in (2e4, 1e4, float(np.nanmean(plan.condition_model.table[:, 1])))]
    (warning,) = range_warnings(plan, asked)
    assert warning.startswith("tumour/volume_ml: 2 of 3 asked values, 10000 to 20000, are outside the training range ")
    assert range_warnings(plan, asked[2:]) == []


# --- balance -------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 50), min_size=1, max_size=8), st.integers(1, 120))
def test_every_prefix_has_each_label_by_its_share_to_less_than_one_case(weights, count):
    shares = np.array(weights) / sum(weights)
    seats = apportion(shares, count)
    for n in range(1, count + 1):
        counts = np.bincount(seats[:n], minlength=len(shares))
        assert (np.abs(counts - shares * n) < 1).all()


def test_a_rare_label_is_asked_for_in_inverse_proportion_to_its_frequency(plan):
    plan = plan_of(plan, [[1, 0], [1, 0], [1, 0], [1, 1]])
    requests = plan_requests(plan, 0, 8, ExpansionRequest(num_cases=50, balance=True), [])
    asked = [next(iter(r.asked)) for r in requests]
    assert (asked.count("core/presence"), asked.count("whole/presence")) == (40, 10)
    assert all(r.asked == {name: 1.0} for r, name in zip(requests, asked, strict=True))


def test_labels_that_are_always_or_never_present_are_not_asked_for(plan):
    always, never = plan_of(plan, [[1, 1]] * 3), plan_of(plan, [[1, 0], [0, 0]])
    assert plan_requests(always, 0, 8, ExpansionRequest(num_cases=4, balance=True), []) == plan_requests(
        always, 0, 8, ExpansionRequest(num_cases=4), []
    )
    assert balanced_labels(never, 3) == ["whole"] * 3


def test_a_size_range_of_the_balanced_label_is_kept(plan):
    plan = plan_of(plan, [[1, 0], [1, 1]])
    wanted = ExpansionRequest(num_cases=6, balance=True, size_range_ml=(2.0, 2.0), label="core")
    assert all(r.asked["core/volume_ml"] == 2 for r in plan_requests(plan, 0, 8, wanted, []))
