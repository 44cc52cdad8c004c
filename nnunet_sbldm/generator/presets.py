"""Presets: how large the networks are and how long they are trained, from the demo's to a GPU's."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace

from nnunet_sbldm.ldm.config import AutoencoderConfig, DenoiserConfig, DiffusionConfig


@dataclass(frozen=True)
class StageConfig:
    """Optimisation of one stage.

    Attributes:
        num_steps: optimiser steps.
        batch_size: slices (autoencoder) or volumes (denoiser) per step and process.
        learning_rate: peak learning rate of AdamW; linear warm-up, then cosine decay to zero.
        warmup_steps: steps of linear warm-up.
        weight_decay: decoupled weight decay of AdamW.
        ema_decay: largest decay of the exponential moving average of the weights.
        max_gradient_norm: gradients are clipped to this norm.
        picture_every_steps: steps between pictures and resumable states.
    """

    num_steps: int
    batch_size: int
    learning_rate: float
    warmup_steps: int = 100
    weight_decay: float = 1e-2
    ema_decay: float = 0.999
    max_gradient_norm: float = 1.0
    picture_every_steps: int = 500


@dataclass(frozen=True)
class AugmentationConfig:
    """Augmented copies of few training cases.

    Attributes:
        num_wanted: copies are added until there are about so many cases, originals included.
        max_copies: most copies of one case.
        max_rotation_deg: rotation about each axis.
        max_scaling: relative change of size.
        max_gain: relative change of contrast.
        max_gamma: relative change of the exponent of intensities.
    """

    num_wanted: int = 160
    max_copies: int = 7
    max_rotation_deg: float = 8.0
    max_scaling: float = 0.08
    max_gain: float = 0.05
    max_gamma: float = 0.1


@dataclass(frozen=True)
class Preset:
    """One row of the preset table."""

    name: str
    autoencoder: AutoencoderConfig
    denoiser: DenoiserConfig
    autoencoder_stage: StageConfig
    denoiser_stage: StageConfig
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)

    def as_text(self) -> str:
        """The text by which an unfinished training is recognised.

        Three options that the diffusion no longer has are in it, switched off, so that trainings begun when it had them go on.
        """
        text = repr(self).replace(", num_train_timesteps=", ", min_snr_gamma=None, num_train_timesteps=")
        return re.sub(r"(foreground_weight=[^,)]*)\)", r"\1, self_conditioning=False, masked_share=0.0)", text)


PRESETS = {
    "tiny": Preset(
        "tiny",
        AutoencoderConfig(widths=(16, 24, 32)),
        DenoiserConfig(widths=(32, 64, 128), embedding_dim=64),
        StageConfig(num_steps=1000, batch_size=16, learning_rate=2e-3, warmup_steps=30, ema_decay=0.99, picture_every_steps=500),
        StageConfig(num_steps=1200, batch_size=8, learning_rate=2e-3, warmup_steps=30, ema_decay=0.99, picture_every_steps=400),
    ),
    "small": Preset(
        "small",
        AutoencoderConfig(widths=(24, 48, 64)),
        DenoiserConfig(widths=(48, 96, 128)),
        StageConfig(num_steps=2500, batch_size=32, learning_rate=1e-3),
        StageConfig(num_steps=2500, batch_size=8, learning_rate=5e-4),
    ),
    "base": Preset(
        "base",
        AutoencoderConfig(widths=(64, 128, 192), embedding_dim=128),
        DenoiserConfig(widths=(96, 192, 256), embedding_dim=256, dropout=0.1),
        StageConfig(num_steps=20000, batch_size=32, learning_rate=3e-4, warmup_steps=500, ema_decay=0.9995),
        StageConfig(num_steps=40000, batch_size=8, learning_rate=2e-4, warmup_steps=500, ema_decay=0.9998),
    ),
}
DEFAULT_PRESET = "small"


def lengthened(preset: Preset, factor: float) -> Preset:
    """The same preset with ``factor`` times as many steps in both stages, under a name of its own unless that is 1."""
    if factor == 1:
        return preset
    stages = (preset.autoencoder_stage, preset.denoiser_stage)
    autoencoder, denoiser = (replace(s, num_steps=max(1, round(s.num_steps * factor))) for s in stages)
    return replace(preset, name=f"{preset.name}_x{factor:g}", autoencoder_stage=autoencoder, denoiser_stage=denoiser)


def known_preset(name: str) -> str:
    """The name of a preset, or one that :func:`lengthened` gives it, such as ``small_x1.5``; the same name.

    Raises:
        ValueError: it is none.
    """
    base, length = _split_name(name)
    if base not in PRESETS or lengthened(PRESETS[base], float(length or 1)).name != name:
        raise ValueError(f"{name} is not one of {', '.join(PRESETS)}, nor such a name with a length, as small_x1.5")
    return name


def training_options(name: str) -> list[str]:
    """Options of ``sbldm_train`` that make a generator of such a name: ``-preset`` first, and ``-length`` where it has one."""
    base, length = _split_name(name)
    return ["-preset", base, *(["-length", length] if length else [])]


def _split_name(name: str) -> tuple[str, str]:
    base, length = re.fullmatch(r"(.*?)(?:_x(\d*\.?\d+))?", name).groups()  # type: ignore[union-attr]
    return base, length or ""
