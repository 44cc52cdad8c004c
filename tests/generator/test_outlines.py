"""Label maps drawn from logits: probabilities, roughness, specks."""

from dataclasses import replace

import numpy as np
import torch
from scipy import ndimage, special

from nnunet_sbldm.generator import decoding
from nnunet_sbldm.generator.outlines import MOST_PROBABLE, Outlines, _gumbel
from nnunet_sbldm.generator.requests import Request
from nnunet_sbldm.generator.sampling import draw
from nnunet_sbldm.ldm.config import SamplerConfig
from nnunet_sbldm.quality.random_fields import MAX_LAG, SIZE

WHITE = np.zeros((SIZE,) * 3)
WHITE[MAX_LAG, MAX_LAG, MAX_LAG] = 1
SHAPE = (24, 28, 26)
SPACING = (1.0, 1.0, 1.0)


def ball(radius, steepness=1.0, shape=SHAPE):
    """Logits [3, D, H, W] of outside, background and a ball, whose outline is ``steepness`` per voxel sure."""
    away = np.linalg.norm(np.moveaxis(np.indices(shape), 0, -1) - (np.array(shape) - 1) / 2, axis=-1) - radius
    return np.stack([np.full(shape, -50.0), steepness * away, -steepness * away]).astype(np.float32)


def test_noise_of_strength_1_draws_from_the_softmax():
    logits = np.broadcast_to(np.array([1.0, 0.0, -1.0])[:, None, None, None], (3, 40, 40, 40))
    drawn = (logits + _gumbel(tuple(WHITE.ravel()), logits.shape, np.random.default_rng(0))).argmax(axis=0)
    shares = np.bincount(drawn.ravel(), minlength=3) / drawn.size
    np.testing.assert_allclose(shares, special.softmax([1.0, 0.0, -1.0]), atol=0.01)


def test_noise_moves_outlines_and_makes_neither_specks_nor_holes():
    logits = ball(8, 0.3)
    certain = 1 + logits[1:].argmax(axis=0)
    drawn = Outlines(1.0, tuple(WHITE.ravel())).draw(logits, np.random.default_rng(0))
    noisy = 1 + (logits[1:] + _gumbel(tuple(WHITE.ravel()), (2, *SHAPE), np.random.default_rng(0))).argmax(axis=0)
    for value in (1, 2):
        assert ndimage.label(noisy == value, np.ones((3, 3, 3)))[1] > 1
        assert ndimage.label(drawn == value, np.ones((3, 3, 3)))[1] == 1
    assert (drawn != certain).sum() > 100


def test_strength_0_takes_the_most_probable_class():
    logits = ball(8)
    assert np.array_equal(MOST_PROBABLE.draw(logits, np.random.default_rng(0)), 1 + logits[1:].argmax(0))


def test_draws_depend_on_the_random_numbers_alone():
    outlines, logits = Outlines(1.0, tuple(WHITE.ravel())), ball(8, 0.5)
    first, same, other = (outlines.draw(logits, np.random.default_rng(s)) for s in (1, 1, 2))
    assert np.array_equal(first, same)
    assert not np.array_equal(first, other)


def test_synthetic_cases_carry_it(generator, monkeypatch):
    real_decode = decoding.decode_volume

    def decode(autoencoder, latent, part, precision):
        image, logits = real_decode(autoencoder, latent, part, precision)
        return image, torch.from_numpy(ball(4, 0.5, logits.shape[1:]))

    monkeypatch.setattr(decoding, "decode_volume", decode)
    rough = replace(generator, plan=replace(generator.plan, outlines=Outlines(2.0, tuple(WHITE.ravel()))))
    smooth = replace(generator, plan=replace(generator.plan, outlines=MOST_PROBABLE))
    requests, sampler = [Request("a", 3, {}, 1.0)], SamplerConfig(num_steps=3, max_corrections=0)
    (one,), (other,) = list(draw(rough, requests, sampler)), list(draw(smooth, requests, sampler))
    assert not np.array_equal(one.label, other.label)
    assert np.array_equal(one.anatomy, other.anatomy)
    assert np.array_equal(one.label, next(iter(draw(rough, requests, sampler))).label)
