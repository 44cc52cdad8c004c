"""Fidelity of a reconstruction."""

import numpy as np
import pytest

from nnunet_sbldm.evaluation.reconstruction import dice_per_class, image_fidelity


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_dice_and_psnr_have_their_textbook_values(rng):
    wanted = np.array([[[1, 2, 2, 2, 3]]], np.uint8)
    found = np.array([[[1, 1, 2, 2, 2]]], np.uint8)
    np.testing.assert_allclose(dice_per_class(found, wanted, range(2, 5)), [2 * 2 / 6, 0, np.nan])
    target = rng.uniform(size=(1, 8, 16, 16)).astype(np.float32)
    inside = np.ones(target.shape[1:], bool)
    span = np.ptp(np.percentile(target, (0.5, 99.5)))
    psnr_db, _ = image_fidelity(target + 0.1, target, inside)
    assert psnr_db == pytest.approx(20 * np.log10(span / 0.1), rel=1e-3)
    assert image_fidelity(target, target, inside)[1] == pytest.approx(1)
