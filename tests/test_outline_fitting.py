"""How strong the noise on outlines is: as strong as samples need."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage

from nnunet_sbldm import outline_fitting
from nnunet_sbldm.conditions import sphericity
from nnunet_sbldm.label_maps import Outlines
from nnunet_sbldm.outline_fitting import STRENGTHS, as_rough_as_asked, balanced_strength
from nnunet_sbldm.random_fields import MAX_LAG, SIZE

WHITE = np.zeros((SIZE,) * 3)
WHITE[MAX_LAG, MAX_LAG, MAX_LAG] = 1


def ball(shape, softness):
    """Logits [3, D, H, W] of outside, background and a ball; the outline gets less sure with ``softness``."""
    away = np.linalg.norm(np.moveaxis(np.indices(shape), 0, -1) - (np.array(shape) - 1) / 2, axis=-1) - min(shape) / 3
    return np.stack([np.full(shape, -50.0), away / softness, -away / softness]).astype(np.float32)


def test_strength_is_where_the_excess_passes_0():
    excess = np.linspace(-0.2, 0.3, len(STRENGTHS))[:, None] + np.array([0.1, -0.1])
    assert balanced_strength(excess) == pytest.approx(1.0)
    assert balanced_strength(np.hstack([excess, np.full_like(excess, np.nan)])) == pytest.approx(1.0)


def test_masks_that_are_rough_already_stay_as_they_are():
    assert balanced_strength(np.linspace(0.1, 0.4, len(STRENGTHS))[:, None]) == 0


def test_nothing_known_is_nothing_added():
    assert balanced_strength(np.full((len(STRENGTHS), 3), np.nan)) == 0
    assert balanced_strength(np.zeros((len(STRENGTHS), 0))) == 0


@pytest.fixture
def fitted(generator, monkeypatch):
    """Fits outlines of samples that are decoded to given logits, where a sphericity is asked of all targets."""
    monkeypatch.setattr(outline_fitting, "NUM_SAMPLES", 3)
    plan = replace(generator.plan, outlines=Outlines(0.0, tuple(WHITE.ravel())), min_component_voxels={})
    columns = [n.endswith("/sphericity") for n in plan.condition_scaling.names]

    def fit(logits, asked):
        monkeypatch.setattr(outline_fitting, "decode_volume", lambda *_: (None, torch.from_numpy(logits)))
        real_sample = type(plan.condition_model).sample
        monkeypatch.setattr(
            type(plan.condition_model), "sample", lambda self, rng: np.where(columns, asked, real_sample(self, rng))
        )
        return as_rough_as_asked(plan, generator.autoencoder, generator.denoiser)

    return fit


def test_samples_become_as_rough_as_asked(fitted, generator):
    logits = ball(generator.plan.grid.shape, 1.0)
    spacing, value = generator.plan.grid.spacing_mm, 2
    smooth = sphericity(logits.argmax(0) == value, spacing)
    outlines = fitted(logits, 0.85 * smooth)
    assert outlines.correlation == tuple(WHITE.ravel())
    drawn = np.mean([sphericity(outlines.draw(logits, np.random.default_rng(s)) == value, spacing) for s in range(3)])
    assert drawn == pytest.approx(0.85 * smooth, rel=0.05)


def test_a_less_certain_decoder_needs_less_noise(fitted, generator):
    shape = generator.plan.grid.shape
    asked = 0.85 * sphericity(ball(shape, 1.0).argmax(0) == 2, generator.plan.grid.spacing_mm)
    sure, unsure = (fitted(ball(shape, softness), asked).strength for softness in (0.7, 1.4))
    assert 0 < unsure < sure


def test_samples_that_are_too_rough_get_no_noise(fitted, generator):
    logits = ball(generator.plan.grid.shape, 1.0)
    logits[2] += 4 * ndimage.gaussian_filter(np.random.default_rng(0).standard_normal(logits.shape[1:]), 0.7)
    rough = sphericity(logits.argmax(0) == 2, generator.plan.grid.spacing_mm)
    assert fitted(logits, 1.2 * rough).strength == 0
