"""The denoiser of the stacked slice latents Z (paper section 2, second stage), steered by tau(c) and a drawing of c.

A 3-D U-Net whose convolutions are factorised into one within slices and one across them. Strides are anisotropic:
an axis is halved only while its voxels are not much larger than the smallest, as nnU-Net does. Where slices are thin or
the volume is large, neighbouring latents enter and leave as one token (Hoogeboom et al. 2023, "simple diffusion"), which
costs less and ties thin slices to each other. Self-attention at the coarsest level ties distant slices together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nnunet_sbldm.data.conditions import ANATOMY_FEATURES, AXES, ConditionScaling, Target, is_log_feature
from nnunet_sbldm.generator.presets import DenoiserConfig
from nnunet_sbldm.ldm.blocks import FactorisedConv, ResidualBlock, sinusoidal

Part = tuple[slice, slice, slice]

MAX_PERIOD = 10_000.0
MIN_AXIS = 6
MAX_TOKENS = 20 * 32 * 32
"""Tokens at the finest level beyond which neighbouring latents share one."""
MAX_ATTENTION_TOKENS = 4096
SHARPNESS = 3.0
"""Steepness of the soft ellipsoids at their surface."""


def strides_for(shape: Sequence[int], voxel_mm: Sequence[float], num_levels: int) -> list[tuple[int, int, int]]:
    """Stride between successive levels: halve the axes whose voxels are within twice the smallest voxel.

    Args:
        shape: (D, h, w) of the latent volume.
        voxel_mm: latent voxel size along (D, h, w).
        num_levels: resolution levels.
    """
    shape, voxel_mm, strides = list(shape), list(voxel_mm), []
    for _ in range(num_levels - 1):
        can = [n >= MIN_AXIS for n in shape]
        smallest = min((v for v, c in zip(voxel_mm, can, strict=True) if c), default=0.0)
        stride = tuple(2 if c and v < 2 * smallest else 1 for v, c in zip(voxel_mm, can, strict=True))
        shape = [-(-n // s) for n, s in zip(shape, stride, strict=True)]
        voxel_mm = [v * s for v, s in zip(voxel_mm, stride, strict=True)]
        strides.append(stride)
    return strides  # type: ignore[return-value]


def latents_per_token(shape: Sequence[int], voxel_mm: Sequence[float]) -> tuple[int, int, int]:
    """Neighbouring latents along (D, h, w) that share a token at the finest level.

    Two slices where slices are much thinner than latents are wide; then, while there are more than ``MAX_TOKENS`` tokens,
    twice as many along the axis on which a token is shortest.

    Args:
        shape: (D, h, w) of the latent volume.
        voxel_mm: latent voxel size along (D, h, w).
    """
    patch = [2 if 2 * voxel_mm[0] <= min(voxel_mm[1:]) else 1, 1, 1]
    while torch.Size(tokens_shape(shape, patch)).numel() > MAX_TOKENS:
        token_mm = [v * p for v, p in zip(voxel_mm, patch, strict=True)]
        patch[token_mm.index(min(token_mm))] *= 2
    return (patch[0], patch[1], patch[2])


def tokens_shape(shape: Sequence[int], patch: Sequence[int]) -> list[int]:
    """(D', h', w') of the tokens of a latent volume; the last tokens may be filled up."""
    return [-(-n // p) for n, p in zip(shape, patch, strict=True)]


@dataclass(frozen=True)
class DenoiserLayout:
    """What the size of the latent volume decides about the network; weights fit networks of the same layout alone.

    Attributes:
        patch: neighbouring latents along (D, h, w) that share a token.
        strides: stride along (D, h, w) between successive levels.
        use_attention: self-attention at the coarsest level.
    """

    patch: tuple[int, int, int]
    strides: tuple[tuple[int, int, int], ...]
    use_attention: bool

    @staticmethod
    def of(latent_shape: Sequence[int], voxel_mm: Sequence[float], num_levels: int) -> DenoiserLayout:
        """The layout for latent volumes of a shape (D, h, w) and voxel size."""
        patch = latents_per_token(latent_shape, voxel_mm)
        shape, token_mm = tokens_shape(latent_shape, patch), [v * p for v, p in zip(voxel_mm, patch, strict=True)]
        strides = strides_for(shape, token_mm, num_levels)
        num_tokens = math.prod(_coarsest(shape, strides))
        return DenoiserLayout(patch, tuple(strides), num_tokens <= MAX_ATTENTION_TOKENS)


class ConditionEncoder(nn.Module):
    """tau(c): condition vector -> embedding, with a learned token for every missing feature and a learned null."""

    def __init__(self, num_features: int, embedding_dim: int) -> None:
        super().__init__()
        self.missing = nn.Parameter(torch.zeros(num_features))
        self.null = nn.Parameter(torch.randn(embedding_dim) * 0.02)
        self.mlp = nn.Sequential(nn.Linear(2 * num_features, embedding_dim), nn.SiLU(), nn.Linear(embedding_dim, embedding_dim))

    def forward(self, condition: Tensor) -> Tensor:
        """[B, F] in network scale, NaN = missing -> [B, E]; a row of NaN alone gives the null embedding."""
        known = condition.isfinite()
        values = torch.where(known, condition.nan_to_num(), self.missing)
        embedding = self.mlp(torch.cat([values, known.to(values)], dim=1))
        return torch.where(known.any(dim=1, keepdim=True), embedding, self.null)


class ConditionMaps(nn.Module):
    """Draws c on the latent grid: for every target a soft ellipsoid of the asked place and extents.

    With few training cases a vector alone steers weakly; a picture of where and how large is followed at once. The map
    of a target is about 1 inside, -1 outside, -1 everywhere if the target is absent, and 0 where its place is open.

    Args:
        scaling: condition features, to return from network scale to millimetres.
        targets: labels or regions, in the order of the features.
        shape: (D, h, w) of the latent volume.
        voxel_mm: latent voxel size along (D, h, w).
    """

    mean: Tensor
    std: Tensor
    is_log: Tensor
    grid_mm: Tensor

    def __init__(
        self, scaling: ConditionScaling, targets: Sequence[Target], shape: Sequence[int], voxel_mm: Sequence[float]
    ) -> None:
        super().__init__()
        names = list(scaling.names)
        self.presence = [names.index(f"{t.name}/presence") for t in targets]
        self.centroid = [[names.index(f"{t.name}/centroid_{a}") for a in AXES] for t in targets]
        self.extent = [[names.index(f"{t.name}/extent_{a}_mm") for a in AXES] for t in targets]
        self.anatomy = [names.index(name) for name in ANATOMY_FEATURES]
        axes = [(torch.arange(n) - (n - 1) / 2) * v for n, v in zip(shape, voxel_mm, strict=True)]  # cases are centred
        for name, value in {
            "mean": torch.tensor(scaling.mean),
            "std": torch.tensor(scaling.std),
            "is_log": torch.from_numpy(is_log_feature(names)),
            "grid_mm": torch.stack(torch.meshgrid(*axes, indexing="ij"))[None],  # [1, 3, D, h, w]
        }.items():
            self.register_buffer(name, value, persistent=False)

    def forward(self, condition: Tensor) -> Tensor:
        """[B, F] in network scale, NaN = missing -> [B, targets, D, h, w]."""
        linear = condition * self.std + self.mean
        physical = torch.where(self.is_log, linear.exp(), linear)
        anatomy_mm = physical[:, self.anatomy]
        maps = []
        for presence, centroid, extent in zip(self.presence, self.centroid, self.extent, strict=True):
            centre_mm = (physical[:, centroid] - 0.5) * anatomy_mm
            offset = (self.grid_mm - _per_axis(centre_mm)) / (0.5 * _per_axis(physical[:, extent])).clamp(min=1e-3)
            ellipsoid = torch.tanh(SHARPNESS * (1 - offset.square().sum(dim=1).sqrt()))
            absent = (physical[:, presence] < 0.5).to(ellipsoid)[:, None, None, None]
            maps.append(torch.where(absent > 0, -1.0, ellipsoid.nan_to_num()))
        return torch.stack(maps, dim=1)


def _per_axis(values: Tensor) -> Tensor:
    return values[:, :, None, None, None]


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
        latent_channels: Z.
        latent_shape: (D, h, w).
        voxel_mm: latent voxel size along (D, h, w).
        scaling: condition features in network scale.
        targets: labels or regions they describe.
        config: widths, embedding, dropout.
        num_estimates: 1 if the previous estimate of z_0 enters too (self-conditioning), else 0.
        sees_known: whether latents that are known enter too, see :meth:`forward`.
        layout: another layout than the shape asks for, where weights of another network are to fit.
    """

    def __init__(
        self,
        latent_channels: int,
        latent_shape: Sequence[int],
        voxel_mm: Sequence[float],
        scaling: ConditionScaling,
        targets: Sequence[Target],
        config: DenoiserConfig,
        num_estimates: int = 0,
        sees_known: bool = False,
        layout: DenoiserLayout | None = None,
    ) -> None:
        super().__init__()
        widths, e = config.widths, config.embedding_dim
        layout = layout or DenoiserLayout.of(latent_shape, voxel_mm, len(widths))
        self.embedding_dim, self.patch, self.strides = e, layout.patch, layout.strides
        latent_shape, num_latents = tokens_shape(latent_shape, self.patch), math.prod(self.patch) * latent_channels
        token_mm = [v * p for v, p in zip(voxel_mm, self.patch, strict=True)]
        self.time_mlp = nn.Sequential(nn.Linear(e, e), nn.SiLU(), nn.Linear(e, e))
        self.tau = ConditionEncoder(len(scaling.names), e)
        self.maps = ConditionMaps(scaling, targets, latent_shape, token_mm)
        self.use_maps = config.use_maps
        self.num_known = latent_channels + 1 if sees_known else 0
        num_inputs = num_latents * (1 + num_estimates) + 3 + len(targets) + math.prod(self.patch) * self.num_known
        self.conv_in = FactorisedConv(num_inputs, widths[0], 3)
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

    def forward(
        self,
        noisy: Tensor,
        timestep: Tensor,
        condition: Tensor,
        *estimates: Tensor,
        known: Tensor | None = None,
        part: Part | None = None,
    ) -> Tensor:
        """[B, Z, D, h, w], [B], [B, F] (NaN = missing), previous estimates [B, Z, D, h, w] -> [B, Z, D, h, w].

        ``known`` [B, Z + 1, D, h, w] are clean latents, 0 where they are not known, and where they are, as 1; nothing is known
        without it. Where only a ``part`` of the latent volume is given, see :meth:`part_around`, (D, h, w) is that part's shape.
        """
        embedding = self.time_mlp(sinusoidal(timestep, self.embedding_dim, MAX_PERIOD)) + self.tau(condition)
        tokens = merge_latents(torch.cat([noisy, *estimates], dim=1), self.patch)
        maps = self.maps(condition).to(tokens) * float(self.use_maps)
        where = [_coordinates(maps), maps]
        if part is not None:
            d, height, width = (slice(s.start // p, -(-s.stop // p)) for s, p in zip(part, self.patch, strict=True))
            where = [v[:, :, d, height, width] for v in where]
        if self.num_known:
            if known is None:
                known = noisy.new_zeros(len(noisy), self.num_known, *noisy.shape[2:])
            where.append(merge_latents(known, self.patch).to(tokens))
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


def _coarsest(shape: Sequence[int], strides: Sequence[Sequence[int]]) -> list[int]:
    shape = list(shape)
    for stride in strides:
        shape = [-(-n // s) for n, s in zip(shape, stride, strict=True)]
    return shape


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
