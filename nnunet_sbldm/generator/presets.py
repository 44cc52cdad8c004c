"""Configuration: frozen dataclasses, one per stage, and the presets.

The resolved configuration is saved in every checkpoint. Presets differ in the size of the networks and in how they are trained.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields, replace
from typing import Any


@dataclass(frozen=True)
class AutoencoderConfig:
    """Slice autoencoder.

    Attributes:
        widths: feature channels per resolution level; each further level halves the in-plane size.
        latent_channels: channels of a slice latent for one image channel; one more for each further channel.
        embedding_dim: width of the positional embedding l(i).
        use_position: condition encoder and decoder on l(i); off only for ablation.
        latent_noise: largest noise on training latents, in their standard deviations, so that the decoder forgives the
            errors of the denoiser instead of turning them into flicker between slices.
        crop_pixels: it is trained on square crops of slices with this side at most; many small crops teach more in the
            same time than few whole slices.
    """

    widths: tuple[int, ...]
    latent_channels: int = 4
    embedding_dim: int = 64
    use_position: bool = True
    latent_noise: float = 0.2
    crop_pixels: int = 64


@dataclass(frozen=True)
class DenoiserConfig:
    """Denoiser of the stacked slice latents.

    Attributes:
        widths: feature channels per resolution level.
        embedding_dim: width of the embedding of time and condition.
        dropout: dropout probability inside residual blocks.
        use_maps: draw the condition on the latent grid; off only for ablation.
    """

    widths: tuple[int, ...]
    embedding_dim: int = 128
    dropout: float = 0.0
    use_maps: bool = True


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
class DiffusionConfig:
    """Diffusion process.

    Attributes:
        prediction_type: what the denoiser predicts, ``v_prediction``, ``sample`` (x0) or ``epsilon``.
        schedule: noise schedule by diffusers' name, ``squaredcos_cap_v2`` (cosine) or ``linear``.
        noise_shift: the schedule's noise-to-signal ratio (of amplitudes) is multiplied by this; more than 1 spends more
            steps on what large parts of a volume share (Hoogeboom et al. 2023).
        min_snr_gamma: weight of a time in the loss is min(SNR, gamma) / SNR in x0 terms (Hang et al. 2023); None weighs
            all times alike in terms of what is predicted.
        num_train_timesteps: T of the discrete process.
        condition_dropout: probability of training a sample without any condition (learned null).
        feature_dropout: probability of training a sample with a random half of the features missing.
        foreground_weight: weight in the loss of latents that hold foreground, relative to the others.
        self_conditioning: the denoiser also sees its previous estimate of z_0 (Chen et al. 2023).
        masked_share: share of training samples of which the clean latents around a random region are given to the
            denoiser, as edits give them; with 0 it has no input for them.
    """

    prediction_type: str = "v_prediction"
    schedule: str = "squaredcos_cap_v2"
    noise_shift: float = 2.0
    min_snr_gamma: float | None = None
    num_train_timesteps: int = 1000
    condition_dropout: float = 0.1
    feature_dropout: float = 0.2
    foreground_weight: float = 4.0
    self_conditioning: bool = False
    masked_share: float = 0.0


SAMPLERS = ("ddim", "dpmsolver++", "sde-dpmsolver++")
"""DDIM (Song et al. 2021), and DPM-Solver++ 2M as an ODE and as an SDE solver (Lu et al. 2022)."""
PRECISIONS = ("fp32", "bf16")


@dataclass(frozen=True)
class SamplerConfig:
    """Sampler; by default that of whole cases.

    Attributes:
        name: one of ``SAMPLERS``.
        eta: noise added back at every DDIM step; 0 is deterministic, 1 is ancestral sampling.
        num_steps: denoising steps.
        guidance_scale: classifier-free guidance; 1 samples the plain conditional model.
        batch_size: cases denoised together (short batches are filled up); recorded, because float rounding depends on
            it. More than 1 pays on GPUs alone.
        precision: arithmetic of both networks, one of ``PRECISIONS``; recorded, because rounding depends on it too.
        max_corrections: further draws, at most, of a case that misses the asked volume; see ``size_correction``.
    """

    name: str = "dpmsolver++"
    eta: float = 0.0
    num_steps: int = 10
    guidance_scale: float = 1.5
    batch_size: int = 1
    precision: str = "fp32"
    max_corrections: int = 2

    @property
    def is_stochastic(self) -> bool:
        """Whether steps add noise."""
        return self.eta > 0 or self.name.startswith("sde")


EDIT_SAMPLER = SamplerConfig("sde-dpmsolver++")
"""Of edits: the noise of every step lets what is new adapt to what stays."""


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


def from_json(cls: type[Any], value: dict[str, Any]) -> Any:
    """Rebuild one of the dataclasses of this project from JSON (lists become tuples)."""

    def as_tuple(v: Any) -> Any:
        return tuple(as_tuple(x) for x in v) if isinstance(v, list) else v

    return cls(**{f.name: as_tuple(value[f.name]) for f in fields(cls) if f.name in value})
