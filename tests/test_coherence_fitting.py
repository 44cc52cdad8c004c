"""Neighbouring slices of whole volumes: as much brought together as samples need to be as coherent as real cases."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from nnunet_sbldm import coherence_fitting
from nnunet_sbldm.coherence_fitting import FITTED, WEIGHTS, as_coherent_as_real, most_coherent_weight
from nnunet_sbldm.config import SamplerConfig
from nnunet_sbldm.decoding import decoded_volume
from nnunet_sbldm.diffusion import initial_noise
from nnunet_sbldm.latents import mixed_with_neighbours
from nnunet_sbldm.requests import Request
from nnunet_sbldm.similarity import COHERENCE, coherence
from nnunet_sbldm.slices import TrainingArrays
from nnunet_sbldm.synthesis import draw, draw_again
from nnunet_sbldm.texture import NO_TEXTURE

REAL = np.array([[0.5, 2.0], [0.5, 2.0], [np.nan, np.nan]])


def samples_with(similarity, difference):
    """Two samples, a little apart, whose measures go linearly over the weights between the given ends."""
    mean = np.stack([np.interp(WEIGHTS, (0, WEIGHTS[-1]), ends) for ends in (similarity, difference)], axis=1)
    return np.stack([mean * 0.98, mean * 1.02])


def test_slices_are_averaged_with_their_neighbours():
    latent = torch.randn(2, 5, 6, 3, 3)
    assert torch.equal(mixed_with_neighbours(latent, 0.0), latent)
    mixed = mixed_with_neighbours(latent, 0.1)
    assert torch.allclose(mixed[:, :, 2], 0.8 * latent[:, :, 2] + 0.1 * (latent[:, :, 1] + latent[:, :, 3]))
    assert torch.allclose(mixed[:, :, 0], 0.9 * latent[:, :, 0] + 0.1 * latent[:, :, 1])
    assert torch.allclose(mixed.mean(dim=2), latent.mean(dim=2), atol=1e-6)
    alternating = torch.tensor([1.0, -1.0] * 3).reshape(6, 1, 1)
    assert torch.allclose(mixed_with_neighbours(alternating, WEIGHTS[-1])[1:-1], torch.zeros(4, 1, 1))
    assert torch.allclose(mixed_with_neighbours(latent[:, :, :1], 0.1), latent[:, :, :1])


def test_slices_too_far_apart_are_brought_together_until_either_measure_would_suffer_more():
    weight = most_coherent_weight(samples_with((0.4, 0.6), (2.4, 1.6)), REAL)
    assert weight == pytest.approx(0.125, abs=0.02)  # both meet real cases about half way
    reluctant = most_coherent_weight(samples_with((0.4, 0.6), (2.0, 1.0)), REAL)
    assert 0 < reluctant < weight
    assert most_coherent_weight(samples_with((-0.2, 0.5), (2.0, 2.0)), REAL) == WEIGHTS[-1]


@pytest.mark.parametrize(("similarity", "difference"), [
    ((0.5, 0.7), (2.0, 1.0)), ((0.6, 0.7), (1.8, 1.0)), ((0.6, 0.7), (2.2, 2.0)),
])
def test_slices_as_near_as_real_ones_stay(similarity, difference):
    assert most_coherent_weight(samples_with(similarity, difference), REAL) == 0


def test_nothing_known_changes_nothing():
    known = samples_with((0.4, 0.6), (2.4, 1.6))
    assert most_coherent_weight(np.full_like(known, np.nan), REAL) == 0
    assert most_coherent_weight(known, REAL[2:]) == 0
    assert most_coherent_weight(np.concatenate([known, known[:1] * np.nan]), REAL) == most_coherent_weight(known, REAL) > 0


@pytest.fixture
def fitted(generator, monkeypatch):
    """Fits samples that flicker by so much from slice to slice to real cases that do not, and measures both."""
    plan = replace(generator.plan, texture=NO_TEXTURE, neighbour_weight=0.0)
    depth = plan.grid.latent_shape[0]
    shape = (len(plan.latent_mean), *plan.grid.latent_shape)
    steady = sum(initial_noise([seed], shape)[0].roll(shift, 1) for seed, shift in ((1, 0), (1, 1), (1, 2), (1, 3))) / 2
    flicker = torch.tensor([1.0, -1.0] * depth)[:depth].reshape(-1, 1, 1) * initial_noise([2], shape)[0].mean(1, keepdim=True) * 4
    real = decoded_volume(plan, generator.autoencoder, steady, 0)
    arrays = TrainingArrays(real.image[None], plan.encoding.encode(real.label)[None].astype(np.uint8))

    def fit(amount):
        sample = steady + amount * flicker
        monkeypatch.setattr(coherence_fitting, "sampled_latent", lambda *_: sample)
        weight = as_coherent_as_real(plan, arrays, generator.autoencoder, generator.denoiser)
        volumes = [decoded_volume(plan, generator.autoencoder, mixed_with_neighbours(sample, w), 0) for w in (0, weight)]
        before, after = (coherence(v.image, v.label, v.anatomy)[FITTED] for v in volumes)
        return weight, before, after, coherence(real.image, real.label, real.anatomy)[FITTED]

    return fit


def test_flicker_is_removed_and_no_more(fitted):
    weight, before, after, wanted = fitted(1.0)
    assert weight > 0
    assert np.abs(np.log(before / wanted)).max() > 0.1
    assert np.abs(np.log(after / wanted)).max() < 0.6 * np.abs(np.log(before / wanted)).max()
    assert fitted(0.0)[0] == 0


def test_whole_volumes_are_drawn_with_it(generator):
    mixing = replace(generator, plan=replace(generator.plan, neighbour_weight=0.2, texture=NO_TEXTURE))
    apart = replace(generator, plan=replace(generator.plan, neighbour_weight=0.0, texture=NO_TEXTURE))
    request, sampler = Request("a", 3, {}, 1.0), SamplerConfig(num_steps=3, max_corrections=0)
    (one,), (other,) = (list(draw(g, [request], sampler)) for g in (mixing, apart))
    assert torch.allclose(one.latent, mixed_with_neighbours(other.latent, 0.2), atol=1e-5)
    banding = COHERENCE.index("banding")
    near, far = (coherence(d.image, d.label, d.anatomy) for d in (one, other))
    assert near[banding] < far[banding]
    assert np.array_equal(draw_again(mixing, request, sampler, {}).image, one.image)
