"""Structural similarity and coherence: formulas, extremes, and that flicker is noticed."""

import numpy as np
import pytest
import torch
from random_images import smooth_volume
from scipy import ndimage
from skimage.metrics import structural_similarity

from nnunet_sbldm.quality import similarity
from nnunet_sbldm.quality.similarity import COHERENCE, coherence, ms_ssim, num_scales, ssim, ssim_maps


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_ms_ssim_of_equal_volumes_is_one_and_falls_with_noise(rng):
    volume = smooth_volume(rng, (8, 48, 64))[None]
    inside = np.ones((8, 48, 64), bool)
    noise = rng.normal(size=volume.shape).astype(np.float32)
    values = [ms_ssim(volume, volume + s * noise, inside) for s in (0, 0.05, 0.2, 0.8)]
    assert values[0] == pytest.approx(1)
    assert (np.diff(values) < 0).all()
    other = smooth_volume(rng, (8, 48, 64))[None]
    assert ms_ssim(volume, other, inside) == pytest.approx(ms_ssim(other, volume, inside))


def test_ms_ssim_of_constant_volumes_is_the_luminance_term_of_the_last_scale():
    a, b, c1 = 0.2, 0.8, (0.01 * 2) ** 2
    x, y = np.full((1, 4, 56, 56), a, np.float32), np.full((1, 4, 56, 56), b, np.float32)
    weights = (0.0448, 0.2856, 0.3001, 0.2363)  # 56 pixels leave four scales
    assert num_scales((56, 56)) == 4
    expected = ((2 * a * b + c1) / (a**2 + b**2 + c1)) ** (weights[-1] / sum(weights))
    assert ms_ssim(x, y, np.ones((4, 56, 56), bool)) == pytest.approx(expected, rel=1e-6)


def test_ssim_agrees_with_its_formula_for_a_known_window():
    """At the centre of a 7 x 7 image the window sees every pixel once."""
    rng = np.random.default_rng(1)
    x, y = rng.uniform(size=(2, 7, 7))
    taps = np.exp(-0.5 * ((np.arange(7) - 3) / 1.5) ** 2)
    w = np.outer(taps, taps) / taps.sum() ** 2
    mean_x, mean_y = (w * x).sum(), (w * y).sum()
    var_x, var_y, cov = (w * (x - mean_x) ** 2).sum(), (w * (y - mean_y) ** 2).sum(), (w * (x - mean_x) * (y - mean_y)).sum()
    expected = (2 * mean_x * mean_y + 1e-4) / (mean_x**2 + mean_y**2 + 1e-4) * (2 * cov + 9e-4) / (var_x + var_y + 9e-4)
    luminance, structure = ssim_maps(torch.from_numpy(x)[None], torch.from_numpy(y)[None], data_range=1.0)
    assert float((luminance * structure)[0, 3, 3]) == pytest.approx(expected)


def test_ssim_agrees_with_scikit_image_where_both_have_its_window(rng, monkeypatch):
    monkeypatch.setattr(similarity, "WINDOW", 11)
    x = smooth_volume(rng, (64, 64)).astype(np.float64)
    y = x + 0.2 * rng.normal(size=x.shape)
    luminance, structure = ssim_maps(torch.from_numpy(x)[None], torch.from_numpy(y)[None])
    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    _, expected = structural_similarity(x, y, data_range=2.0, full=True, **settings)
    np.testing.assert_allclose((luminance * structure)[0].numpy()[5:-5, 5:-5], expected[5:-5, 5:-5], atol=1e-12)


@pytest.mark.filterwarnings("ignore")
def test_ms_ssim_agrees_with_monai_but_for_borders(rng):
    """MONAI leaves out the three outermost pixels of every scale, which are few of 256."""
    metrics = pytest.importorskip("monai.metrics")
    x = smooth_volume(rng, (1, 256, 256), 3.0)[None].clip(-1, 1)
    y = (x + 0.2 * rng.normal(size=x.shape)).astype(np.float32).clip(-1, 1)
    metric = metrics.MultiScaleSSIMMetric(spatial_dims=2, data_range=2.0, kernel_size=7, kernel_sigma=1.5)
    expected = float(metric(*(torch.from_numpy(v).double() for v in (x, y))))
    assert expected < 0.95
    assert ms_ssim(x, y, np.ones((1, 256, 256), bool)) == pytest.approx(expected, abs=2e-3)


def test_voxels_outside_do_not_count(rng):
    first, second = smooth_volume(rng), smooth_volume(rng)
    inside = np.zeros(first.shape, bool)
    inside[4:12, 8:24, 8:24] = True
    touched = ndimage.binary_dilation(inside, np.ones((1, 7, 7), bool))
    assert ssim(first, np.where(touched, first, second), inside) == pytest.approx(1)


def test_shuffled_and_flickering_slices_are_less_coherent(rng):
    volume = smooth_volume(rng)[None]
    label = np.zeros(volume.shape[1:], np.int16)
    label[4:12, 8:20, 8:20] = 1
    inside = np.ones(label.shape, bool)
    order = rng.permutation(len(label))
    flicker = volume + 0.3 * rng.normal(size=(1, len(label), 1, 1)).astype(np.float32)
    real, shuffled, flickering = (
        dict(zip(COHERENCE, coherence(v, m, inside), strict=True))
        for v, m in ((volume, label, ), (volume[:, order], label[order]), (flicker, label))
    )
    assert shuffled["neighbour_ssim"] < 0.7 * real["neighbour_ssim"]
    assert shuffled["neighbour_mask_dice"] < real["neighbour_mask_dice"]
    for worse in (shuffled, flickering):
        assert worse["gradient_ratio"] > 1.5 * real["gradient_ratio"]
    assert flickering["banding"] > 5 * real["banding"]


def test_gradient_ratio_of_an_isotropic_image_is_one_and_of_a_stack_of_one_slice_zero(rng):
    noise = rng.normal(size=(1, 24, 32, 32)).astype(np.float32)
    inside, nothing = np.ones(noise.shape[1:], bool), np.zeros(noise.shape[1:], np.int16)
    assert coherence(noise, nothing, inside)[1] == pytest.approx(1, rel=0.05)
    stack = coherence(np.repeat(noise[:, :1], 24, axis=1), nothing, inside)
    np.testing.assert_allclose(stack[:3], [1, 0, 0], atol=1e-6)
    assert np.isnan(stack[3])
