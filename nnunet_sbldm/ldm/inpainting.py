"""Masked sampling: diffuse some latents under a condition while the others are those of a real case.

At every time t the known latents must be a sample of q(z_t | z_0) of the real case. Instead of overwriting them, their
*prediction* is replaced by the exact one: for known latents z_0 is given, so that eps and v follow from z_t. Any solver, step
size, eta and guidance then keeps them on their own path and ends exactly at z_0, with no extra noise between known and unknown.

An SDE solver (or DDIM with eta 1) adds fresh noise at every step, from which unknown latents adapt to the known ones at the
next step: it does what resampling jumps do (RePaint, Lugmayr et al. 2022, arXiv 2201.09865) without their second evaluation of
every step.

A denoiser can also be trained with the known latents as a further input (``masked_share`` of the configuration, as Rombach et
al. 2022 do for inpainting, arXiv 2112.10752): then it sees them clean from the first step on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nnunet_sbldm.ldm.config import DiffusionConfig, SamplerConfig
from nnunet_sbldm.ldm.diffusion import Denoise, Scheduler, initial_noise, make_scheduler, sample

REGION_RADII = (0.1, 0.35)
"""Semi-axes of random regions in training, in fractions of the latent volume; edits have such regions."""


@dataclass(frozen=True)
class Known:
    """What is given of a batch of latent volumes.

    Attributes:
        clean: [B, Z, D, h, w] standardised latents of the hosts.
        unknown: [B, 1, D, h, w] 1 where latents are to be made, 0 where the host's stay.
    """

    clean: Tensor
    unknown: Tensor

    def as_input(self) -> Tensor:
        """[B, Z + 1, D, h, w], as denoisers are told that have learnt it: known latents, 0 elsewhere, and 1 where they are."""
        return torch.cat([self.clean * (1 - self.unknown), 1 - self.unknown], dim=1)


def clamped(denoise: Denoise, scheduler: Scheduler, known: Known, is_told: bool) -> Denoise:
    """A denoiser whose prediction is exact where the clean latents are known, and which is told of them if it has learnt it.

    It takes batches of B times any number of volumes, in whole repetitions of the batch, as guidance makes them.
    """

    def predict(noisy: Tensor, timestep: Tensor, condition: Tensor, *estimates: Tensor) -> Tensor:
        repeats = (len(noisy) // len(known.clean), 1, 1, 1, 1)
        clean, unknown = known.clean.repeat(repeats), known.unknown.repeat(repeats)
        exact = _exact_prediction(scheduler, noisy.float(), clean, timestep)
        told = {"known": Known(clean, unknown).as_input()} if is_told else {}
        return torch.where(unknown > 0, denoise(noisy, timestep, condition, *estimates, **told).float(), exact)

    return predict


def _exact_prediction(scheduler: Scheduler, noisy: Tensor, clean: Tensor, timestep: Tensor) -> Tensor:
    """What a perfect denoiser predicts for z_t of a known z_0."""
    alpha_bar = scheduler.alphas_cumprod.to(noisy)[timestep].reshape(-1, 1, 1, 1, 1)
    eps = (noisy - alpha_bar.sqrt() * clean) / (1 - alpha_bar).sqrt()
    v = alpha_bar.sqrt() * eps - (1 - alpha_bar).sqrt() * clean
    return {"v_prediction": v, "sample": clean, "epsilon": eps}[scheduler.config.prediction_type]


def inpaint(
    denoise: Denoise, config: DiffusionConfig, sampler: SamplerConfig, known: Known, condition: Tensor, seeds: Sequence[int],
    correlation: float = 0.0,
) -> Tensor:
    """Sample the unknown latents given the known ones.

    Args:
        denoise: the model.
        config: schedule and parametrisation.
        sampler: solver, steps, eta and guidance.
        known: latents of the hosts and which of them stay.
        condition: [B, F] in network scale.
        seeds: [B] one per sample.
        correlation: of the noise of neighbouring slices, see :func:`nnunet_sbldm.ldm.diffusion.initial_noise`.

    Returns:
        [B, Z, D, h, w] standardised latents; the known ones are exactly the hosts'.
    """
    predict = clamped(denoise, make_scheduler(config, sampler.name), known, config.masked_share > 0)
    noise = initial_noise(seeds, known.clean.shape[1:], correlation).to(known.clean)
    drawn = sample(predict, config, sampler, noise, condition, seeds, correlation)
    return torch.where(known.unknown > 0, drawn, known.clean)


def random_regions(foreground: Tensor, masked_share: float, rng: np.random.Generator) -> Tensor:
    """Latents [B, 1, D, h, w] that a training sample leaves to be made, as 1: an ellipsoid at random, or all of them.

    Half of the ellipsoids lie around a latent that holds foreground, where there is one.

    Args:
        foreground: [B, 1, D, h, w] bool, latents that hold foreground.
        masked_share: share of the samples that get an ellipsoid.
        rng: source of randomness.
    """
    shape = np.array(foreground.shape[2:])
    axes = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")
    regions = torch.ones(foreground.shape)
    for region, held in zip(regions[:, 0], foreground[:, 0], strict=True):
        at_foreground, is_masked = rng.random(2) < (0.5, masked_share)
        if not is_masked:
            continue
        places = held.nonzero().numpy()
        centre = rng.choice(places) if at_foreground and len(places) else rng.integers(shape)
        radii = np.maximum(rng.uniform(*REGION_RADII, size=3) * shape, 1)
        distance = sum(((a - c) / r) ** 2 for a, c, r in zip(axes, centre, radii, strict=True))
        region.copy_(torch.from_numpy(distance <= 1))
    return regions
