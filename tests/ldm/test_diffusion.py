"""The diffusion process, tested on a closed-form denoiser of a Gaussian."""

import pytest
import torch

from nnunet_sbldm.ldm.config import DiffusionConfig, SamplerConfig
from nnunet_sbldm.ldm.diffusion import (
    DiffusionBatch,
    SeededNoise,
    diffusion_loss,
    drop_condition,
    initial_noise,
    make_scheduler,
    sample,
)

SHAPE = (1, 2, 3, 4)


def gaussian_denoiser(config, mean, std):
    """The optimal prediction for data N(mean, std^2), whatever the condition."""
    alphas = make_scheduler(config).alphas_cumprod

    def denoise(noisy, timestep, condition):
        a = alphas[timestep].reshape(-1, 1, 1, 1, 1)
        clean = mean + a.sqrt() * std**2 / (a * std**2 + 1 - a) * (noisy - a.sqrt() * mean)
        noise = (noisy - a.sqrt() * clean) / (1 - a).sqrt()
        return a.sqrt() * noise - (1 - a).sqrt() * clean if config.prediction_type == "v_prediction" else clean

    return denoise


@pytest.mark.parametrize("prediction_type", ["v_prediction", "sample"])
@pytest.mark.parametrize(("name", "eta", "steps"), [("ddim", 0.0, 50), ("ddim", 1.0, 200), ("dpmsolver++", 0.0, 20)])
@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (1.5, 0.5)])
def test_every_sampler_samples_the_gaussian_that_the_denoiser_knows(prediction_type, name, eta, steps, mean, std):
    config, sampler = DiffusionConfig(prediction_type=prediction_type), SamplerConfig(name, eta, steps, guidance_scale=1.0)
    seeds = range(400)
    z = sample(gaussian_denoiser(config, mean, std), config, sampler, SeededNoise(seeds, SHAPE), torch.zeros(400, 1))
    assert z.mean().item() == pytest.approx(mean, abs=0.03)
    assert z.std().item() == pytest.approx(std, rel=0.06)


@pytest.mark.parametrize("prediction_type", ["v_prediction", "sample"])
def test_the_loss_of_a_perfect_prediction_is_zero(prediction_type):
    config = DiffusionConfig(prediction_type=prediction_type)
    scheduler = make_scheduler(config)
    clean, noise, time = torch.randn(4, *SHAPE), torch.randn(4, *SHAPE), torch.tensor([0, 10, 500, 999])

    def perfect(noisy, timestep, condition):
        return scheduler.get_velocity(clean, noise, timestep) if prediction_type == "v_prediction" else clean

    def loss(model, weight):
        return diffusion_loss(model, scheduler, DiffusionBatch(clean, torch.zeros(4, 1), time, noise, weight))

    ones, left = torch.ones(4, 1, *SHAPE[1:]), torch.zeros(4, 1, *SHAPE[1:])
    left[..., 0] = 1
    assert loss(perfect, ones) == 0
    assert loss(lambda *a: perfect(*a) + 1, ones) == pytest.approx(1)
    assert loss(lambda *a: perfect(*a) + 1 - left, left) == pytest.approx(0, abs=1e-6)


def test_noise_belongs_to_the_seed_not_to_the_batch():
    assert torch.equal(initial_noise([7, 8, 9], SHAPE)[1], initial_noise([8], SHAPE)[0])
    assert not torch.equal(initial_noise([7], SHAPE), initial_noise([8], SHAPE))


def test_guidance_of_one_is_the_conditional_model_and_more_moves_away_from_the_null():
    config = DiffusionConfig()
    low, high = (gaussian_denoiser(config, mean, 0.1) for mean in (0.0, 1.0))

    def denoise(noisy, timestep, condition):
        return torch.where(condition[:, :1, None, None, None].isnan(), low(noisy, timestep, None), high(noisy, timestep, None))

    noise, condition = SeededNoise(range(8), SHAPE), torch.ones(8, 1)
    means = [
        sample(denoise, config, SamplerConfig(num_steps=50, guidance_scale=w), noise, condition).mean().item()
        for w in (0.0, 1.0, 2.0)
    ]
    assert means[:2] == pytest.approx([0, 1], abs=0.05)
    assert means[2] > means[1] + 0.2


def test_conditions_are_dropped_at_the_stated_rates():
    config = DiffusionConfig(condition_dropout=0.2, feature_dropout=0.4)
    dropped = drop_condition(torch.zeros(20_000, 8), config, torch.Generator().manual_seed(0)).isnan()
    whole = dropped.all(dim=1).float().mean().item()
    assert whole == pytest.approx(0.2 + 0.4 / 2**8, abs=0.01)
    assert dropped.float().mean().item() == pytest.approx(0.2 + 0.4 / 2, abs=0.01)


def test_the_noise_that_eta_adds_belongs_to_the_seed_too():
    config, sampler = DiffusionConfig(), SamplerConfig("ddim", eta=1.0, num_steps=10)
    denoise = gaussian_denoiser(config, 0.0, 1.0)

    def run(seeds):
        return sample(denoise, config, sampler, SeededNoise(seeds, SHAPE), torch.zeros(len(seeds), 1))

    torch.testing.assert_close(run([4, 5, 6])[1:2], run([5]))
