"""Does the denoiser copy? A measure that needs no held-out case, for use during training.

A copy lies much nearer to one training case than to any other; a new case is about as far from its nearest as from its
second nearest. So the ratio of the two distances is compared with that of the real training cases among themselves
(after Yoon et al. 2023). Unlike the nearest distance alone, it is not fooled by samples that are merely smooth.
"""

from __future__ import annotations

import torch
from torch import Tensor

MIN_CASES = 4


def novelty_of(samples: Tensor, latents: Tensor, num_cases: int) -> float:
    """Median ratio of nearest to second nearest distance of samples, over that of real cases among themselves.

    Args:
        samples: [M, ...] standardised latent volumes.
        latents: [R, ...] of the training rows; row i is case ``i % num_cases`` or an augmented copy of it.
        num_cases: real cases, at least ``MIN_CASES``.

    Returns:
        About 1 where samples are as new as another real case would be, near 0 where they are copies.
    """
    owner = torch.arange(len(latents)) % num_cases
    real = [_ratio(latents[i], latents[owner != i], owner[owner != i]) for i in range(num_cases)]
    made = [_ratio(sample, latents, owner) for sample in samples]
    return float(torch.tensor(made).median() / torch.tensor(real).median())


def _ratio(volume: Tensor, latents: Tensor, owner: Tensor) -> float:
    """Distance to the nearest case over that to the second nearest; a case is as near as its nearest copy."""
    distances = (latents - volume).flatten(1).square().mean(dim=1).sqrt()
    per_case = torch.full((int(owner.max()) + 1,), torch.inf).scatter_reduce(0, owner, distances, "amin")
    nearest, second = per_case.topk(2, largest=False).values
    return float(nearest / second.clamp(min=1e-12))
