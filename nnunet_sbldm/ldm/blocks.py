"""Building blocks shared by the slice autoencoder and the volume denoiser."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def sinusoidal(position: Tensor, dim: int, max_period: float) -> Tensor:
    """Sinusoidal code [B, dim] of positions [B] (Vaswani et al. 2017, section 3.5)."""
    half = dim // 2
    frequencies = torch.exp(-math.log(max_period) * torch.arange(half, device=position.device) / half)
    angles = position.float()[:, None] * frequencies[None]
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class FactorisedConv(nn.Module):
    """A convolution within slices followed by one across slices; in 2-D just the first.

    Shape: [B, C, (D,) H, W] -> [B, C', (D',) H', W'].
    """

    def __init__(self, channels_in: int, channels_out: int, num_axes: int, stride: Sequence[int] = (1, 1, 1)) -> None:
        super().__init__()
        d, h, w = stride
        self.within: nn.Module
        self.across: nn.Module
        if num_axes == 2:
            self.within = nn.Conv2d(channels_in, channels_out, 3, padding=1, stride=(h, w))
            self.across = nn.Identity()
        else:
            self.within = nn.Conv3d(channels_in, channels_out, (1, 3, 3), padding=(0, 1, 1), stride=(1, h, w))
            self.across = nn.Conv3d(channels_out, channels_out, (3, 1, 1), padding=(1, 0, 0), stride=(d, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Convolve."""
        return self.across(self.within(x))


class ChannelNorm(nn.Module):
    """Layer normalisation over the channels of every pixel alone (Ba et al. 2016): [B, C, ...] -> the same shape.

    Unlike group normalisation it carries no statistics across a slice, so a small error of a latent somewhere in a slice
    does not change the brightness of the whole slice against its neighbours.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise."""
        return F.layer_norm(x.movedim(1, -1), self.weight.shape, self.weight, self.bias).movedim(-1, 1)


class ResidualBlock(nn.Module):
    """Two normalised convolutions with a skip; an embedding scales and shifts the second (FiLM).

    The second convolution starts at zero, so that the block starts as its skip.
    """

    def __init__(self, channels_in: int, channels_out: int, embedding_dim: int, num_axes: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm1 = _norm(channels_in, num_axes)
        self.conv1 = FactorisedConv(channels_in, channels_out, num_axes)
        self.film = nn.Linear(embedding_dim, 2 * channels_out)
        self.norm2 = _norm(channels_out, num_axes)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = FactorisedConv(channels_out, channels_out, num_axes)
        last = self.conv2.within if num_axes == 2 else self.conv2.across
        for parameter in last.parameters():
            nn.init.zeros_(parameter)
        conv = nn.Conv2d if num_axes == 2 else nn.Conv3d
        self.skip = conv(channels_in, channels_out, 1) if channels_in != channels_out else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """[B, C, ...], [B, E] -> [B, C', ...]."""
        h = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.film(F.silu(embedding))[(..., *[None] * (x.ndim - 2))].chunk(2, dim=1)
        h = self.norm2(h) * (1 + scale) + shift
        return self.skip(x) + self.conv2(self.dropout(F.silu(h)))


def _norm(channels: int, num_axes: int) -> nn.Module:
    """Per pixel in slices, per group of channels in volumes."""
    return ChannelNorm(channels) if num_axes == 2 else nn.GroupNorm(next(g for g in (8, 4, 2, 1) if channels % g == 0), channels)
