"""How much noise neighbouring slices of a volume have to share.

What a denoiser has not learnt yet it leaves as the noise was that sampling begins with, and that noise is another one in every
slice: neighbouring slices fit together less well than real ones, and a sagittal view shows bands. So neighbouring slices begin
with noise that is correlated. How much is measured on samples: too little leaves slices apart, too much blurs across them. The
structural similarity of neighbouring slices sees the first, the differences between them the second, and the correlation at
which the worse of the two is nearest to real cases is taken. Every case is measured at the same contrast, as nnU-Net's z-score
will give it, because the similarity depends on that.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
from torch import nn

from nnunet_sbldm.common.progress import Progress
from nnunet_sbldm.data.slices import TrainingArrays
from nnunet_sbldm.generator.decoding import decoded_volume
from nnunet_sbldm.generator.plan import GeneratorPlan
from nnunet_sbldm.ldm.autoencoder import SliceAutoencoder
from nnunet_sbldm.quality.random_fields import TINY
from nnunet_sbldm.quality.similarity import COHERENCE, coherence
from nnunet_sbldm.training.samples import sampled_latent
from nnunet_sbldm.types import FloatArray, LabelArray

CORRELATIONS = (0.0, 0.1, 0.2, 0.3, 0.4)
"""What is tried, in this order, until it gets worse. More is too unlike the noise that the denoiser was trained on."""
FITTED = [COHERENCE.index(name) for name in ("neighbour_ssim", "gradient_ratio")]
NUM_SAMPLES, MAX_REAL, RESOLUTION = 8, 100, 0.01
CONTRAST = 0.4
"""Standard deviation inside the anatomy at which cases are measured, in network scale; real cases have about that."""


def as_coherent_as_real(
    plan: GeneratorPlan, arrays: TrainingArrays, autoencoder: SliceAutoencoder, denoiser: nn.Module
) -> float:
    """Correlation of the noise of neighbouring slices with which samples of trained networks are most like the training cases."""
    num_real = min(len(plan.condition_table), MAX_REAL)

    def of_sample(seed: int, correlation: float) -> np.ndarray:
        latent = sampled_latent(replace(plan, noise_correlation=correlation), denoiser, seed)
        volume = decoded_volume(plan, autoencoder, latent, seed)
        return _coherence(volume.image, volume.label, volume.anatomy)

    real = [
        _coherence(image.astype(np.float32), plan.encoding.decode(classes), classes != 0)
        for image, classes in zip(arrays.images[:num_real], arrays.classes[:num_real], strict=True)
    ]
    with Progress("coherence", NUM_SAMPLES * len(CORRELATIONS), "sample") as shown:

        def samples() -> Iterable[np.ndarray]:
            for correlation in CORRELATIONS:
                yield np.array([of_sample(seed, correlation) for seed in range(NUM_SAMPLES)])
                shown.update(NUM_SAMPLES)

        return most_coherent_correlation(samples(), np.array(real))


def _coherence(image: FloatArray, label: LabelArray, inside: np.ndarray) -> np.ndarray:
    spread = image[:, inside].std(axis=1).clip(TINY).reshape(-1, 1, 1, 1)
    return coherence(image * (CONTRAST / spread), label, inside)[FITTED]


def most_coherent_correlation(samples: Iterable[np.ndarray], real: np.ndarray) -> float:
    """The smallest correlation at which the worse of two measures is nearest to real cases, as a ratio of means.

    Args:
        samples: for each of ``CORRELATIONS`` the similarity and difference of neighbouring slices [samples, 2], NaN where there
            is none; taken one by one, as long as they get better.
        real: the same [cases, 2].

    Returns:
        A correlation in the range of ``CORRELATIONS``; 0 if nothing is known.
    """
    known_real = real[np.isfinite(real).all(axis=1)]
    ratios: list[np.ndarray] = []
    for sample in samples:
        known = sample[np.isfinite(sample).all(axis=1)]
        if not len(known) or not len(known_real):
            break
        ratios.append(np.log(known.mean(axis=0).clip(TINY) / known_real.mean(axis=0).clip(TINY)))
        if len(ratios) > 1 and np.abs(ratios[-1]).max() > np.abs(ratios[-2]).max():
            break
    if not ratios:
        return 0.0
    tried = np.arange(0, CORRELATIONS[len(ratios) - 1] + RESOLUTION / 2, RESOLUTION)
    deviation = np.max([np.abs(np.interp(tried, CORRELATIONS[: len(ratios)], r)) for r in np.transpose(ratios)], axis=0)
    return round(float(tried[deviation.argmin()]), 4)
