"""Label maps drawn from logits: probabilities, roughness, specks."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage, special

from nnunet_sbldm import synthesis
from nnunet_sbldm.conditions import sphericity
from nnunet_sbldm.config import SamplerConfig
from nnunet_sbldm.label_maps import MOST_PROBABLE, Outlines, _gumbel, remove_specks
from nnunet_sbldm.random_fields import MAX_LAG, SIZE
from nnunet_sbldm.requests import Request
from nnunet_sbldm.synthesis import draw

WHITE = np.zeros((SIZE,) * 3)
WHITE[MAX_LAG, MAX_LAG, MAX_LAG] = 1
SHAPE = (24, 28, 26)
SPACING = (1.0, 1.0, 1.0)


def ball(radius, steepness=1.0, shape=SHAPE):
    """Logits [3, D, H, W] of outside, background and a ball, whose outline is ``steepness`` per voxel sure."""
    away = np.linalg.norm(np.moveaxis(np.indices(shape), 0, -1) - (np.array(shape) - 1) / 2, axis=-1) - radius
    return np.stack([np.full(shape, -50.0), steepness * away, -steepness * away]).astype(np.float32)


def rough_balls(num=6):
    """Balls with a noisy outline, and the logits of the smooth balls behind them."""
    for n in range(num):
        rng, logits = np.random.default_rng(n), ball(7 + 0.5 * n)
        noise = ndimage.gaussian_filter(rng.standard_normal(SHAPE), 0.7)
        real = 1 + (logits[2] - logits[1] + 5 * noise > 0)
        components, _ = ndimage.label(real == 2)
        yield logits, np.where(components == components[12, 14, 13], 2, 1).astype(np.uint8)


def clean(classes):
    return remove_specks(classes, {"2": 20})


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


def test_fitted_outlines_are_as_rough_as_the_real_ones():
    cases = list(rough_balls())
    outlines = Outlines.fit(lambda: cases, SPACING, clean, 0)
    drawn = [clean(outlines.draw(logits, np.random.default_rng(n))) for n, (logits, _) in enumerate(cases)]
    rough, real, smooth = (
        np.mean([sphericity(m == 2, SPACING) for m in masks])
        for masks in (drawn, [c for _, c in cases], [1 + z[1:].argmax(0) for z, _ in cases])
    )
    assert smooth - real > 0.05
    assert abs(rough - real) < 0.2 * (smooth - real)


def test_smooth_real_outlines_stay_smooth():
    cases = [(ball(r), (1 + ball(r)[1:].argmax(0)).astype(np.uint8)) for r in (6, 8, 9)]
    assert Outlines.fit(lambda: cases, SPACING, clean, 0).strength == pytest.approx(0, abs=0.1)


def test_without_foreground_there_is_nothing_to_roughen():
    cases = [(ball(-30), np.ones(SHAPE, np.uint8))]
    assert Outlines.fit(lambda: cases, SPACING, clean, 0).strength == 0


def test_synthetic_cases_carry_it(generator, monkeypatch):
    real_decode = synthesis.decode_volume

    def decode(autoencoder, latent):
        image, logits = real_decode(autoencoder, latent)
        return image, torch.from_numpy(ball(4, 0.5, logits.shape[1:]))

    monkeypatch.setattr(synthesis, "decode_volume", decode)
    rough = replace(generator, plan=replace(generator.plan, outlines=Outlines(2.0, tuple(WHITE.ravel()))))
    smooth = replace(generator, plan=replace(generator.plan, outlines=MOST_PROBABLE))
    requests, sampler = [Request("a", 3, {}, 1.0)], SamplerConfig(num_steps=3, max_corrections=0)
    (one,), (other,) = list(draw(rough, requests, sampler)), list(draw(smooth, requests, sampler))
    assert not np.array_equal(one.label, other.label)
    assert np.array_equal(one.anatomy, other.anatomy)
    assert np.array_equal(one.label, next(iter(draw(rough, requests, sampler))).label)
