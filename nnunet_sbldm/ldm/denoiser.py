"""The denoiser of the stacked slice latents Z (paper section 2, second stage), steered by tau(c) and a drawing of c.

A 3-D U-Net whose convolutions are factorised into one within slices and one across them. Strides are anisotropic:
an axis is halved only while its voxels are not much larger than the smallest, as nnU-Net does. Where slices are thin or
the volume is large, neighbouring latents enter and leave as one token (Hoogeboom et al. 2023, "simple diffusion"), which
costs less and ties thin slices to each other. Self-attention at the coarsest level ties distant slices together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nnunet_sbldm.data.conditions import ConditionScaling, Target
from nnunet_sbldm.ldm.blocks import FactorisedConv, ResidualBlock, sinusoidal
from nnunet_sbldm.ldm.conditioning import MAX_PERIOD, ConditionEncoder, ConditionMaps
from nnunet_sbldm.ldm.config import DenoiserConfig
from nnunet_sbldm.ldm.layout import DenoiserLayout, tokens_shape

Part = tuple[slice, slice, slice]


class SelfAttention(nn.Module):
    """Single-head self-attention over all positions of a small volume, with a residual connection."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, channels)
        self.qkv = nn.Conv3d(channels, 3 * channels, 1)
        self.out = nn.Conv3d(channels, channels, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, D, h, w] -> the same shape."""
        q, k, v = self.qkv(self.norm(x)).flatten(2).transpose(1, 2).chunk(3, dim=2)  # [B, D*h*w, C]
        attended = F.scaled_dot_product_attention(q, k, v)
        return x + self.out(attended.transpose(1, 2).reshape(x.shape))


class VolumeDenoiser(nn.Module):
    """Predicts v (or x0) of a noisy latent volume.

    Args:
        latent_shape: (Z, D, h, w).
        voxel_mm: latent voxel size along (D, h, w).
        scaling: condition features in network scale.
        targets: labels or regions they describe.
        config: widths, embedding, dropout.
        layout: another layout than the shape asks for, where weights of another network are to fit.
    """

    def __init__(
        self,
        latent_shape: Sequence[int],
        voxel_mm: Sequence[float],
        scaling: ConditionScaling,
        targets: Sequence[Target],
        config: DenoiserConfig,
        layout: DenoiserLayout | None = None,
    ) -> None:
        super().__init__()
        widths, e, (latent_channels, *shape) = config.widths, config.embedding_dim, latent_shape
        layout = layout or DenoiserLayout.of(shape, voxel_mm, len(widths))
        self.embedding_dim, self.patch, self.strides = e, layout.patch, layout.strides
        num_latents = math.prod(self.patch) * latent_channels
        token_mm = [v * p for v, p in zip(voxel_mm, self.patch, strict=True)]
        self.time_mlp = nn.Sequential(nn.Linear(e, e), nn.SiLU(), nn.Linear(e, e))
        self.tau = ConditionEncoder(len(scaling.names), e)
        self.maps = ConditionMaps(scaling, targets, tokens_shape(shape, self.patch), token_mm)
        self.use_maps = config.use_maps
        self.conv_in = FactorisedConv(num_latents + 3 + len(targets), widths[0], 3)
        self.down_blocks, self.downsample = nn.ModuleList(), nn.ModuleList()
        self.after_upsampling, self.up_blocks = nn.ModuleList(), nn.ModuleList()
        for wide, wider, stride in zip(widths, widths[1:], layout.strides, strict=False):
            self.down_blocks.append(ResidualBlock(wide, wide, e, 3, config.dropout))
            self.downsample.append(FactorisedConv(wide, wider, 3, stride))
            self.after_upsampling.insert(0, FactorisedConv(wider, wide, 3))
            self.up_blocks.insert(0, ResidualBlock(2 * wide, wide, e, 3, config.dropout))
        self.bottom1 = ResidualBlock(widths[-1], widths[-1], e, 3, config.dropout)
        self.attention = SelfAttention(widths[-1]) if layout.use_attention else nn.Identity()
        self.bottom2 = ResidualBlock(widths[-1], widths[-1], e, 3, config.dropout)
        self.norm_out = nn.GroupNorm(1, widths[0])
        self.conv_out = nn.Conv3d(widths[0], num_latents, 1)
        nn.init.zeros_(self.conv_out.weight)
        nn.init.zeros_(self.conv_out.bias)  # type: ignore[arg-type]

    def forward(self, noisy: Tensor, timestep: Tensor, condition: Tensor, part: Part | None = None) -> Tensor:
        """[B, Z, D, h, w], [B], [B, F] (NaN = missing) -> [B, Z, D, h, w].

        Where only a ``part`` of the latent volume is given, see :meth:`part_around`, (D, h, w) is that part's shape.
        """
        embedding = self.time_mlp(sinusoidal(timestep, self.embedding_dim, MAX_PERIOD)) + self.tau(condition)
        tokens = merge_latents(noisy, self.patch)
        maps = self.maps(condition).to(tokens) * float(self.use_maps)
        where = [_coordinates(maps), maps]
        if part is not None:
            d, height, width = (slice(s.start // p, -(-s.stop // p)) for s, p in zip(part, self.patch, strict=True))
            where = [v[:, :, d, height, width] for v in where]
        h = self.conv_in(torch.cat([tokens, *where], dim=1))
        skips = []
        for block, downsample in zip(self.down_blocks, self.downsample, strict=True):
            h = block(h, embedding)
            skips.append(h)
            h = downsample(h)
        h = self.bottom2(self.attention(self.bottom1(h, embedding)), embedding)
        for conv, block, skip in zip(self.after_upsampling, self.up_blocks, reversed(skips), strict=True):
            h = F.interpolate(conv(h), size=skip.shape[2:], mode="nearest")
            h = block(torch.cat([h, skip], dim=1), embedding)
        num_slices, num_rows, num_columns = noisy.shape[2:]
        volume = split_tokens(self.conv_out(F.silu(self.norm_out(h))), self.patch)
        return volume[:, :, :num_slices, :num_rows, :num_columns]

    def part_around(self, free: np.ndarray, context: int) -> Part:
        """The smallest part of the latent volume that the network can denoise alone and that holds what is to be made.

        Args:
            free: [D, h, w] bool, latents to be made.
            context: latents of its surroundings, at least, that the part has on every side.
        """
        part = []
        for axis, n in enumerate(free.shape):
            step = self.patch[axis] * math.prod(s[axis] for s in self.strides)
            (found,) = np.nonzero(free.any(axis=tuple(a for a in range(3) if a != axis)))
            start, stop = max(int(found[0]) - context, 0), min(int(found[-1]) + 1 + context, n)
            part.append(slice(start // step * step, min(-(-stop // step) * step, n)))
        return (part[0], part[1], part[2])


def merge_latents(volume: Tensor, patch: Sequence[int]) -> Tensor:
    """[B, Z, D, h, w] -> [B, Z * latents, D', h', w']; where ``patch`` does not divide an axis, its last latents are repeated."""
    missing = [-n % p for n, p in zip(volume.shape[2:], patch, strict=True)]
    if any(missing):
        volume = F.pad(volume, (0, missing[2], 0, missing[1], 0, missing[0]), mode="replicate")
    for axis, p in enumerate(patch):
        volume = volume.unflatten(axis + 2, (-1, p)).movedim(axis + 3, 2).flatten(1, 2)
    return volume


def split_tokens(tokens: Tensor, patch: Sequence[int]) -> Tensor:
    """Inverse of :func:`merge_latents`: [B, Z * latents, D', h', w'] -> [B, Z, D' * d, h' * h, w' * w]."""
    for axis, p in reversed(list(enumerate(patch))):
        tokens = tokens.unflatten(1, (-1, p)).movedim(2, axis + 3).flatten(axis + 2, axis + 3)
    return tokens


def _coordinates(volume: Tensor) -> Tensor:
    """Normalised coordinates [B, 3, D, h, w] in [-1, 1]: the positional cue of the second stage."""
    axes = [torch.linspace(-1, 1, n, device=volume.device, dtype=volume.dtype) for n in volume.shape[2:]]
    return torch.stack(torch.meshgrid(*axes, indexing="ij")).expand(volume.shape[0], -1, -1, -1, -1)
