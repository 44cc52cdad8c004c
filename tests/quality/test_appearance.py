"""Features of images at their masks: closed forms, and that what does not fit is noticed."""

import numpy as np
import pytest
from random_images import smooth_volume
from scipy import ndimage

from nnunet_sbldm.data.conditions import Target
from nnunet_sbldm.quality.appearance import case_features, halo, lagged_correlation, mask_intensities, standardised

TUMOUR = Target("tumour", (1,))


@pytest.fixture
def rng():
    return np.random.default_rng(0)


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
    assert lagged_correlation(noise, inside, 0, 1) == pytest.approx(0, abs=0.02)
    stripes = np.tile(np.array([1, 1, -1, -1], np.float32), 10)[None, None] * np.ones(inside.shape, np.float32)
    assert lagged_correlation(stripes, inside, 2, 2) == pytest.approx(-1)
    assert lagged_correlation(stripes, inside, 0, 1) == pytest.approx(1)


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
