"""The mathematics of the evaluation: closed forms, extremes, and that copies and flicker are noticed."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage
from scipy.linalg import sqrtm

from nnunet_sbldm.data.conditions import FEATURES, Target
from nnunet_sbldm.evaluation.goals import DEFAULT_TARGETS
from nnunet_sbldm.evaluation.measures import contacts, count_specks
from nnunet_sbldm.evaluation.reconstruction import dice_per_class, image_fidelity
from nnunet_sbldm.evaluation.results import _wasserstein_result, distribution_results, random_pairs
from nnunet_sbldm.quality.adherence import condition_errors
from nnunet_sbldm.quality.appearance import autocorrelation, case_features, halo, mask_intensities, standardised
from nnunet_sbldm.quality.distances import equal_parts, frechet_distance, kernel_distance, support
from nnunet_sbldm.quality.memorisation import memorisation, nearest_training_cases, overlap_distances, rms_distances
from nnunet_sbldm.quality.similarity import COHERENCE, coherence, ms_ssim, num_scales, ssim, ssim_maps
from nnunet_sbldm.types import OUTSIDE

TUMOUR = Target("tumour", (1,))


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def smooth_volume(rng, shape=(16, 32, 32), sigma=2.0):
    """A smooth random image of unit variance."""
    volume = ndimage.gaussian_filter(rng.normal(size=shape), sigma)
    return (0.3 * volume / volume.std()).astype(np.float32)


# --- distances -----------------------------------------------------------------------------------------------------


def test_frechet_distance_of_equal_sets_is_zero_and_of_shifted_ones_the_squared_shift(rng):
    x = rng.normal(size=(12, 30))  # fewer cases than features
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(x, x + np.full(30, 0.5)) == pytest.approx(30 * 0.25)


@given(seed=st.integers(0, 1000), num_features=st.integers(1, 6))
def test_frechet_distance_agrees_with_the_matrix_root(seed, num_features):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(20, num_features)), rng.normal(1, 2, size=(25, num_features))
    sx, sy = (np.atleast_2d(np.cov(v.T)) for v in (x, y))
    expected = np.square(x.mean(0) - y.mean(0)).sum() + np.trace(sx + sy - 2 * np.real(sqrtm(sx @ sy)))
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-6)


def test_frechet_distance_of_large_gaussian_samples_reaches_its_closed_form(rng):
    x, y = rng.normal(0, 1, size=(40000, 2)), rng.normal(1, 3, size=(40000, 2))
    assert frechet_distance(x, y) == pytest.approx(2 * (1 + (3 - 1) ** 2), rel=0.03)


def test_kernel_distance_is_unbiased_and_its_p_is_uniform_for_one_distribution(rng):
    found = np.array([kernel_distance(rng.normal(size=(8, 3)), rng.normal(size=(12, 3)), rng) for _ in range(120)])
    standard_error = found[:, 0].std() / np.sqrt(len(found))
    assert abs(found[:, 0].mean()) < 3 * standard_error
    assert (found[:, 0] < 0).any()
    assert 0.38 < found[:, 1].mean() < 0.62


def test_kernel_distance_of_two_distributions_is_positive_and_significant(rng):
    distance, p = kernel_distance(rng.normal(size=(15, 3)), rng.normal(1.5, 1, size=(15, 3)), rng)
    assert distance > 1
    assert p < 0.01


def test_support_of_equal_of_far_and_of_collapsed_sets(rng):
    x = rng.normal(size=(30, 4))
    assert support(x, x) == pytest.approx({"precision": 1, "recall": 1, "density": 1.2, "coverage": 1}, abs=0.01)  # (k + 1) / k
    assert set(support(x, x + 100).values()) == {0}
    collapsed = support(x, np.tile(x[:1], (30, 1)) + 1e-6 * rng.normal(size=(30, 4)))
    assert collapsed["precision"] == 1
    assert collapsed["recall"] < 0.1
    assert collapsed["coverage"] < 0.5


def test_parts_have_one_size_and_no_case_twice(rng):
    x, y = np.arange(7)[:, None], np.arange(100, 130)[:, None]
    parts = list(equal_parts(x, y, 5, rng))
    assert all(len(np.unique(a)) == len(np.unique(b)) == 5 and a.max() < 7 and b.min() >= 100 for a, b in parts)
    assert len(list(equal_parts(x, x, 7, rng))) == 1


def test_training_cases_as_synthetic_ones_give_the_floor_and_a_shifted_set_gives_more(rng):
    held_out, training = rng.normal(size=(20, 6)), rng.normal(size=(20, 6))
    for r in distribution_results(training, held_out, training, rng):
        assert r.value == pytest.approx(r.floor)
    shifted = {r.name: r for r in distribution_results(training + 3, held_out, training, rng)}
    assert shifted["Frechet distance"].value > 5 * shifted["Frechet distance"].floor
    assert shifted["coverage"].value < shifted["coverage"].floor
    assert shifted["kernel distance (KID)"].details["p"] < 0.01 < shifted["kernel distance (KID)"].details["floor_p"]


def test_wasserstein_distance_of_a_shift_is_the_shift_in_its_unit(rng):
    x = rng.normal(30, 5, 25)
    result = _wasserstein_result("tumour/volume_ml", x + 7, x, np.append(x, np.nan)[1:], rng, DEFAULT_TARGETS)
    assert result.value == pytest.approx(7, rel=0.1)
    assert result.reached is False
    assert result.num_cases == 24


# --- similarity and coherence --------------------------------------------------------------------------------------


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


# --- reconstruction ------------------------------------------------------------------------------------------------


def test_dice_and_psnr_have_their_textbook_values(rng):
    wanted = np.array([[[1, 2, 2, 2, 3]]], np.uint8)
    found = np.array([[[1, 1, 2, 2, 2]]], np.uint8)
    np.testing.assert_allclose(dice_per_class(found, wanted, range(2, 5)), [2 * 2 / 6, 0, np.nan])
    target = rng.uniform(size=(1, 8, 16, 16)).astype(np.float32)
    inside = np.ones(target.shape[1:], bool)
    span = np.ptp(np.percentile(target, (0.5, 99.5)))
    psnr_db, _ = image_fidelity(target + 0.1, target, inside)
    assert psnr_db == pytest.approx(20 * np.log10(span / 0.1), rel=1e-3)
    assert image_fidelity(target, target, inside)[1] == pytest.approx(1)


# --- features ------------------------------------------------------------------------------------------------------


def test_there_are_about_forty_features_for_one_label_and_one_channel(rng):
    label = np.zeros((16, 32, 32), np.int16)
    label[5:9, 10:16, 10:16] = 1
    features = case_features(smooth_volume(rng)[None], label, [TUMOUR], (2.0, 1.0, 1.0), ["T1"])
    assert 38 <= len(features) <= 48
    assert np.isfinite(list(features.values())).all()
    absent = case_features(smooth_volume(rng)[None], np.zeros_like(label), [TUMOUR], (2.0, 1.0, 1.0), ["T1"])
    assert list(absent) == list(features)
    assert {k.split("/")[0] for k, v in absent.items() if np.isnan(v)} == {"tumour"}


def test_channels_of_one_name_have_features_of_their_own(rng):
    label = np.zeros((16, 32, 32), np.int16)
    label[5:9, 10:16, 10:16] = 1
    first, second = smooth_volume(rng), smooth_volume(rng)

    def features(image, names):
        return case_features(image, label, [TUMOUR], (2.0, 1.0, 1.0), names)

    same = features(np.stack([first, second]), ["CT", "CT"])
    assert list(same.values()) == list(features(np.stack([first, second]), ["one", "other"]).values())
    assert same["anatomy/CT/std"] == pytest.approx(first.std())
    assert same["anatomy/CT (2)/std"] == pytest.approx(second.std())


def test_autocorrelation_of_noise_is_zero_and_of_a_stripe_of_two_voxels_is_known(rng):
    inside = np.ones((20, 40, 40), bool)
    noise = rng.normal(size=inside.shape).astype(np.float32)
    assert autocorrelation(noise, inside, 0, 1) == pytest.approx(0, abs=0.02)
    stripes = np.tile(np.array([1, 1, -1, -1], np.float32), 10)[None, None] * np.ones(inside.shape, np.float32)
    assert autocorrelation(stripes, inside, 2, 2) == pytest.approx(-1)
    assert autocorrelation(stripes, inside, 0, 1) == pytest.approx(1)


def test_contrast_and_edge_are_those_of_the_image_at_its_own_mask(rng):
    mask = np.zeros((16, 32, 32), bool)
    mask[5:10, 10:18, 10:18] = True
    inside = np.ones_like(mask)
    image = (2.0 * mask + 0.1 * rng.normal(size=mask.shape)).astype(np.float32)
    fitting = mask_intensities(image, mask, inside, (1, 1, 1))
    elsewhere = mask_intensities(image, np.roll(mask, 14, axis=2), inside, (1, 1, 1))
    assert fitting[4] == pytest.approx(2 / image.std(), rel=0.05)
    assert abs(elsewhere[4]) < 0.1 * fitting[4]
    assert fitting[5] > 3 * elsewhere[5]


def test_a_halo_is_what_the_image_shows_beyond_the_mask():
    mask = np.zeros((9, 40, 40), bool)
    mask[3:6, 15:25, 15:25] = True
    inside = np.ones_like(mask)
    inside[:, :8] = False
    around = ndimage.binary_dilation(mask, np.ones((1, 3, 3)), 3) & ~mask
    sharp, faint = np.where(mask, 5.0, 1.0).astype(np.float32), np.where(mask, 1.1, 1.0).astype(np.float32)
    glowing, dark = np.where(around, 2.0, sharp), np.where(around, 0.0, sharp)
    hardly_seen = np.where(np.indices(mask.shape)[1] > 35, 9, faint)
    found = halo(np.stack([sharp, glowing, dark, -glowing, hardly_seen]), mask, inside, (6, 1, 1))
    np.testing.assert_allclose(found, [0, 0.25, -0.25, 0.25, np.nan], atol=1e-6)
    assert np.isnan(halo(sharp[None], np.zeros_like(mask), inside, (6, 1, 1))).all()
    assert np.isnan(halo(sharp[None], mask, mask, (6, 1, 1))).all()


def test_missing_values_take_the_real_mean_and_constant_features_are_dropped():
    real = np.array([[1.0, 5, np.nan], [3.0, 5, 2], [5.0, 5, 4]])
    (scored,), other = standardised([real], np.array([[3.0, 9, np.nan]]))
    assert scored.shape[1] == 2
    np.testing.assert_allclose(scored.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(other, 0)


# --- masks and conditions ------------------------------------------------------------------------------------------


def test_contact_tells_nested_from_apart_and_specks_are_counted():
    label = np.zeros((8, 16, 16), np.int16)
    label[2:6, 2:8, 2:8] = 2
    label[3:5, 4:6, 4:6] = 1
    first, second = Target("core", (1,)), Target("edema", (2,))
    nested = contacts(label, (first, second))
    assert nested[0] == 1
    assert nested[1] == pytest.approx(8 / (8 + 2 * 36 + 4 * 24))  # all of the core, and the shell
    assert contacts(np.where(label == 2, 0, label), (first, second))[0] == 0
    label[7, 15, 15] = 1
    assert count_specks(label, {"1": 8, "2": 4}) == 1


def test_condition_errors_of_known_deviations():
    asked = np.full((4, len(FEATURES)), np.nan)
    asked[:, 0], asked[:, 1], asked[:, 2:5] = [1, 1, 1, 0], [10, 20, 40, np.nan], 0.5
    obtained = asked.copy()
    obtained[:, 1] *= 1.5
    obtained[:, 2] += 0.03
    obtained[:, 3] += 0.04
    obtained[3, 0] = 1
    errors = condition_errors(asked, obtained, np.full((4, 3), 100.0))
    assert errors["presence as asked"] == 0.75
    assert errors["r of log volume"] == pytest.approx(1)
    assert errors["median volume error (ml)"] == pytest.approx(10)
    assert errors["median volume error (share)"] == pytest.approx(0.5)
    assert errors["median centroid error (share of field of view)"] == pytest.approx(0.05)
    assert errors["median centroid error (mm)"] == pytest.approx(5)


def test_pairs_are_different_and_bounded(rng):
    assert sorted(random_pairs(3, rng)) == [(0, 1), (0, 2), (1, 2)]
    many = list(random_pairs(50, rng))
    assert len(set(many)) == 100
    assert all(i < j for i, j in many)


# --- memorisation --------------------------------------------------------------------------------------------------


def test_distances_are_those_of_their_definition(rng):
    a, b = rng.normal(size=(3, 40)), rng.normal(size=(5, 40))
    np.testing.assert_allclose(rms_distances(a, b)[1, 4], np.sqrt(np.mean((a[1] - b[4]) ** 2)))
    masks = (rng.uniform(size=(4, 40)) > 0.5).astype(float)
    dice = 2 * (masks[0] * masks[1]).sum() / (masks[0].sum() + masks[1].sum())
    assert overlap_distances(masks[:1], masks[1:2])[0, 0] == pytest.approx(1 - dice)
    assert overlap_distances(masks, masks).diagonal() == pytest.approx(0)
    assert overlap_distances(np.zeros((1, 5)), np.zeros((1, 5)))[0, 0] == 1


def test_copies_are_flagged_with_the_case_they_copy_also_mirrored(rng):
    def sets(rows):
        return dict.fromkeys(("image", "mask", "pair"), rows)

    training, held_out, unrelated = (np.abs(rng.normal(size=(n, 60))) for n in (12, 6, 4))
    mirror = slice(None, None, -1)
    copies = np.stack([training[5] + 0.01 * rng.normal(size=60), training[7][mirror]])
    cases = np.concatenate([copies, unrelated])
    found = nearest_training_cases(sets(cases), sets(cases[:, mirror]), sets(training))
    real = nearest_training_cases(sets(held_out), sets(held_out[:, mirror]), sets(training))
    for kind in ("image", "mask", "pair"):
        assert found[kind].index[:2].tolist() == [5, 7]
        assert found[kind].mirrored[:2].tolist() == [False, True]
        flagged = memorisation(found[kind].distance, real[kind].distance, rng).flagged
        assert flagged[:2].all()


def test_memorisation_of_real_cases_is_one_and_of_copies_far_below(rng):
    held_out = rng.normal(10, 1, 200)
    fine = memorisation(rng.normal(10, 1, 200), held_out, rng)
    assert fine.ratio == pytest.approx(1, abs=0.05)
    assert fine.ratio_range[0] < 1 < fine.ratio_range[1]
    assert fine.half_range[0] < 1 < fine.half_range[1]
    assert fine.expected_flagged == pytest.approx(200 / 201)
    copying = memorisation(rng.normal(2, 0.1, 50), held_out, rng)
    assert copying.ratio < 0.25
    assert copying.flagged.all()


def test_outside_is_no_foreground():
    label = np.full((4, 6, 6), OUTSIDE, np.int16)
    label[1:3, 1:5, 1:5] = 0
    assert np.isnan(contacts(label, (TUMOUR, Target("other", (2,))))).all()
    assert count_specks(label, {"1": 3}) == 0
