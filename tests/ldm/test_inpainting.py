"""Masked sampling, and denoisers that are told the latents which stay."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from phantom_fixtures import SHORT

from nnunet_sbldm.data.splits import fold_cases
from nnunet_sbldm.editing.choices import EditChoice
from nnunet_sbldm.editing.edit import edit
from nnunet_sbldm.editing.hosts import HostTransform
from nnunet_sbldm.editing.planner import EditPlanner
from nnunet_sbldm.generator.checkpoint import load_generator
from nnunet_sbldm.generator.requests import Request
from nnunet_sbldm.ldm.config import EDIT_SAMPLER, DiffusionConfig, SamplerConfig
from nnunet_sbldm.ldm.diffusion import initial_noise
from nnunet_sbldm.ldm.inpainting import Known, inpaint, random_regions
from nnunet_sbldm.training import train as training
from nnunet_sbldm.training.train import train_generator


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
    out = inpaint(nonsense, config, sampler, Known(clean, free), torch.zeros(2, 3), [1, 2])
    known = (free == 0).expand_as(clean)
    torch.testing.assert_close(out[known], clean[known], rtol=0, atol=0)
    assert not torch.allclose(out[~known], clean[~known])
    correlation = np.corrcoef(seen[-1][: len(clean)][known], clean[known])[0, 1]
    assert correlation > 0.8  # almost clean just before the last step, although the model talks nonsense


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_a_denoiser_is_told_the_known_latents_exactly_if_it_has_learnt_it(guidance):
    clean, free = initial_noise([7, 8], (2, 4, 5, 5)), box((2, 4, 5, 5))
    told = []

    def denoise(z, t, c, **more):
        told.append(more)
        return torch.zeros_like(z)

    sampler = SamplerConfig("ddim", num_steps=2, guidance_scale=guidance)
    for share in (0.0, 0.5):
        inpaint(denoise, DiffusionConfig(masked_share=share), sampler, Known(clean, free), torch.zeros(2, 3), [1, 2])
    assert told[:2] == [{}, {}]
    for more in told[2:]:
        batch = more["known"][:2], more["known"][-2:]  # conditional and null
        for known in batch:
            torch.testing.assert_close(known[:, :2], torch.where(free > 0, 0, clean), rtol=0, atol=0)
            torch.testing.assert_close(known[:, 2:], 1 - free, rtol=0, atol=0)


def test_random_regions_leave_ellipsoids_to_be_made_half_of_them_around_foreground():
    foreground = torch.zeros(400, 1, 12, 20, 20, dtype=torch.bool)
    foreground[:, :, 6, 3, 16] = True
    regions = random_regions(foreground, 0.5, np.random.default_rng(0))
    sizes = regions.flatten(1).mean(dim=1)
    assert (sizes == 1).float().mean() == pytest.approx(0.5, abs=0.1)
    masked = regions[sizes < 1]
    assert masked.flatten(1).amax(dim=1).min() == 1  # none is empty
    assert masked.mean() < 0.3
    at_foreground = masked[:, 0, 6, 3, 16].mean()
    elsewhere = masked[:, 0, 6, 16, 3].mean()
    assert at_foreground > 0.4
    assert elsewhere < 0.2
    nothing = random_regions(torch.zeros_like(foreground[:20]), 1.0, np.random.default_rng(0))
    assert 0 < nothing.flatten(1).mean(dim=1).min() <= nothing.flatten(1).mean(dim=1).max() < 1
    assert random_regions(foreground[:20], 0.0, np.random.default_rng(0)).min() == 1


def test_a_generator_can_be_trained_to_be_told_and_edits_then_depend_on_it(phantom_dataset, monkeypatch):
    preset = replace(SHORT, name="told", diffusion=replace(SHORT.diffusion, masked_share=0.5))
    drawn = []
    monkeypatch.setattr(training, "random_regions", lambda *a: drawn.append(random_regions(*a)) or drawn[-1])
    folder = train_generator(phantom_dataset, 0, preset, fold_cases(phantom_dataset, 0)[0], "cpu")
    assert len(drawn) == preset.denoiser_stage.num_steps
    generator = load_generator(folder)
    assert generator.plan.preset.diffusion.masked_share == 0.5
    network, width = generator.denoiser, generator.denoiser.num_known * int(np.prod(generator.denoiser.patch))
    assert network.conv_in.within.weight[:, -width:].abs().sum() > 0
    task = EditPlanner(generator, phantom_dataset).first_fitting(
        Request("e0", 0, {}), [EditChoice("replace", "phantom_001", HostTransform())])
    sampler = replace(EDIT_SAMPLER, num_steps=2, max_corrections=0)
    (told,) = edit(generator, [task], sampler)
    network.conv_in.within.weight[:, -width:] = 0
    (untold,) = edit(generator, [task], sampler)
    assert not np.array_equal(told.image, untold.image)
    np.testing.assert_array_equal(told.image[:, told.task.region.weight == 0], untold.image[:, told.task.region.weight == 0])
