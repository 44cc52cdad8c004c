"""Pairs of cases whose similarity is measured."""

import numpy as np
import pytest

from nnunet_sbldm.evaluation.images import random_pairs


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_pairs_are_different_and_bounded(rng):
    assert sorted(random_pairs(3, rng)) == [(0, 1), (0, 2), (1, 2)]
    many = list(random_pairs(50, rng))
    assert len(set(many)) == 100
    assert all(i < j for i, j in many)
