"""Sizes and settings of the networks, the diffusion process and the sampler: frozen dataclasses, saved in every checkpoint."""

from __future__ import annotations

from dataclasses import dataclass


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
class DiffusionConfig:
    """Diffusion process.

    Attributes:
        prediction_type: what the denoiser predicts, ``v_prediction``, ``sample`` (x0) or ``epsilon``.
        schedule: noise schedule by diffusers' name, ``squaredcos_cap_v2`` (cosine) or ``linear``.
        noise_shift: the schedule's noise-to-signal ratio (of amplitudes) is multiplied by this; more than 1 spends more
            steps on what large parts of a volume share (Hoogeboom et al. 2023).
        num_train_timesteps: T of the discrete process.
        condition_dropout: probability of training a sample without any condition (learned null).
        feature_dropout: probability of training a sample with a random half of the features missing.
        foreground_weight: weight in the loss of latents that hold foreground, relative to the others.
    """

    prediction_type: str = "v_prediction"
    schedule: str = "squaredcos_cap_v2"
    noise_shift: float = 2.0
    num_train_timesteps: int = 1000
    condition_dropout: float = 0.1
    feature_dropout: float = 0.2
    foreground_weight: float = 4.0


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
