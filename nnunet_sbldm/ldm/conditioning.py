"""The condition vector c on its way into the denoiser: tau(c), an embedding, and c drawn on the latent grid."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nnunet_sbldm.data.conditions import ANATOMY_FEATURES, AXES, ConditionScaling, Target, is_log_feature

MAX_PERIOD = 10_000.0
SHARPNESS = 3.0
"""Steepness of the soft ellipsoids at their surface."""


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
