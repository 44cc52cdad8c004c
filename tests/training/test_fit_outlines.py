"""Smoothing and noise of outlines: as much as samples need to be as rough as real masks."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from nnunet_sbldm.data.conditions import fine_roughness, sphericity
from nnunet_sbldm.data.slices import TrainingArrays
from nnunet_sbldm.generator.outlines import MOST_PROBABLE, Outlines
from nnunet_sbldm.quality.random_fields import MAX_LAG, SIZE
from nnunet_sbldm.training import fit_outlines as outline_fitting
from nnunet_sbldm.training.fit_outlines import LEVELS, as_rough_as_real, at_level, balanced_level

WHITE = np.zeros((SIZE,) * 3)
WHITE[MAX_LAG, MAX_LAG, MAX_LAG] = 1
SPACING = (1.0, 1.0, 1.0)
SHAPE = (24, 28, 26)
RADIUS = 0.35


def ball(shape, softness=1.0):
    """Logits [3, D, H, W] of outside, background and an ellipsoid; the outline gets less sure with ``softness``."""
    place = np.moveaxis(np.indices(shape), 0, -1) - (np.array(shape) - 1) / 2
    away = (np.linalg.norm(place / (RADIUS * np.array(shape)), axis=-1) - 1) * RADIUS * shape[2]
    return np.stack([np.full(shape, -50.0), away / softness, -away / softness]).astype(np.float32)


def jagged(logits, strength=5.0, seed=0):
    """The logits with noise of a voxel's size in favour of the ball."""
    out = logits.copy()
    out[2] += strength * ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(logits.shape[1:]), 0.7)
    return out


def test_roughness_is_that_of_outlines_and_not_of_shape():
    smooth, rough = ball(SHAPE).argmax(0) == 2, jagged(ball(SHAPE)).argmax(0) == 2
    notched = smooth & ~((np.indices(SHAPE)[1] > 13) & (np.indices(SHAPE)[2] > 12))
    assert sphericity(notched, SPACING) < sphericity(smooth, SPACING) - 0.05
    assert abs(fine_roughness(notched, SPACING) - fine_roughness(smooth, SPACING)) < 0.03
    assert fine_roughness(rough, SPACING) > fine_roughness(smooth, SPACING) + 0.1


def test_masks_too_small_for_it_have_no_roughness():
    tiny = np.zeros(SHAPE, bool)
    tiny[10:13, 10:13, 10:13] = True
    assert np.isnan(fine_roughness(tiny, SPACING))
    line = np.zeros(SHAPE, bool)
    line[:, 10, :4] = True  # vanishes when it is smoothed
    assert np.isnan(fine_roughness(line, SPACING))


def test_the_level_is_where_samples_are_as_rough_as_real_masks():
    roughness = np.interp(LEVELS, [-2, 2.5], [0.1, 0.55])
    samples = np.stack([roughness, roughness + 0.1])[:, :, None]
    real = np.array([[0.3], [0.4], [np.nan]])  # their mean is that of level 0 without the shift of 0.05
    assert balanced_level(samples, real) == pytest.approx(np.interp(0.35, roughness + 0.05, LEVELS))
    absent = np.concatenate([samples, np.full_like(samples, np.nan)])
    assert balanced_level(absent, real) == balanced_level(samples, real)


def test_nothing_known_changes_nothing():
    assert balanced_level(np.full((2, len(LEVELS), 1), np.nan), np.array([[0.1]])) == 0
    assert balanced_level(np.zeros((2, len(LEVELS), 1)), np.array([[np.nan]])) == 0


def test_levels_are_smoothing_below_and_noise_above_zero():
    outlines = Outlines(9.0, (1.0,), 9.0)
    assert at_level(outlines, -0.7) == Outlines(0.0, (1.0,), 0.7)
    assert at_level(outlines, 1.5) == Outlines(1.5, (1.0,), 0.0)


@pytest.fixture
def fitted(generator, monkeypatch):
    """Fits outlines of samples that are decoded to given logits to real masks, class 2 of given class indices."""
    monkeypatch.setattr(outline_fitting, "NUM_SAMPLES", 3)
    plan = replace(generator.plan, outlines=Outlines(0.0, tuple(WHITE.ravel())), min_component_voxels={})

    def fit(logits, real):
        monkeypatch.setattr(outline_fitting, "decoded", lambda *_: (None, logits))
        arrays = TrainingArrays(np.zeros((1, 1, *real.shape)), real[None].astype(np.uint8))
        return as_rough_as_real(plan, arrays, generator.autoencoder, generator.denoiser)

    return fit


def assert_fits(outlines, logits, real, spacing_mm):
    """Most of the difference in roughness to the real mask is gone."""
    before, after = (
        np.mean([fine_roughness(o.draw(logits, np.random.default_rng(s)) == 2, spacing_mm) for s in range(4)])
        for o in (MOST_PROBABLE, outlines)
    )
    wanted = fine_roughness(real == 2, spacing_mm)
    assert abs(before - wanted) > 0.05
    assert abs(after - wanted) < 0.3 * abs(before - wanted)


def test_smooth_samples_are_roughened(fitted, generator):
    grid = generator.plan.grid
    smooth = ball(grid.shape)
    real = jagged(smooth).argmax(0)
    outlines = fitted(smooth, real)
    assert outlines.strength > 0
    assert outlines.smoothing == 0
    assert outlines.correlation == tuple(WHITE.ravel())
    assert_fits(outlines, smooth, real, grid.spacing_mm)


def test_rough_samples_are_smoothed(fitted, generator):
    grid = generator.plan.grid
    rough, real = jagged(ball(grid.shape)), ball(grid.shape).argmax(0)
    outlines = fitted(rough, real)
    assert outlines.smoothing > 0
    assert outlines.strength == 0
    assert_fits(outlines, rough, real, grid.spacing_mm)


def test_a_less_certain_decoder_needs_less_noise(fitted, generator):
    shape = generator.plan.grid.shape
    real = jagged(ball(shape)).argmax(0)
    sure, unsure = (fitted(ball(shape, softness), real).strength for softness in (0.7, 1.4))
    assert 0 < unsure < sure
