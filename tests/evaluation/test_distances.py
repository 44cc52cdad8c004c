"""Distances of sets: closed forms and extremes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import sqrtm

from nnunet_sbldm.evaluation.distances import equal_parts, frechet_distance, kernel_distance, support


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_frechet_distance_of_equal_sets_is_zero_and_of_shifted_ones_the_squared_shift(rng):
    x = rng.normal(size=(12, 30))  # fewer cases than features
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(x, x + np.full(30, 0.5)) == pytest.approx(30 * 0.25)


@given(seed=st.integers(0, 1000), num_features=st.integers(1, 6))
def test_frechet_distance_agrees_with_the_matrix_root(seed, num_features):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(20, num_features)), rng.normal(1, 2, size=(25, num_features))
    sx, sy = (np.atleast_2d(np.cov(v.T)) for v in (x, y))
    expected = np.square(x.mean(0) - y.mean(0)).sum() + np.trace(sx + sy - 2 * np.real(sqrtm(sx @ sy)))
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-6)


def test_frechet_distance_of_large_gaussian_samples_reaches_its_closed_form(rng):
    x, y = rng.normal(0, 1, size=(40000, 2)), rng.normal(1, 3, size=(40000, 2))
    assert frechet_distance(x, y) == pytest.approx(2 * (1 + (3 - 1) ** 2), rel=0.03)


def test_kernel_distance_is_unbiased_and_its_p_is_uniform_for_one_distribution(rng):
    found = np.array([kernel_distance(rng.normal(size=(8, 3)), rng.normal(size=(12, 3)), rng) for _ in range(120)])
    standard_error = found[:, 0].std() / np.sqrt(len(found))
    assert abs(found[:, 0].mean()) < 3 * standard_error
    assert (found[:, 0] < 0).any()
    assert 0.38 < found[:, 1].mean() < 0.62


def test_kernel_distance_of_two_distributions_is_positive_and_significant(rng):
    distance, p = kernel_distance(rng.normal(size=(15, 3)), rng.normal(1.5, 1, size=(15, 3)), rng)
    assert distance > 1
    assert p < 0.01


def test_support_of_equal_of_far_and_of_collapsed_sets(rng):
    x = rng.normal(size=(30, 4))
    assert support(x, x) == pytest.approx({"precision": 1, "recall": 1, "density": 1.2, "coverage": 1}, abs=0.01)  # (k + 1) / k
    assert set(support(x, x + 100).values()) == {0}
    collapsed = support(x, np.tile(x[:1], (30, 1)) + 1e-6 * rng.normal(size=(30, 4)))
    assert collapsed["precision"] == 1
    assert collapsed["recall"] < 0.1
    assert collapsed["coverage"] < 0.5


def test_parts_have_one_size_and_no_case_twice(rng):
    x, y = np.arange(7)[:, None], np.arange(100, 130)[:, None]
    parts = list(equal_parts(x, y, 5, rng))
    assert all(len(np.unique(a)) == len(np.unique(b)) == 5 and a.max() < 7 and b.min() >= 100 for a, b in parts)
    assert len(list(equal_parts(x, x, 7, rng))) == 1
