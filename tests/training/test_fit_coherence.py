"""Neighbouring slices begin with noise in common, as much as samples need to be as coherent as real cases."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from nnunet_sbldm.data.slices import TrainingArrays
from nnunet_sbldm.generator.decoding import decoded_volume
from nnunet_sbldm.generator.requests import Request
from nnunet_sbldm.generator.sampling import draw, draw_again
from nnunet_sbldm.generator.texture import NO_TEXTURE
from nnunet_sbldm.ldm.config import SamplerConfig
from nnunet_sbldm.ldm.diffusion import initial_noise
from nnunet_sbldm.quality.similarity import COHERENCE, coherence
from nnunet_sbldm.training import fit_coherence as coherence_fitting
from nnunet_sbldm.training.fit_coherence import CORRELATIONS, FITTED, as_coherent_as_real, most_coherent_correlation

REAL = np.array([[0.5, 2.0], [0.5, 2.0], [np.nan, np.nan]])
END = CORRELATIONS[-1]


def samples_with(similarity, difference):
    """For each correlation two samples, a little apart, whose measures go linearly between the given ends."""
    means = (np.array([np.interp(c, (0, END), ends) for ends in (similarity, difference)]) for c in CORRELATIONS)
    return [np.stack([mean * 0.98, mean * 1.02]) for mean in means]


@pytest.mark.parametrize("correlation", [0.0, 0.3, 0.9])
def test_noise_of_slices_is_correlated_as_asked_and_its_variance_is_one(correlation):
    noise = initial_noise(range(60), (4, 9, 12, 12), correlation)
    assert noise.var(dim=(0, 1, 3, 4)).numpy() == pytest.approx(np.ones(9), abs=0.03)
    for apart in (1, 2):
        product = (noise[:, :, apart:] * noise[:, :, :-apart]).mean(dim=(0, 1, 3, 4))
        assert product.numpy() == pytest.approx(np.full(9 - apart, correlation**apart), abs=0.03)
    assert (noise[..., 1:] * noise[..., :-1]).mean().item() == pytest.approx(0, abs=0.01)  # never within slices


def test_noise_depends_on_the_seed_alone_and_uncorrelated_noise_is_as_it_was():
    assert torch.equal(initial_noise([7, 8], (2, 5, 4, 4), 0.4)[1], initial_noise([8], (2, 5, 4, 4), 0.4)[0])
    assert torch.equal(initial_noise([8], (2, 5, 4, 4), 0.0), initial_noise([8], (2, 5, 4, 4)))
    assert initial_noise([8], (2, 1, 4, 4), 0.4).shape == (1, 2, 1, 4, 4)


def test_slices_too_far_apart_share_noise_until_either_measure_would_suffer_more():
    correlation = most_coherent_correlation(samples_with((0.4, 0.6), (2.4, 1.6)), REAL)
    assert correlation == pytest.approx(END / 2, abs=0.05)  # both meet real cases about half way
    reluctant = most_coherent_correlation(samples_with((0.4, 0.6), (2.0, 1.0)), REAL)
    assert 0 < reluctant < correlation
    assert most_coherent_correlation(samples_with((-0.2, 0.5), (2.0, 2.0)), REAL) == END


@pytest.mark.parametrize(("similarity", "difference"), [
    ((0.5, 0.7), (2.0, 1.0)), ((0.6, 0.7), (1.8, 1.0)), ((0.6, 0.7), (2.2, 2.0)),
])
def test_slices_as_near_as_real_ones_keep_their_own_noise(similarity, difference):
    assert most_coherent_correlation(samples_with(similarity, difference), REAL) == 0


def test_no_more_samples_are_drawn_than_it_takes():
    drawn = []

    def samples(*ends):
        for sample in samples_with(*ends):
            drawn.append(sample)
            yield sample

    most_coherent_correlation(samples((0.5, 0.7), (2.0, 1.0)), REAL)
    assert len(drawn) == 2
    drawn.clear()
    most_coherent_correlation(samples((-0.2, 0.5), (2.0, 2.0)), REAL)
    assert len(drawn) == len(CORRELATIONS)


def test_nothing_known_changes_nothing():
    known = samples_with((0.4, 0.6), (2.4, 1.6))
    assert most_coherent_correlation([s * np.nan for s in known], REAL) == 0
    assert most_coherent_correlation(known, REAL[2:]) == 0
    with_unknown = [np.concatenate([s, s[:1] * np.nan]) for s in known]
    assert most_coherent_correlation(with_unknown, REAL) == most_coherent_correlation(known, REAL) > 0


@pytest.fixture
def fitted(generator, monkeypatch):
    """Fits samples that keep so much of their noise, at so much contrast, to a real case that keeps none."""
    plan = replace(generator.plan, texture=NO_TEXTURE, noise_correlation=0.0)
    shape = (len(plan.latent_mean), *plan.grid.latent_shape)
    steady = initial_noise([1], shape, 0.95)[0]
    real = decoded_volume(plan, generator.autoencoder, steady, 0)
    arrays = TrainingArrays(real.image[None], plan.encoding.encode(real.label)[None].astype(np.uint8))

    def fit(amount, contrast=1.0):
        def sample(plan, _, seed):
            return steady + amount * initial_noise([2 + seed], shape, plan.noise_correlation)[0]

        def decoded(*args):
            volume = decoded_volume(*args)
            return replace(volume, image=contrast * volume.image)

        monkeypatch.setattr(coherence_fitting, "sampled_latent", sample)
        monkeypatch.setattr(coherence_fitting, "decoded_volume", decoded)
        correlation = as_coherent_as_real(plan, arrays, generator.autoencoder, generator.denoiser)
        noisy = [[decoded_volume(plan, generator.autoencoder, sample(replace(plan, noise_correlation=c), None, seed), seed)
                  for seed in range(4)] for c in (0, correlation)]
        before, after = (np.mean([coherence(v.image, v.label, v.anatomy)[FITTED] for v in volumes], axis=0) for volumes in noisy)
        return correlation, before, after, coherence(real.image, real.label, real.anatomy)[FITTED]

    return fit


def test_slices_are_brought_together_and_no_more(fitted):
    correlation, before, after, wanted = fitted(0.5)
    assert correlation > 0
    assert np.abs(np.log(before / wanted)).max() > 0.1
    assert np.abs(np.log(after / wanted)).max() < 0.8 * np.abs(np.log(before / wanted)).max()
    assert fitted(0.0)[0] == 0


def test_contrast_changes_nothing(fitted):
    assert fitted(0.5, contrast=0.5)[0] == fitted(0.5)[0]


def test_whole_volumes_are_drawn_with_it(generator):
    shared = replace(generator, plan=replace(generator.plan, noise_correlation=0.6, texture=NO_TEXTURE))
    apart = replace(generator, plan=replace(generator.plan, noise_correlation=0.0, texture=NO_TEXTURE))
    request, sampler = Request("a", 3, {}, 1.0), SamplerConfig(num_steps=3, max_corrections=0)
    (one,), (other,) = (list(draw(g, [request], sampler)) for g in (shared, apart))
    ratio = COHERENCE.index("gradient_ratio")
    near, far = (coherence(d.image, d.label, d.anatomy) for d in (one, other))
    assert near[ratio] < far[ratio]
    assert np.array_equal(draw_again(shared, request, sampler, {}).image, one.image)
