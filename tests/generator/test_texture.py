"""The texture that is added to decoded images: its strength, its correlation, and where it is."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from nnunet_sbldm.generator.requests import Request
from nnunet_sbldm.generator.sampling import draw
from nnunet_sbldm.generator.texture import NO_TEXTURE, Texture
from nnunet_sbldm.ldm.config import SamplerConfig
from nnunet_sbldm.quality.random_fields import MAX_LAG, SIZE

SHAPE = (20, 32, 28)
CLASSES = np.ones(SHAPE, np.uint8)
CLASSES[:, :6] = 0
CLASSES[8:14, 12:22, 8:18] = 2
STD = np.array([0.0, 0.1, 0.3])


def correlated(seed):
    """Noise that is smooth along W, with the strength of each class."""
    noise = ndimage.gaussian_filter1d(np.random.default_rng(seed).standard_normal((2, *SHAPE)), 0.8, axis=3)
    return noise / noise.std() * STD[CLASSES]


@pytest.fixture
def texture():
    return Texture.fit(((correlated(s), CLASSES) for s in range(6)), 2, 3)


def test_strength_and_correlation_are_those_of_the_residuals(texture):
    np.testing.assert_allclose(texture.std, [STD, STD], rtol=0.05, atol=1e-9)
    along_w = np.reshape(texture.correlation[0], (SIZE, SIZE, SIZE))[MAX_LAG, MAX_LAG, MAX_LAG:]
    along_d = np.reshape(texture.correlation[0], (SIZE, SIZE, SIZE))[MAX_LAG:, MAX_LAG, MAX_LAG]
    np.testing.assert_allclose(along_w[:3], [1, np.exp(-1 / 2.56), np.exp(-4 / 2.56)], atol=0.05)
    np.testing.assert_allclose(along_d[:3], [1, 0, 0], atol=0.03)


def test_a_drawn_field_has_the_same_strength_and_correlation(texture):
    fields = [texture.draw(CLASSES, np.random.default_rng(s)) for s in range(6)]
    again = Texture.fit(((f, CLASSES) for f in fields), 2, 3)
    np.testing.assert_allclose(again.std, texture.std, rtol=0.05, atol=1e-9)
    np.testing.assert_allclose(again.correlation, texture.correlation, atol=0.06)


def test_there_is_none_outside_and_it_depends_on_the_random_numbers_alone(texture):
    field = texture.draw(CLASSES, np.random.default_rng(0))
    assert not field[:, CLASSES == 0].any()
    assert np.array_equal(field, texture.draw(CLASSES, np.random.default_rng(0)))
    assert not np.array_equal(field, texture.draw(CLASSES, np.random.default_rng(1)))
    assert not np.array_equal(field[0], field[1])


def test_edges_that_the_decoder_misplaced_do_not_become_noise():
    residual = 0.1 * correlated(0)
    residual[:, :, 15] = 1.0
    np.testing.assert_allclose(Texture.fit([(residual, CLASSES)], 2, 3).std, 0.1 * np.array([STD, STD]), rtol=0.2, atol=1e-9)


def test_ignored_voxels_are_not_measured():
    classes = CLASSES.copy()
    residual = correlated(0)
    classes[:4], residual[:, :4] = 255, 1000
    assert np.max(Texture.fit([(residual, classes)], 2, 3).std) < 0.4


def test_synthetic_cases_carry_it(generator):
    plain = replace(generator, plan=replace(generator.plan, texture=NO_TEXTURE))
    requests, sampler = [Request("a", 3, {}, 1.0)], SamplerConfig(num_steps=3)
    (with_texture,), (without,) = list(draw(generator, requests, sampler)), list(draw(plain, requests, sampler))
    added = with_texture.image - without.image
    assert (np.abs(with_texture.image) <= np.maximum(np.abs(without.image), 1)).all()
    assert np.array_equal(with_texture.label, without.label)
    assert not added[:, ~with_texture.anatomy].any()
    background = with_texture.label == 0
    expected = np.array(generator.plan.texture.std)[:, 1]
    assert added[:, background].any()
    assert (added[:, background].std(axis=1) <= 1.1 * expected).all()
