"""Does the denoiser copy? A measure that needs no held-out case, for use during training.

A copy lies much nearer to one training case than to any other; a new case is about as far from its nearest as from its
second nearest. So the ratio of the two distances is compared with that of the real training cases among themselves
(after Yoon et al. 2023). Unlike the nearest distance alone, it is not fooled by samples that are merely smooth.
"""

from __future__ import annotations

import torch
from torch import Tensor

MIN_CASES = 4


class Novelty:
    """How new samples are, by the training rows that they might be copies of.

    Args:
        latents: [R, ...] of the training rows; row i is case ``i % num_cases`` or an augmented copy of it.
        num_cases: real cases, at least ``MIN_CASES``.
    """

    def __init__(self, latents: Tensor, num_cases: int) -> None:
        self._latents, self._num_cases = latents.flatten(1), num_cases
        self._real = self._ratios(latents[:num_cases], but=torch.arange(num_cases)).median()

    def of(self, samples: Tensor) -> float:
        """Median ratio of nearest to second nearest distance of samples, over that of real cases among themselves.

        Args:
            samples: [M, ...] standardised latent volumes.

        Returns:
            About 1 where samples are as new as another real case would be, near 0 where they are copies.
        """
        return float(self._ratios(samples).median() / self._real)

    def _ratios(self, volumes: Tensor, but: Tensor | None = None) -> Tensor:
        """Distance to the nearest case over that to the second nearest; a case is as near as its nearest copy.

        Args:
            volumes: [M, ...].
            but: [M] number of a case that is left out for each volume.
        """
        distances = torch.cdist(volumes.flatten(1), self._latents, compute_mode="donot_use_mm_for_euclid_dist")
        owner = torch.arange(len(self._latents)) % self._num_cases
        per_case = torch.full((len(volumes), self._num_cases), torch.inf)
        per_case = per_case.scatter_reduce(1, owner.expand(len(volumes), -1), distances, "amin")
        if but is not None:
            per_case[torch.arange(len(volumes)), but] = torch.inf
        nearest, second = per_case.topk(2, largest=False).values.unbind(1)
        return nearest / second.clamp(min=1e-12)
