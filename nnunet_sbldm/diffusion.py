"""The diffusion process over latent volumes: training targets, guidance and samplers, on diffusers' schedules.

Notation (name in code -> symbol; Ho et al. 2020, Song et al. 2021, Salimans & Ho 2022):
    clean -> z_0        standardised latent volume Z           timestep -> t in 0..T-1
    noise -> eps        standard normal                         noisy -> z_t = sqrt(abar_t) z_0 + sqrt(1 - abar_t) eps
    condition -> c      NaN marks a missing feature             v -> sqrt(abar_t) eps - sqrt(1 - abar_t) z_0
    guidance_scale -> w prediction = null + w (conditional - null)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nnunet_sbldm.config import DiffusionConfig, SamplerConfig

Scheduler = Any
"""diffusers' DDIMScheduler, imported late, and annotated more narrowly than what it takes and gives."""
Denoise = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(z_t [B, Z, D, h, w], t [B], c [B, F]) -> prediction of the same shape as z_t."""


def make_scheduler(config: DiffusionConfig, name: str = "ddim") -> Scheduler:
    """A solver on the cosine schedule (Nichol & Dhariwal 2021, eq. 17), steps spaced from the noisy end."""
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler
    from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler

    schedule = {
        "num_train_timesteps": config.num_train_timesteps,
        "beta_schedule": "squaredcos_cap_v2",
        "prediction_type": config.prediction_type,
        "timestep_spacing": "trailing",
    }
    if name == "ddim":
        return DDIMScheduler(**schedule, clip_sample=False, set_alpha_to_one=True)
    return DPMSolverMultistepScheduler(**schedule, algorithm_type="dpmsolver++", solver_order=2)


def diffusion_loss(
    denoise: Denoise,
    scheduler: Scheduler,
    clean: Tensor,
    condition: Tensor,
    timestep: Tensor,
    noise: Tensor,
    weight: Tensor,
) -> Tensor:
    """Weighted mean squared error of the prediction at the given times and noise.

    Args:
        denoise: the model.
        scheduler: schedule and parametrisation.
        clean: [B, Z, D, h, w].
        condition: [B, F].
        timestep: [B] int64.
        noise: like ``clean``.
        weight: [B, 1, D, h, w].
    """
    noisy = scheduler.add_noise(clean, noise, timestep)
    v_prediction = scheduler.config.prediction_type == "v_prediction"
    target = scheduler.get_velocity(clean, noise, timestep) if v_prediction else clean
    error = (denoise(noisy, timestep, condition).float() - target).square()
    return (error * weight).sum() / (weight.sum() * clean.shape[1])


def drop_condition(condition: Tensor, config: DiffusionConfig, generator: torch.Generator) -> Tensor:
    """Make some rows fully missing (for guidance) and some half missing (so that users may ask for few features)."""
    row = torch.rand(len(condition), 1, generator=generator)
    feature = torch.rand(condition.shape, generator=generator) < 0.5
    hidden = (row < config.condition_dropout) | (feature & (row < config.condition_dropout + config.feature_dropout))
    return condition.masked_fill(hidden.to(condition.device), torch.nan)


def initial_noise(seeds: Sequence[int], shape: Sequence[int]) -> Tensor:
    """Starting noise [B, *shape]; each sample's depends on its seed alone, never on its batch or device."""

    def one(seed: int) -> Tensor:
        return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(int(np.uint64(seed))))

    return torch.stack([one(seed) for seed in seeds])


@torch.inference_mode()
def sample(
    denoise: Denoise, config: DiffusionConfig, sampler: SamplerConfig, noise: Tensor, condition: Tensor, seeds: Sequence[int]
) -> Tensor:
    """Denoise from z_T to z_0 with classifier-free guidance (Ho & Salimans 2022, eq. 6).

    Args:
        denoise: the model.
        config: schedule and parametrisation.
        sampler: solver, steps, eta and guidance; guidance 1 needs one evaluation per step, any other value two.
        noise: [B, Z, D, h, w] starting point z_T.
        condition: [B, F].
        seeds: [B] one per sample, for the noise that eta adds.

    Returns:
        [B, Z, D, h, w] samples of z_0.
    """
    scheduler = make_scheduler(config, sampler.name)
    scheduler.set_timesteps(sampler.num_steps, device=noise.device)
    null = torch.full_like(condition, torch.nan)
    z = noise
    for i, t in enumerate(scheduler.timesteps):
        time = t.expand(len(z))
        prediction = denoise(z, time, condition).float()
        if sampler.guidance_scale != 1:
            unconditional = denoise(z, time, null).float()
            prediction = unconditional + sampler.guidance_scale * (prediction - unconditional)
        extra = {}
        if sampler.eta > 0:
            fresh = initial_noise([derived_seed(seed, i + 1) for seed in seeds], z.shape[1:]).to(z.device)
            extra = {"eta": sampler.eta, "variance_noise": fresh}
        z = scheduler.step(prediction, t, z, **extra).prev_sample
    return z


def derived_seed(seed: int, number: int) -> int:
    """The ``number``-th further seed of a sample."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)[0] >> 1)
