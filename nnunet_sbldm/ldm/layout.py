"""How a latent volume is cut into tokens and halved from level to level; decided by its shape alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

MIN_AXIS = 6
MAX_TOKENS = 20 * 32 * 32
"""Tokens at the finest level beyond which neighbouring latents share one."""
MAX_ATTENTION_TOKENS = 4096


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


def _coarsest(shape: Sequence[int], strides: Sequence[Sequence[int]]) -> list[int]:
    shape = list(shape)
    for stride in strides:
        shape = [-(-n // s) for n, s in zip(shape, stride, strict=True)]
    return shape
