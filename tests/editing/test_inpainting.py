"""Masked sampling: latents that are known keep their own path."""

import numpy as np
import pytest
import torch

from nnunet_sbldm.editing.inpainting import Known, inpaint
from nnunet_sbldm.ldm.config import DiffusionConfig, SamplerConfig
from nnunet_sbldm.ldm.diffusion import SeededNoise, initial_noise


def box(shape):
    free = torch.zeros(shape[0], 1, *shape[1:])
    free[:, :, 1:3, 2:4] = 1
    return free


@pytest.mark.parametrize("prediction", ["v_prediction", "sample", "epsilon"])
@pytest.mark.parametrize("sampler", [SamplerConfig("ddim", num_steps=5), SamplerConfig("ddim", num_steps=5, eta=1.0),
                                     SamplerConfig("dpmsolver++", num_steps=5, guidance_scale=3.0),
                                     SamplerConfig("sde-dpmsolver++", num_steps=5)])
def test_known_latents_follow_their_own_path_to_their_clean_value(sampler, prediction):
    clean, free = initial_noise([7, 8], (2, 4, 5, 5)), box((2, 4, 5, 5))
    seen = []

    def nonsense(z, t, c, *_):
        seen.append(z)
        return torch.ones_like(z) * c.nan_to_num().sum()

    config = DiffusionConfig(prediction_type=prediction)
    noise = SeededNoise([1, 2], clean.shape[1:])
    out = inpaint(nonsense, config, sampler, Known(clean, free), noise, torch.zeros(2, 3))
    known = (free == 0).expand_as(clean)
    torch.testing.assert_close(out[known], clean[known], rtol=0, atol=0)
    assert not torch.allclose(out[~known], clean[~known])
    correlation = np.corrcoef(seen[-1][: len(clean)][known], clean[known])[0, 1]
    assert correlation > 0.8  # almost clean just before the last step, although the model talks nonsense
