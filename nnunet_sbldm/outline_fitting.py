"""How rough outlines have to be drawn: correlation and strength of the noise of :class:`nnunet_sbldm.label_maps.Outlines`.

The correlation is that of the decoder's own errors on the training cases. The strength is what it takes for synthetic label
maps to be as rough as asked, by the sphericity of their conditions. It is measured on samples, because a denoiser's latents are
decoded with less certainty than those of real cases: the less it was trained, the rougher its outlines are already.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import torch
from scipy import special
from torch import nn
from tqdm import tqdm

from nnunet_sbldm.autoencoder import SliceAutoencoder
from nnunet_sbldm.checkpoint import GeneratorPlan
from nnunet_sbldm.conditions import FEATURES, measure
from nnunet_sbldm.config import SamplerConfig
from nnunet_sbldm.diffusion import best_precision, initial_noise, sample
from nnunet_sbldm.grid import anatomy_of
from nnunet_sbldm.label_maps import Outlines
from nnunet_sbldm.latents import decode_volume
from nnunet_sbldm.random_fields import MAX_LAG, SIZE, TINY, autocorrelation
from nnunet_sbldm.synthesis import cleaned_label
from nnunet_sbldm.types import FloatArray

STRENGTHS = (0.0, 0.5, 1.0, 1.5, 2.0, 2.5)
"""Strengths that are tried."""
NUM_SAMPLES, NUM_STEPS = 32, 10
SURE = 0.98
"""Voxels of which the decoder is surer than this say nothing about outlines."""


def error_correlation(cases: Iterable[tuple[FloatArray, np.ndarray]]) -> tuple[float, ...]:
    """Correlation of the noise that makes neighbours wrong together, [SIZE, SIZE, SIZE] flattened.

    Errors are noise beyond a threshold; the arcsine law leads from the correlation of one to that of the other.

    Args:
        cases: logits [K, D, H, W] of decoded training cases, and their real class indices [D, H, W].
    """
    products = pairs = np.zeros((SIZE, SIZE, SIZE))
    for logits, classes in cases:
        probability = special.softmax(logits[1:], axis=0)
        largest, chosen = probability.max(axis=0), 1 + probability.argmax(axis=0)
        unsure = (classes > 0) & (classes < len(logits)) & (largest < SURE)
        error = np.where(unsure, ((chosen == classes) - largest) / np.sqrt(largest * (1 - largest)).clip(TINY), 0)
        products, pairs = products + autocorrelation(error), pairs + autocorrelation(unsure.astype(np.float64))
    correlation = products / np.maximum(pairs, 1)
    correlation = correlation / max(float(correlation[(MAX_LAG,) * 3]), TINY)
    return tuple(np.round(np.sin(np.pi / 2 * np.clip(correlation, -1, 1)).ravel(), 5).tolist())


def as_rough_as_asked(plan: GeneratorPlan, autoencoder: SliceAutoencoder, denoiser: nn.Module) -> Outlines:
    """The plan's outlines with the strength that samples of its trained networks need."""
    device, sphericity = next(denoiser.parameters()).device, slice(FEATURES.index("sphericity"), None, len(FEATURES))
    mean, std = (torch.tensor(v, device=device).reshape(-1, 1, 1, 1) for v in (plan.latent_mean, plan.latent_std))
    sampler = SamplerConfig(num_steps=NUM_STEPS, precision=best_precision(device.type))

    def excess_roughness(seed: int) -> FloatArray:
        """Log ratio of asked and obtained sphericity [strengths, targets] of a sample; NaN where a target is absent."""
        asked = plan.condition_model.sample(np.random.default_rng(seed))
        condition = torch.from_numpy(plan.condition_scaling.scaled(asked[None])).float().to(device)
        noise = initial_noise([seed], (len(plan.latent_mean), *plan.grid.latent_shape)).to(device)
        (latent,) = sample(denoiser, plan.preset.diffusion, sampler, noise, condition, [seed])
        logits = decode_volume(autoencoder, latent * std + mean)[1].float().cpu().numpy()
        anatomy = anatomy_of(logits.argmax(0), plan.grid)
        drawn = (replace(plan.outlines, strength=s).draw(logits, np.random.default_rng(seed)) for s in STRENGTHS)
        obtained = [measure(cleaned_label(plan, classes, anatomy), plan.targets, plan.grid.spacing_mm) for classes in drawn]
        return np.log(asked[sphericity] / np.stack(obtained)[:, sphericity])

    samples = [excess_roughness(seed) for seed in tqdm(range(NUM_SAMPLES), "outlines", unit="sample")]
    return replace(plan.outlines, strength=balanced_strength(np.concatenate(samples, axis=1)))


def balanced_strength(excess: FloatArray) -> float:
    """Strength at which the mean of the excess roughness [strengths, N], NaN where unknown, passes 0.

    Returns:
        0 if masks are rougher than asked without any noise, or nothing is known.
    """
    known = excess[:, np.isfinite(excess).all(axis=0)]
    return round(float(np.interp(0.0, np.maximum.accumulate(known.mean(axis=1)), STRENGTHS)), 4) if known.size else 0.0
