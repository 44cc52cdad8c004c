"""Copies are noticed, also mirrored ones, and real cases are not taken for copies."""

import numpy as np
import pytest

from nnunet_sbldm.quality.memorisation import memorisation, nearest_training_cases, overlap_distances, rms_distances


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_distances_are_those_of_their_definition(rng):
    a, b = rng.normal(size=(3, 40)), rng.normal(size=(5, 40))
    np.testing.assert_allclose(rms_distances(a, b)[1, 4], np.sqrt(np.mean((a[1] - b[4]) ** 2)))
    masks = (rng.uniform(size=(4, 40)) > 0.5).astype(float)
    dice = 2 * (masks[0] * masks[1]).sum() / (masks[0].sum() + masks[1].sum())
    assert overlap_distances(masks[:1], masks[1:2])[0, 0] == pytest.approx(1 - dice)
    assert overlap_distances(masks, masks).diagonal() == pytest.approx(0)
    assert overlap_distances(np.zeros((1, 5)), np.zeros((1, 5)))[0, 0] == 1


def test_copies_are_flagged_with_the_case_they_copy_also_mirrored(rng):
    def sets(rows):
        return dict.fromkeys(("image", "mask", "pair"), rows)

    training, held_out, unrelated = (np.abs(rng.normal(size=(n, 60))) for n in (12, 6, 4))
    mirror = slice(None, None, -1)
    copies = np.stack([training[5] + 0.01 * rng.normal(size=60), training[7][mirror]])
    cases = np.concatenate([copies, unrelated])
    found = nearest_training_cases(sets(cases), sets(cases[:, mirror]), sets(training))
    real = nearest_training_cases(sets(held_out), sets(held_out[:, mirror]), sets(training))
    for kind in ("image", "mask", "pair"):
        assert found[kind].index[:2].tolist() == [5, 7]
        assert found[kind].mirrored[:2].tolist() == [False, True]
        flagged = memorisation(found[kind].distance, real[kind].distance, rng).flagged
        assert flagged[:2].all()


def test_memorisation_of_real_cases_is_one_and_of_copies_far_below(rng):
    held_out = rng.normal(10, 1, 200)
    fine = memorisation(rng.normal(10, 1, 200), held_out, rng)
    assert fine.ratio == pytest.approx(1, abs=0.05)
    assert fine.ratio_range[0] < 1 < fine.ratio_range[1]
    assert fine.half_range[0] < 1 < fine.half_range[1]
    assert fine.expected_flagged == pytest.approx(200 / 201)
    copying = memorisation(rng.normal(2, 0.1, 50), held_out, rng)
    assert copying.ratio < 0.25
    assert copying.flagged.all()
