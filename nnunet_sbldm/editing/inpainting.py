"""Masked sampling: diffuse some latents under a condition while the others are those of a real case.

At every time t the known latents must be a sample of q(z_t | z_0) of the real case. Instead of overwriting them, their
*prediction* is replaced by the exact one: for known latents z_0 is given, so that eps and v follow from z_t. Any solver, step
size, eta and guidance then keeps them on their own path and ends exactly at z_0, with no extra noise between known and unknown.

An SDE solver (or DDIM with eta 1) adds fresh noise at every step, from which unknown latents adapt to the known ones at the
next step: it does what resampling jumps do (RePaint, Lugmayr et al. 2022, arXiv 2201.09865) without their second evaluation of
every step.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nnunet_sbldm.ldm.config import DiffusionConfig, SamplerConfig
from nnunet_sbldm.ldm.diffusion import Denoise, Scheduler, SeededNoise, make_scheduler, sample


@dataclass(frozen=True)
class Known:
    """What is given of a batch of latent volumes.

    Attributes:
        clean: [B, Z, D, h, w] standardised latents of the hosts.
        unknown: [B, 1, D, h, w] 1 where latents are to be made, 0 where the host's stay.
    """

    clean: Tensor
    unknown: Tensor


def clamped(denoise: Denoise, scheduler: Scheduler, known: Known) -> Denoise:
    """A denoiser whose prediction is exact where the clean latents are known.

    It takes batches of B times any number of volumes, in whole repetitions of the batch, as guidance makes them.
    """

    def predict(noisy: Tensor, timestep: Tensor, condition: Tensor) -> Tensor:
        repeats = (len(noisy) // len(known.clean), 1, 1, 1, 1)
        clean, unknown = known.clean.repeat(repeats), known.unknown.repeat(repeats)
        exact = _exact_prediction(scheduler, noisy.float(), clean, timestep)
        return torch.where(unknown > 0, denoise(noisy, timestep, condition).float(), exact)

    return predict


def _exact_prediction(scheduler: Scheduler, noisy: Tensor, clean: Tensor, timestep: Tensor) -> Tensor:
    """What a perfect denoiser predicts for z_t of a known z_0."""
    alpha_bar = scheduler.alphas_cumprod.to(noisy)[timestep].reshape(-1, 1, 1, 1, 1)
    eps = (noisy - alpha_bar.sqrt() * clean) / (1 - alpha_bar).sqrt()
    v = alpha_bar.sqrt() * eps - (1 - alpha_bar).sqrt() * clean
    return {"v_prediction": v, "sample": clean, "epsilon": eps}[scheduler.config.prediction_type]


def inpaint(
    denoise: Denoise, config: DiffusionConfig, sampler: SamplerConfig, known: Known, noise: SeededNoise, condition: Tensor
) -> Tensor:
    """Sample the unknown latents given the known ones.

    Args:
        denoise: the model.
        config: schedule and parametrisation.
        sampler: solver, steps, eta and guidance.
        known: latents of the hosts and which of them stay.
        noise: of B samples of the latents' shape.
        condition: [B, F] in network scale.

    Returns:
        [B, Z, D, h, w] standardised latents; the known ones are exactly the hosts'.
    """
    predict = clamped(denoise, make_scheduler(config, sampler.name), known)
    drawn = sample(predict, config, sampler, noise, condition)
    return torch.where(known.unknown > 0, drawn, known.clean)
