"""The diffusion process over latent volumes: training targets, guidance and samplers, on diffusers' schedules.

Notation (name in code -> symbol; Ho et al. 2020, Song et al. 2021, Salimans & Ho 2022):
    clean -> z_0        standardised latent volume Z           timestep -> t in 0..T-1
    noise -> eps        standard normal                         noisy -> z_t = sqrt(abar_t) z_0 + sqrt(1 - abar_t) eps
    condition -> c      NaN marks a missing feature             v -> sqrt(abar_t) eps - sqrt(1 - abar_t) z_0
    guidance_scale -> w prediction = null + w (conditional - null)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nnunet_sbldm.common.devices import arithmetic
from nnunet_sbldm.common.seeds import derived_seed
from nnunet_sbldm.ldm.config import DiffusionConfig, SamplerConfig

Scheduler = Any
"""diffusers' DDIMScheduler, imported late, and annotated more narrowly than what it takes and gives."""
Denoise = Callable[..., Tensor]
"""(z_t [B, Z, D, h, w], t [B], c [B, F]) -> prediction of the same shape as z_t."""


def make_scheduler(config: DiffusionConfig, name: str = "ddim") -> Scheduler:
    """A solver on the configured schedule (cosine: Nichol & Dhariwal 2021, eq. 17), steps spaced from the noisy end."""
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler
    from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler

    schedule: dict[str, Any] = {
        "num_train_timesteps": config.num_train_timesteps,
        "trained_betas": shifted_betas(config),
        "prediction_type": config.prediction_type,
        "timestep_spacing": "trailing",
    }
    if name == "ddim":
        return DDIMScheduler(**schedule, clip_sample=False, set_alpha_to_one=True)
    return DPMSolverMultistepScheduler(**schedule, algorithm_type=name, solver_order=2)


def shifted_betas(config: DiffusionConfig) -> np.ndarray:
    """Betas [T] of the configured schedule with its noise shifted: SNR' = SNR / noise_shift^2."""
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    plain = DDIMScheduler(num_train_timesteps=config.num_train_timesteps, beta_schedule=config.schedule)
    alphas = plain.alphas_cumprod.double().numpy()
    shifted = alphas / (alphas + config.noise_shift**2 * (1 - alphas))
    return 1 - shifted / np.concatenate([[1.0], shifted[:-1]])


@dataclass(frozen=True)
class DiffusionBatch:
    """A batch of the training, with all that is drawn for it.

    Attributes:
        clean: [B, Z, D, h, w] standardised latent volumes.
        condition: [B, F] in network scale, NaN = missing.
        timestep: [B] int64.
        noise: like ``clean``.
        weight: [B, 1, D, h, w] weight in the loss.
    """

    clean: Tensor
    condition: Tensor
    timestep: Tensor
    noise: Tensor
    weight: Tensor

    def to(self, device: torch.device) -> DiffusionBatch:
        """The same batch on a device."""
        return DiffusionBatch(*(getattr(self, f.name).to(device) for f in fields(self)))


def diffusion_loss(denoise: Denoise, scheduler: Scheduler, batch: DiffusionBatch) -> Tensor:
    """Weighted mean squared error of the prediction; the scheduler gives noise levels and parametrisation."""
    clean, noise, timestep = batch.clean, batch.noise, batch.timestep
    noisy = scheduler.add_noise(clean, noise, timestep)
    kind = scheduler.config.prediction_type
    targets = {"v_prediction": scheduler.get_velocity(clean, noise, timestep), "sample": clean, "epsilon": noise}
    error = (denoise(noisy, timestep, batch.condition).float() - targets[kind]).square()
    return (error * batch.weight).sum() / (batch.weight.sum() * clean.shape[1])


def drop_condition(condition: Tensor, config: DiffusionConfig, generator: torch.Generator) -> Tensor:
    """Make some rows fully missing (for guidance) and some half missing (so that users may ask for few features)."""
    row = torch.rand(len(condition), 1, generator=generator)
    feature = torch.rand(condition.shape, generator=generator) < 0.5
    hidden = (row < config.condition_dropout) | (feature & (row < config.condition_dropout + config.feature_dropout))
    return condition.masked_fill(hidden.to(condition.device), torch.nan)


def initial_noise(seeds: Sequence[int], shape: Sequence[int], correlation: float = 0.0) -> Tensor:
    """Starting noise [B, *shape]; each sample's depends on its seed alone, never on its batch or device.

    Args:
        seeds: [B] one per sample.
        shape: (Z, D, h, w).
        correlation: of the noise of neighbouring slices, 0 to below 1; that of slices k apart is its k-th power, and the variance
            is 1 everywhere (an autoregressive process; Ge et al. 2023, arXiv 2305.10474, for the frames of a video).
    """
    noise = [torch.randn(tuple(shape), generator=torch.Generator().manual_seed(int(np.uint64(seed)))) for seed in seeds]
    if correlation:
        slices = torch.arange(shape[1])
        mixing = torch.linalg.cholesky(correlation ** (slices[:, None] - slices).abs().double()).float()
        noise = [torch.einsum("de,zehw->zdhw", mixing, own) for own in noise]  # one by one: rounding depends on no batch
    return torch.stack(noise)


@dataclass(frozen=True)
class SeededNoise:
    """All noise of a batch of samples, see :func:`initial_noise`.

    Attributes:
        seeds: [B] one per sample.
        shape: (Z, D, h, w) of a sample.
        correlation: of the noise of neighbouring slices.
    """

    seeds: Sequence[int]
    shape: Sequence[int]
    correlation: float = 0.0

    def initial(self) -> Tensor:
        """[B, Z, D, h, w] the starting point z_T."""
        return initial_noise(self.seeds, self.shape, self.correlation)

    def of_step(self, number: int) -> Tensor:
        """[B, Z, D, h, w] what a stochastic solver adds at a step, counted from 1."""
        return initial_noise([derived_seed(seed, number) for seed in self.seeds], self.shape, self.correlation)


@torch.inference_mode()
def sample(
    denoise: Denoise, config: DiffusionConfig, sampler: SamplerConfig, noise: SeededNoise, condition: Tensor
) -> Tensor:
    """Denoise from z_T to z_0 with classifier-free guidance (Ho & Salimans 2022, eq. 6).

    Args:
        denoise: the model.
        config: schedule and parametrisation.
        sampler: solver, steps, eta and guidance; with guidance 1 a step costs half as much as with any other value.
        noise: of B samples, where they start and what steps add.
        condition: [B, F], on the device to use.

    Returns:
        [B, Z, D, h, w] samples of z_0.
    """
    scheduler = make_scheduler(config, sampler.name)
    scheduler.set_timesteps(sampler.num_steps, device=condition.device)
    z = noise.initial().to(condition.device)
    for number, t in enumerate(scheduler.timesteps, 1):
        with arithmetic(z.device, sampler.precision):
            prediction = _guided(denoise, z, t, condition, sampler.guidance_scale)
        extra: dict[str, Any] = {"eta": sampler.eta} if sampler.name == "ddim" else {}
        if sampler.is_stochastic:
            extra["variance_noise"] = noise.of_step(number).to(z.device)
        z = scheduler.step(prediction, t, z, **extra).prev_sample
    return z


def _guided(denoise: Denoise, z: Tensor, t: Tensor, condition: Tensor, guidance_scale: float) -> Tensor:
    """Prediction with guidance, conditional and null model evaluated as one batch."""
    if guidance_scale == 1:
        return denoise(z, t.expand(len(z)), condition).float()
    both = torch.cat([condition, torch.full_like(condition, torch.nan)])
    conditional, null = denoise(z.repeat(2, 1, 1, 1, 1), t.expand(len(both)), both).float().chunk(2)
    return null + guidance_scale * (conditional - null)
