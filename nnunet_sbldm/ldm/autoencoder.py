"""The slice autoencoder (paper section 2, first stage): q(z_i | x_i, m_i, l(i)) and its decoder.

A slice pair (x_i, m_i) is encoded, told where the slice lies by l(i), and decoded with l(i) to an image head and a
label head. The label map enters as one-hot channels; class 0 is the outside of the anatomy.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nnunet_sbldm.ldm.blocks import ChannelNorm, FactorisedConv, ResidualBlock, sinusoidal
from nnunet_sbldm.ldm.config import AutoencoderConfig

POSITION_PERIODS = 1000.0
"""l(i) is the sinusoidal code of the normalised position times this number."""


@dataclass
class Posterior:
    """q(z | x, m, l): a diagonal Gaussian.

    Attributes:
        mean: [B, Z, h, w].
        log_variance: [B, Z, h, w].
    """

    mean: Tensor
    log_variance: Tensor

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Reparametrised sample (training only; diffusion is trained on the means)."""
        noise = torch.randn(self.mean.shape, generator=generator).to(self.mean)
        return self.mean + noise * torch.exp(0.5 * self.log_variance)

    def kl(self) -> Tensor:
        """Mean Kullback-Leibler divergence from N(0, 1) per latent element."""
        return 0.5 * (self.mean.square() + self.log_variance.exp() - 1 - self.log_variance).mean()


class SliceAutoencoder(nn.Module):
    """2-D autoencoder of slice pairs with a positional cue.

    Args:
        num_channels: C, image channels.
        num_classes: K, label classes, outside and background included.
        downsampling: in-plane factor f, a power of two.
        config: widths and embedding; the last width is repeated if f asks for more levels.
    """

    def __init__(self, num_channels: int, num_classes: int, downsampling: int, config: AutoencoderConfig) -> None:
        super().__init__()
        self.num_channels, self.num_classes, self.downsampling = num_channels, num_classes, downsampling
        self.use_position = config.use_position
        self.latent_channels, self.latent_noise = config.latent_channels + num_channels - 1, config.latent_noise
        num_levels = downsampling.bit_length()
        widths = (*config.widths, *[config.widths[-1]] * num_levels)[:num_levels]
        e = config.embedding_dim
        self.embed = nn.Sequential(nn.Linear(e, e), nn.SiLU(), nn.Linear(e, e))
        self.embedding_dim = e

        self.conv_in = nn.Conv2d(num_channels + num_classes, widths[0], 3, padding=1)
        self.encode_blocks, self.downsample = nn.ModuleList(), nn.ModuleList()
        for wide, wider in zip(widths, widths[1:], strict=False):
            self.encode_blocks.append(ResidualBlock(wide, wide, e, 2))
            self.downsample.append(FactorisedConv(wide, wider, 2, (1, 2, 2)))
        self.encode_bottom = ResidualBlock(widths[-1], widths[-1], e, 2)
        self.to_posterior = nn.Conv2d(widths[-1], 2 * self.latent_channels, 1)

        self.from_latent = nn.Conv2d(self.latent_channels, widths[-1], 3, padding=1)
        self.decode_bottom = ResidualBlock(widths[-1], widths[-1], e, 2)
        self.after_upsampling, self.decode_blocks = nn.ModuleList(), nn.ModuleList()
        for wide, narrow in zip(widths[::-1], widths[-2::-1], strict=False):
            self.after_upsampling.append(FactorisedConv(wide, narrow, 2))
            self.decode_blocks.append(ResidualBlock(narrow, narrow, e, 2))
        self.norm_out = ChannelNorm(widths[0])
        self.image_head = nn.Conv2d(widths[0], num_channels, 3, padding=1)
        self.label_head = nn.Conv2d(widths[0], num_classes, 3, padding=1)

    def position_embedding(self, position: Tensor) -> Tensor:
        """l(i): [B] normalised positions in [0, 1] -> [B, E]; zero if switched off."""
        code = sinusoidal(position * POSITION_PERIODS, self.embedding_dim, POSITION_PERIODS)
        return self.embed(code) * float(self.use_position)

    def encode(self, image: Tensor, one_hot: Tensor, position: Tensor) -> Posterior:
        """[B, C, H, W], [B, K, H, W], [B] -> posterior of [B, Z, h, w]."""
        embedding = self.position_embedding(position)
        h = self.conv_in(torch.cat([image, one_hot], dim=1))
        for block, downsample in zip(self.encode_blocks, self.downsample, strict=True):
            h = downsample(block(h, embedding))
        mean, log_variance = self.to_posterior(self.encode_bottom(h, embedding)).chunk(2, dim=1)
        return Posterior(mean, log_variance.clamp(-20, 10))

    def decode(self, latent: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
        """[B, Z, h, w], [B] -> image [B, C, H, W] and label logits [B, K, H, W]."""
        embedding = self.position_embedding(position)
        h = self.decode_bottom(self.from_latent(latent), embedding)
        for conv, block in zip(self.after_upsampling, self.decode_blocks, strict=True):
            h = block(conv(F.interpolate(h, scale_factor=2.0, mode="nearest")), embedding)
        h = F.silu(self.norm_out(h)).float()
        with torch.autocast(h.device.type, enabled=False):  # bf16 has 128 grey values between 1 and 2
            return self.image_head(h), self.label_head(h)

    def forward(
        self, image: Tensor, one_hot: Tensor, position: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Reconstruct through a posterior sample with further noise: image, label logits and the KL term."""
        posterior = self.encode(image, one_hot, position)
        decoded_image, logits = self.decode(self._with_noise(posterior.sample(generator), generator), position)
        return decoded_image, logits, posterior.kl()

    def _with_noise(self, latent: Tensor, generator: torch.Generator) -> Tensor:
        """Noise of a random strength per slice, up to ``latent_noise`` standard deviations of each latent channel."""
        strength = self.latent_noise * torch.rand(len(latent), 1, 1, 1, generator=generator).to(latent)
        noise = torch.randn(latent.shape, generator=generator).to(latent)
        return latent + strength * latent.detach().std(dim=(0, 2, 3), keepdim=True) * noise
