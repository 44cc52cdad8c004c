"""The two stages of the training: the slice autoencoder, then the denoiser of its stacked latents."""

from __future__ import annotations

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
from nnunet_sbldm.ldm.config import SamplerConfig
from nnunet_sbldm.ldm.diffusion import diffusion_loss, drop_condition, initial_noise, make_scheduler, sample
from nnunet_sbldm.ldm.latents import decode_volume, encode_volume, one_hot_of
from nnunet_sbldm.ldm.losses import autoencoder_loss
from nnunet_sbldm.training.loop import Stage
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


def denoiser_stage(
    denoiser: nn.Module,
    autoencoder: SliceAutoencoder,
    plan: GeneratorPlan,
    latents: Tensor,
    conditions: Tensor,
    weights: Tensor,
) -> Stage:
    """Second stage: denoise standardised latent volumes under their conditions.

    Args:
        denoiser: what is trained.
        autoencoder: the first stage, for pictures.
        plan: plan with latent statistics.
        latents: [N, Z, D, h, w], not standardised.
        conditions: [N, F] in network scale.
        weights: [N, 1, D, h, w] weights in the loss, more than 1 where there is foreground.
    """
    clean_all = plan.standardised(latents)
    config = plan.preset.diffusion
    scheduler, batch_size = make_scheduler(config), plan.preset.denoiser_stage.batch_size

    def loss(network: nn.Module, rng: np.random.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        device, generator = next(network.parameters()).device, _torch_generator(rng)
        chosen = torch.from_numpy(rng.integers(len(clean_all), size=batch_size))
        clean = clean_all[chosen]
        noise, time = (
            torch.randn(clean.shape, generator=generator),
            torch.from_numpy(rng.integers(config.num_train_timesteps, size=batch_size)),
        )
        condition = drop_condition(conditions[chosen], config, generator)
        clean, condition, time, noise, weight = (t.to(device) for t in (clean, condition, time, noise, weights[chosen]))
        return diffusion_loss(network, scheduler, clean, condition, time, noise, weight), {}

    def picture(network: nn.Module, file: Path) -> None:
        device, seeds = next(network.parameters()).device, range(min(PICTURED_CASES, len(latents)))
        noise = initial_noise(seeds, clean_all.shape[1:]).to(device)
        rows = []
        sampler = SamplerConfig(precision=best_precision(device.type))
        for n, z in enumerate(sample(network, config, sampler, noise, conditions[: len(seeds)].to(device), seeds)):
            pair = (decode_standardised(plan, autoencoder, v.to(device)) for v in (clean_all[n], z))
            titles = ("training case, reconstructed", "sample, same condition")
            rows.append(("", [_panel(*decoded, plan, title) for decoded, title in zip(pair, titles, strict=True)]))
        montage(file, rows)

    num_cases = len(plan.condition_table)
    novelty = Novelty(clean_all, num_cases) if num_cases >= MIN_CASES else None

    def novelty_of(network: nn.Module) -> float:
        assert novelty is not None
        return novelty.of(torch.stack([sampled_latent(plan, network, seed).cpu() for seed in range(NOVELTY_SAMPLES)]))

    can_copy = None if novelty is None else novelty_of
    return Stage("denoiser", TrainingStream.DENOISER, denoiser, plan.preset.denoiser_stage, loss, picture, can_copy)


def _panel(image: Tensor, classes: Tensor, plan: GeneratorPlan, title: str) -> Panel:
    """First channel and labels of a volume ([C, D, H, W] and class indices [D, H, W] or logits [K, D, H, W])."""
    indices = (classes.argmax(0) if classes.ndim == 4 else classes).cpu().numpy()
    label = plan.encoding.decode(indices)
    return Panel(np.where(label == OUTSIDE, FILL, image[0].cpu().numpy()), label, plan.grid.spacing_mm, title)


def _torch_generator(rng: np.random.Generator) -> torch.Generator:
    return torch.Generator().manual_seed(int(rng.integers(2**62)))
