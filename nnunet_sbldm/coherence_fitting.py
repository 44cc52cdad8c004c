"""How much neighbouring slices of a whole volume have to be brought together.

What a denoiser still gets wrong after its training is wrong in every slice in another way: neighbouring slices fit together less
well than real ones, and a sagittal view shows bands. Each slice of latents is therefore averaged with its two neighbours.
With which weight is measured on samples: too little leaves them apart, too much blurs across slices. The
structural similarity of neighbouring slices sees the first, the differences between them the second, and the weight at which the
worse of the two is nearest to real cases is taken.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from torch import nn
from tqdm import tqdm

from nnunet_sbldm.autoencoder import SliceAutoencoder
from nnunet_sbldm.checkpoint import GeneratorPlan
from nnunet_sbldm.decoding import decoded_volume
from nnunet_sbldm.latents import mixed_with_neighbours
from nnunet_sbldm.random_fields import TINY
from nnunet_sbldm.similarity import COHERENCE, coherence
from nnunet_sbldm.slices import TrainingArrays
from nnunet_sbldm.training_samples import sampled_latent
from nnunet_sbldm.types import FloatArray, LabelArray

WEIGHTS = (0.0, 0.05, 0.1, 0.17, 0.25)
"""What is tried; at 0.25 the fastest change along slices that there can be is gone."""
FITTED = [COHERENCE.index(name) for name in ("neighbour_ssim", "gradient_ratio")]
NUM_SAMPLES, MAX_REAL, RESOLUTION = 8, 20, 0.005


def as_coherent_as_real(
    plan: GeneratorPlan, arrays: TrainingArrays, autoencoder: SliceAutoencoder, denoiser: nn.Module
) -> float:
    """Weight of each neighbouring slice with which samples of trained networks are most like the training cases."""
    num_real = min(len(plan.condition_table), MAX_REAL)

    def of_sample(seed: int) -> list[np.ndarray]:
        latent = sampled_latent(replace(plan, neighbour_weight=0.0), denoiser, seed)
        volumes = (decoded_volume(plan, autoencoder, mixed_with_neighbours(latent, w), seed) for w in WEIGHTS)
        return [_coherence(v.image, v.label, v.anatomy) for v in volumes]

    real = [
        _coherence(image.astype(np.float32), plan.encoding.decode(classes), classes != 0)
        for image, classes in zip(arrays.images[:num_real], arrays.classes[:num_real], strict=True)
    ]
    samples = [of_sample(seed) for seed in tqdm(range(NUM_SAMPLES), "coherence", unit="sample")]
    return most_coherent_weight(np.array(samples), np.array(real))


def _coherence(image: FloatArray, label: LabelArray, inside: np.ndarray) -> np.ndarray:
    return coherence(image, label, inside)[FITTED]


def most_coherent_weight(samples: np.ndarray, real: np.ndarray) -> float:
    """The smallest weight at which the worse of two measures is nearest to real cases, as a ratio of means.

    Args:
        samples: similarity and difference of neighbouring slices [samples, weights, 2], NaN where there is none.
        real: the same [cases, 2].

    Returns:
        A weight in the range of ``WEIGHTS``; 0 if nothing is known.
    """
    known = samples[np.isfinite(samples).all(axis=(1, 2))]
    known_real = real[np.isfinite(real).all(axis=1)]
    if not len(known) or not len(known_real):
        return 0.0
    ratios = np.log(known.mean(axis=0).clip(TINY) / known_real.mean(axis=0).clip(TINY))
    tried = np.arange(0, WEIGHTS[-1] + RESOLUTION / 2, RESOLUTION)
    deviation = np.max([np.abs(np.interp(tried, WEIGHTS, ratio)) for ratio in ratios.T], axis=0)
    return round(float(tried[deviation.argmin()]), 4)
