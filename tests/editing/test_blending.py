"""Blending: unchanged tissue is given back, new tissue has the texture of its surroundings."""

import numpy as np
import pytest
from editing_cases import ball

from nnunet_sbldm.editing.blending import BlendMap, blend, same_spectrum


def test_unchanged_tissue_is_given_back_although_the_decoder_blurs_it():
    rng = np.random.default_rng(0)
    host, blurred = rng.normal(size=(2, 8, 20, 20)).astype(np.float32), np.zeros((2, 8, 20, 20), np.float32)
    weight = np.clip(ball(host.shape[1:], (4, 10, 10), 6) * rng.uniform(0.1, 1, host.shape[1:]), 0, 1)
    everywhere = np.ones(weight.shape, bool)
    same = blend(host, blurred, blurred, BlendMap(weight, np.zeros(weight.shape), everywhere), rng)
    np.testing.assert_allclose(same, host, atol=1e-6)
    brighter = blend(host, blurred, blurred + 3, BlendMap(weight, weight, everywhere), rng)
    np.testing.assert_array_equal(brighter[:, weight == 0], host[:, weight == 0])
    assert (brighter - host)[:, weight > 0.9].mean() == pytest.approx(3, abs=0.5)
    assert brighter[:, weight > 0.9].std() == pytest.approx(1, abs=0.25)  # as rough as the host


def test_a_random_texture_has_the_spread_and_smoothness_of_its_source():
    from scipy import ndimage

    rng = np.random.default_rng(1)
    residual = ndimage.gaussian_filter(rng.normal(size=(2, 16, 32, 32)), (0, 0, 1, 1)).astype(np.float32)
    texture = same_spectrum(residual, np.ones(residual.shape[1:], bool), rng)
    assert texture.std() == pytest.approx(residual.std(), rel=0.1)
    neighbours = lambda x: np.corrcoef(x[..., 1:].ravel(), x[..., :-1].ravel())[0, 1]  # noqa: E731
    assert neighbours(texture) == pytest.approx(neighbours(residual), abs=0.1)
    assert abs(np.corrcoef(texture.ravel(), residual.ravel())[0, 1]) < 0.1
