"""Augmented copies: anatomy stays on the grid, labels follow the image, mirroring only where it looks like a case."""

from dataclasses import replace

import numpy as np
import pytest

from nnunet_sbldm.data.grid import Grid, left_right_axis
from nnunet_sbldm.data.intensities import FILL
from nnunet_sbldm.generator.presets import AugmentationConfig
from nnunet_sbldm.training.augmentation import Augmenter, may_be_mirrored, num_copies, warp_classes, warp_image
from nnunet_sbldm.types import Geometry

SHAPE = (12, 32, 28)
HEAD = Grid(SHAPE, (4.0, 2.0, 2.0), (0, 1, 2), outside_is_box=False)
CROP = Grid(SHAPE, (2.0, 2.0, 2.0), (0, 1, 2), outside_is_box=True)
NO_CHANGE = AugmentationConfig(max_rotation_deg=0, max_scaling=0, max_gain=0, max_gamma=0)


def ellipsoid(centre, radii):
    axes = np.ogrid[tuple(slice(0, n) for n in SHAPE)]
    return sum(((a - c) / r) ** 2 for a, c, r in zip(axes, centre, radii, strict=True)) <= 1


def head(tumour_at=(6, 12, 8)):
    """A head with a bright tumour: image [1, D, H, W] and classes."""
    classes = ellipsoid((5.5, 15.5, 13.5), (5, 13, 11)).astype(np.uint8)
    classes[ellipsoid(tumour_at, (2.5, 4, 4))] = 2
    return np.select([classes == 2, classes == 1], [0.8, -0.1], FILL)[None].astype(np.float32), classes


@pytest.mark.parametrize(("num_cases", "expected"), [(1, 7), (16, 7), (40, 3), (100, 1), (160, 0), (1000, 0)])
def test_few_cases_get_copies_and_many_get_none(num_cases, expected):
    assert num_copies(num_cases, AugmentationConfig(num_wanted=160, max_copies=7)) == expected


@pytest.mark.parametrize("grid", [HEAD, replace(HEAD, spacing_mm=(9.0, 2.0, 2.0))])
def test_labels_follow_the_image_and_nothing_leaves_the_grid(grid):
    image, classes = head()
    changed = 0
    for seed in range(10):
        new_image, new_classes = Augmenter(AugmentationConfig(), grid, 2).copy(image, classes, np.random.default_rng(seed))
        assert (new_image.shape, new_classes.shape, new_classes.dtype) == (image.shape, classes.shape, classes.dtype)
        assert set(np.unique(new_classes)) == {0, 1, 2}
        assert 0.7 < (new_classes == 2).sum() / (classes == 2).sum() < 1.4
        assert new_image[0][new_classes == 2].mean() > 0.5 > 0.2 > new_image[0][new_classes == 1].mean()
        assert np.abs(new_image[0][new_classes == 0] - FILL).max() < 0.1
        changed += not np.array_equal(new_classes, classes)
    assert changed >= 8


def test_a_copy_depends_on_its_random_numbers_alone_and_without_strength_is_the_case():
    image, classes = head()
    augmenter = Augmenter(AugmentationConfig(), HEAD, 2)
    first, again = (augmenter.copy(image, classes, np.random.default_rng(3)) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    same_image, same_classes = Augmenter(NO_CHANGE, HEAD, None).copy(image, classes, np.random.default_rng(0))
    np.testing.assert_allclose(same_image, image, atol=1e-5)
    np.testing.assert_array_equal(same_classes, classes)


def test_the_box_of_a_crop_without_air_stays_where_it_is():
    image, classes = head()
    classes = np.where(classes == 2, 2, 1).astype(np.uint8)
    classes[:, :3], classes[:, -2:] = 0, 0
    image = np.where(classes == 0, FILL, image)
    for seed in range(5):
        _, new_classes = Augmenter(AugmentationConfig(), CROP, None).copy(image, classes, np.random.default_rng(seed))
        np.testing.assert_array_equal(new_classes == 0, classes == 0)


def test_a_rotation_by_a_quarter_turn_is_exact_in_millimetres():
    classes = np.zeros(SHAPE, np.uint8)
    classes[4:8, 14:18, 8:20] = 1  # 12 pixels long along W, 4 along H
    quarter = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    turned = warp_classes(classes, quarter, HEAD)
    where = np.argwhere(turned)
    assert (np.ptp(where, axis=0) + 1).tolist() == [4, 12, 4]
    image = warp_image(np.where(classes, 1.0, FILL)[None], quarter, HEAD)
    assert ((image[0] > 0) == (turned > 0)).mean() > 0.99


def heads(num_cases, sided):
    """Heads with tumours on either side, or on one side only."""
    rng = np.random.default_rng(0)
    made = [head((6 + rng.integers(-1, 2), 12 + rng.integers(-2, 3), 8 if sided or n % 2 else 19)) for n in range(num_cases)]
    return np.stack([m[0] for m in made]), np.stack([m[1] for m in made])


def test_mirroring_is_allowed_where_mirrored_cases_look_like_cases():
    assert may_be_mirrored(*heads(12, sided=False), axes=[2] * 12)
    assert not may_be_mirrored(*heads(12, sided=True), axes=[2] * 12)
    assert not may_be_mirrored(*heads(1, sided=False), axes=[2])


def test_cases_that_are_turned_differently_are_mirrored_between_their_own_left_and_right():
    pairs = [np.concatenate([a, a[..., ::-1]]) for a in heads(6, sided=True)]  # every case with its mirror image
    axes = [2, 2, 1, 1, 1, 1] * 2
    turned = [np.stack([np.swapaxes(c, -1, -2) if a == 1 else c for c, a in zip(square(p), axes, strict=True)]) for p in pairs]
    assert may_be_mirrored(*turned, axes=axes)
    assert not may_be_mirrored(*turned, axes=[2] * 12)  # as the first case lies


def square(array):
    """[..., 32, 28] with two columns more on either side."""
    return np.pad(array, [(0, 0)] * (array.ndim - 1) + [(2, 2)], mode="edge")


@pytest.mark.parametrize(
    ("direction", "transpose", "axis"),
    [
        ((1, 0, 0, 0, 1, 0, 0, 0, 1), (0, 1, 2), 2),
        ((-1, 0, 0, 0, -1, 0, 0, 0, 1), (2, 0, 1), 0),
        ((0, 0, 1, 1, 0, 0, 0, -1, 0), (0, 1, 2), 0),  # sagittal: the third image axis runs left-right
    ],
)
def test_the_left_right_axis_comes_from_the_geometry(direction, transpose, axis):
    assert left_right_axis(Geometry((1.0, 1.0, 1.0), direction=tuple(map(float, direction))), transpose) == axis
