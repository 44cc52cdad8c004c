"""The two stages of the training: the slice autoencoder, then the denoiser of its stacked latents."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from nnunet_sbldm.common.devices import best_precision
from nnunet_sbldm.common.pictures import Panel, montage
from nnunet_sbldm.common.seeds import TrainingStream
from nnunet_sbldm.data.conditions import measure
from nnunet_sbldm.data.intensities import FILL
from nnunet_sbldm.data.slices import TrainingArrays
from nnunet_sbldm.generator.decoding import decode_standardised
from nnunet_sbldm.generator.plan import GeneratorPlan
from nnunet_sbldm.ldm.autoencoder import SliceAutoencoder
from nnunet_sbldm.ldm.config import DiffusionConfig, SamplerConfig
from nnunet_sbldm.ldm.diffusion import DiffusionBatch, SeededNoise, diffusion_loss, drop_condition, make_scheduler, sample
from nnunet_sbldm.ldm.latents import decode_volume, encode_volume, one_hot_of
from nnunet_sbldm.training.loop import Stage
from nnunet_sbldm.training.losses import autoencoder_loss
from nnunet_sbldm.training.novelty import MIN_CASES, Novelty
from nnunet_sbldm.training.samples import sampled_latent
from nnunet_sbldm.types import OUTSIDE

PICTURED_CASES = 3
MAX_DECODED_CASES = 32
NOVELTY_SAMPLES = 8


def conditions_of(arrays: TrainingArrays, plan: GeneratorPlan) -> Tensor:
    """Conditions [N, F] in network scale of real cases (measured before) and their augmented copies."""
    known = plan.condition_model.table
    copies = arrays.classes[len(known) :]
    measured = [measure(plan.encoding.decode(c), plan.targets, plan.grid.spacing_mm) for c in copies]
    return plan.network_conditions([*known, *measured])


def autoencoder_stage(autoencoder: SliceAutoencoder, plan: GeneratorPlan, arrays: TrainingArrays) -> Stage:
    """First stage: reconstruct crops of slice pairs."""
    weights, num_classes, batch_size = arrays.slice_weights(), plan.encoding.num_classes, plan.preset.autoencoder_stage.batch_size
    side = plan.preset.autoencoder.crop_pixels

    def loss(network: nn.Module, rng: np.random.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        device = next(network.parameters()).device
        chosen = rng.choice(len(weights), batch_size, p=weights)
        image, classes, position = (t.to(device) for t in arrays.crops(chosen, side, rng))
        outputs = network(image, one_hot_of(classes, num_classes), position, _torch_generator(rng))
        return autoencoder_loss(*(o.float() for o in outputs), image, classes)  # type: ignore[call-arg]

    def picture(network: nn.Module, file: Path) -> None:
        rows = []
        for n in range(min(PICTURED_CASES, len(arrays.images))):
            image, classes = (
                torch.from_numpy(arrays.images[n].astype(np.float32)),
                torch.from_numpy(arrays.classes[n].astype(np.int64)),
            )
            decoded = decode_volume(network, encode_volume(network, image, classes))  # type: ignore[arg-type]
            rows.append(("", [_panel(image, classes, plan, "training case"), _panel(*decoded, plan, "reconstruction")]))
        montage(file, rows)

    return Stage("autoencoder", TrainingStream.AUTOENCODER, autoencoder, plan.preset.autoencoder_stage, loss, picture)


@dataclass(frozen=True)
class LatentCases:
    """The training cases as the second stage sees them.

    Attributes:
        latents: [N, Z, D, h, w] standardised.
        conditions: [N, F] in network scale.
        weights: [N, 1, D, h, w] weights in the loss, more than 1 where there is foreground.
    """

    latents: Tensor
    conditions: Tensor
    weights: Tensor

    def draw(self, config: DiffusionConfig, batch_size: int, rng: np.random.Generator) -> DiffusionBatch:
        """A batch of random cases, with times, noise and dropped conditions."""
        generator = _torch_generator(rng)
        chosen = torch.from_numpy(rng.integers(len(self.latents), size=batch_size))
        clean = self.latents[chosen]
        noise = torch.randn(clean.shape, generator=generator)
        timestep = torch.from_numpy(rng.integers(config.num_train_timesteps, size=batch_size))
        condition = drop_condition(self.conditions[chosen], config, generator)
        return DiffusionBatch(clean, condition, timestep, noise, self.weights[chosen])


def denoiser_stage(denoiser: nn.Module, autoencoder: SliceAutoencoder, plan: GeneratorPlan, cases: LatentCases) -> Stage:
    """Second stage: denoise standardised latent volumes under their conditions.

    Args:
        denoiser: what is trained.
        autoencoder: the first stage, for pictures.
        plan: plan with latent statistics.
        cases: what it is trained on, the real cases first.
    """
    config, stage = plan.preset.diffusion, plan.preset.denoiser_stage
    scheduler = make_scheduler(config)

    def loss(network: nn.Module, rng: np.random.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        batch = cases.draw(config, stage.batch_size, rng).to(next(network.parameters()).device)
        return diffusion_loss(network, scheduler, batch), {}

    def picture(network: nn.Module, file: Path) -> None:
        _draw_samples(file, network, autoencoder, plan, cases)

    num_cases = len(plan.condition_table)
    measure_novelty = _novelty(plan, Novelty(cases.latents, num_cases)) if num_cases >= MIN_CASES else None
    return Stage("denoiser", TrainingStream.DENOISER, denoiser, stage, loss, picture, measure_novelty)


def _draw_samples(
    file: Path, network: nn.Module, autoencoder: SliceAutoencoder, plan: GeneratorPlan, cases: LatentCases
) -> None:
    """A picture of the first training cases, and of a sample under the condition of each."""
    device, num = next(network.parameters()).device, min(PICTURED_CASES, len(cases.latents))
    sampler = SamplerConfig(precision=best_precision(device.type))
    noise = SeededNoise(range(num), cases.latents.shape[1:])
    samples = sample(network, plan.preset.diffusion, sampler, noise, cases.conditions[:num].to(device))
    rows = []
    for pair in zip(cases.latents, samples, strict=False):
        decoded = (decode_standardised(plan, autoencoder, z.to(device)) for z in pair)
        titles = ("training case, reconstructed", "sample, same condition")
        rows.append(("", [_panel(*volume, plan, title) for volume, title in zip(decoded, titles, strict=True)]))
    montage(file, rows)


def _novelty(plan: GeneratorPlan, novelty: Novelty) -> Callable[[nn.Module], float]:
    """How far the samples of a network are from copies of training cases."""
    return lambda network: novelty.of(
        torch.stack([sampled_latent(plan, network, seed).cpu() for seed in range(NOVELTY_SAMPLES)])
    )


def _panel(image: Tensor, classes: Tensor, plan: GeneratorPlan, title: str) -> Panel:
    """First channel and labels of a volume ([C, D, H, W] and class indices [D, H, W] or logits [K, D, H, W])."""
    indices = (classes.argmax(0) if classes.ndim == 4 else classes).cpu().numpy()
    label = plan.encoding.decode(indices)
    shown = np.where(label == OUTSIDE, FILL, image[0].cpu().numpy())
    return Panel(shown, label, plan.grid.spacing_mm, title, axes=plan.array_axes)


def _torch_generator(rng: np.random.Generator) -> torch.Generator:
    return torch.Generator().manual_seed(int(rng.integers(2**62)))
