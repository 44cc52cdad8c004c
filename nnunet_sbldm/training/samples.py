"""What a denoiser makes in training, and right after it for what is fitted to its samples: random conditions, few steps."""

from __future__ import annotations

import numpy as np
from torch import Tensor, nn

from nnunet_sbldm.common.devices import best_precision
from nnunet_sbldm.generator.plan import GeneratorPlan
from nnunet_sbldm.ldm.config import SamplerConfig
from nnunet_sbldm.ldm.diffusion import sample

NUM_STEPS = 10


def sampled_latent(plan: GeneratorPlan, denoiser: nn.Module, seed: int) -> Tensor:
    """A standardised latent volume [Z, D, h, w] for a condition from the condition model; all of it from ``seed``."""
    device = next(denoiser.parameters()).device
    sampler = SamplerConfig(num_steps=NUM_STEPS, precision=best_precision(device.type))
    asked = plan.condition_model.sample(np.random.default_rng(seed))
    condition = plan.network_conditions([asked], device)
    return sample(denoiser, plan.preset.diffusion, sampler, plan.noise([seed]), condition)[0]
