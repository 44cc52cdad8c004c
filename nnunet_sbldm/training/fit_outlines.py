"""How rough outlines have to be: the smoothing or the noise of :class:`nnunet_sbldm.generator.outlines.Outlines`.

The noise has the correlation of the decoder's own errors on the training cases. How much of it, or how much smoothing, is
measured on samples, until their masks are as rough as those of the training cases. Rough is meant within a few voxels: how far
a mask's shape changes when it is smoothed. Sphericity alone would do no good: it is low in a mask of large lobes as in one of
jagged outline, and the noise would make up for lobes that a sample lacks.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
from scipy import special
from torch import nn

from nnunet_sbldm.common.progress import progress
from nnunet_sbldm.data.conditions import roughness_of_targets
from nnunet_sbldm.data.grid import anatomy_of
from nnunet_sbldm.data.slices import TrainingArrays
from nnunet_sbldm.generator.decoding import decoded
from nnunet_sbldm.generator.outlines import Outlines, cleaned_label
from nnunet_sbldm.generator.plan import GeneratorPlan
from nnunet_sbldm.ldm.autoencoder import SliceAutoencoder
from nnunet_sbldm.quality.random_fields import MAX_LAG, SIZE, TINY, autocorrelation
from nnunet_sbldm.training.samples import sampled_latent
from nnunet_sbldm.types import FloatArray, LabelArray

LEVELS = (-2.0, -1.5, -1.0, -0.7, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0, 2.5)
"""What is tried: smoothing over so many voxels below 0, noise of such a strength above."""
NUM_SAMPLES, MAX_REAL = 16, 40
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


def as_rough_as_real(
    plan: GeneratorPlan, arrays: TrainingArrays, autoencoder: SliceAutoencoder, denoiser: nn.Module
) -> Outlines:
    """The plan's outlines, with what samples of its trained networks need to be as rough as the training cases' masks."""
    real_classes = arrays.classes[: min(len(plan.condition_table), MAX_REAL)]

    def roughness(label: LabelArray) -> np.ndarray:
        return roughness_of_targets(label, plan.targets, plan.grid.spacing_mm)

    def roughness_of_sample(seed: int) -> list[np.ndarray]:
        image, logits = decoded(plan, autoencoder, sampled_latent(plan, denoiser, seed))
        anatomy = anatomy_of(logits.argmax(0), plan.grid)
        drawn = (at_level(plan.outlines, level).draw(logits, np.random.default_rng(seed)) for level in LEVELS)
        return [roughness(cleaned_label(c, anatomy, plan.encoding, plan.components, image)) for c in drawn]

    real = np.array([roughness(plan.encoding.decode(c)) for c in real_classes])
    samples = np.array([roughness_of_sample(seed) for seed in progress(range(NUM_SAMPLES), "outlines", unit="sample")])
    return at_level(plan.outlines, balanced_level(samples, real))


def balanced_level(samples: np.ndarray, real: np.ndarray) -> float:
    """Level at which samples are as rough as real masks in the mean.

    Args:
        samples: roughness [samples, levels, targets], NaN where a target is absent.
        real: roughness [cases, targets], likewise.

    Returns:
        A level in the range of ``LEVELS``; 0 if nothing is known.
    """
    known = np.isfinite(real)
    wanted = np.where(known, real, 0).sum(axis=0) / np.where(known.any(axis=0), known.sum(axis=0), np.nan)
    excess = np.moveaxis(samples - wanted, 1, 2).reshape(-1, len(LEVELS))
    excess = excess[np.isfinite(excess).all(axis=1)]
    return float(np.interp(0.0, np.maximum.accumulate(excess.mean(axis=0)), LEVELS)) if len(excess) else 0.0


def at_level(outlines: Outlines, level: float) -> Outlines:
    """The same outlines with the smoothing or noise of a level."""
    return replace(outlines, strength=round(max(level, 0.0), 4), smoothing=round(abs(min(level, 0.0)), 4))
