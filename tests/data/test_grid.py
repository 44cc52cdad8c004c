"""The grid and the way back: what goes onto it comes off it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from nnunet_sbldm.data.boxes import to_grid
from nnunet_sbldm.data.cases import load_arrays, load_preprocessed, preprocess_case
from nnunet_sbldm.data.grid import Grid, anatomy_of, configure_grid, in_reader_order, nearest_axes
from nnunet_sbldm.data.intensities import IntensityScaling
from nnunet_sbldm.data.labels import LabelEncoding
from nnunet_sbldm.types import OUTSIDE, Geometry

SIZES = st.tuples(*[st.integers(1, 9)] * 3)


@given(SIZES, SIZES)
def test_centring_there_and_back_is_the_identity_where_the_grid_is_large_enough(size, room):
    array = np.arange(np.prod(size)).reshape(1, *size)
    grid = tuple(s + r for s, r in zip(size, room, strict=True))
    np.testing.assert_array_equal(to_grid(to_grid(array, grid, -7), size, 0), array)


@given(st.integers(1, 5), st.booleans(), st.integers(0, 2**31))
def test_label_encoding_is_inverted_by_decoding(num_labels, with_ignore, seed):
    values = (OUTSIDE, *range(num_labels + 1))
    encoding = LabelEncoding(values, num_labels + 1 if with_ignore else None)
    label = np.random.default_rng(seed).choice(values, (3, 4, 5)).astype(np.int16)
    np.testing.assert_array_equal(encoding.decode(encoding.encode(label)), label)
    if with_ignore:
        assert encoding.encode(np.array([num_labels + 1], np.int16)) == 255


def test_intensities_come_back_exactly_and_stay_above_the_floor():
    scaling = IntensityScaling((0.3, 40.0), (2.0, 50.0), (100.0, 1.0), (-4.0, 0.0), (-4.0, 0.0), (1.0, -3e38))
    x = np.random.default_rng(0).normal(0, 3, (2, 4, 5, 6)).astype(np.float32)
    np.testing.assert_allclose(scaling.normalised(scaling.scaled(x)), x, atol=1e-4)
    inside = np.ones((4, 5, 6), bool)
    inside[0] = False
    raw = scaling.raw(x, inside)
    assert raw[0, inside].min() >= 1
    np.testing.assert_allclose(raw[1, inside], x[1, inside], atol=1e-5)
    assert (raw[:, ~inside] == 0).all()


def test_the_grid_holds_every_training_case_and_suits_the_autoencoder():
    grid = configure_grid([(20, 37, 50), (23, 44, 41)], (3, 1, 1), (0, 1, 2), outside_share=0.4)
    assert grid.shape == (23, 44, 52)
    assert (grid.downsampling, grid.latent_shape) == (4, (23, 11, 13))
    assert not grid.outside_is_box
    assert configure_grid([(20, 130, 50)], (3, 1, 1), (0, 1, 2), 0).downsampling == 8


def test_a_box_shaped_anatomy_is_a_box_despite_ragged_classes():
    classes = np.zeros((8, 10, 12), int)
    classes[2:7, 1:9, 3:11] = 1
    classes[2, 1:3, 3] = 0
    classes[1, 4, 5] = 1
    box = anatomy_of(classes, Grid(classes.shape, (1, 1, 1), (0, 1, 2), outside_is_box=True))
    wanted = np.zeros(classes.shape, bool)
    wanted[2:7, 1:9, 3:11] = True
    np.testing.assert_array_equal(box, wanted)


def test_a_head_shaped_anatomy_is_one_piece_without_holes():
    classes = np.zeros((8, 10, 12), int)
    classes[2:7, 2:9, 3:11] = 1
    classes[4, 5, 6] = 0
    classes[0, 0, 0] = 2
    head = anatomy_of(classes, Grid(classes.shape, (1, 1, 1), (0, 1, 2), outside_is_box=False))
    assert head[4, 5, 6]
    assert not head[0, 0, 0]


@pytest.mark.parametrize("transpose", [(0, 1, 2), (1, 0, 2), (2, 0, 1), (1, 2, 0)])
def test_a_case_leaves_the_grid_in_reader_order(transpose):
    rng = np.random.default_rng(0)
    reader_image = rng.uniform(1, 2, (2, 5, 6, 7)).astype(np.float32)
    label = rng.integers(0, 3, (5, 6, 7)).astype(np.int16)
    spacing = (3.0, 2.0, 1.0)
    grid = Grid((9, 9, 9), tuple(spacing[a] for a in transpose), transpose, outside_is_box=True)
    image = reader_image.transpose(0, *(a + 1 for a in transpose))
    case = in_reader_order("c", image, label.transpose(transpose), grid, Geometry(spacing, (1.0, 2.0, 3.0)))
    np.testing.assert_array_equal(case.image, reader_image)
    np.testing.assert_array_equal(case.label, label)
    assert case.geometry == Geometry(spacing, (1.0, 2.0, 3.0))


def test_a_real_case_that_passes_through_the_grid_preprocesses_to_itself(phantom_dataset, generator, tmp_path):
    """Grid, pseudo-raw intensities, exact zeros and nnU-Net's preprocessing together are the identity."""
    plan = generator.plan
    image, label = load_preprocessed(phantom_dataset, phantom_dataset.real_case_ids[0])
    scaled, classes = plan.to_network(image, label)
    case = plan.from_network("copy", scaled, plan.encoding.decode(classes), classes != 0)
    preprocess_case(phantom_dataset, case, tmp_path / "copy")
    copy, copied_label = load_arrays(tmp_path, "copy")
    np.testing.assert_array_equal(copied_label, label)
    np.testing.assert_allclose(copy, image, atol=1e-4)


@pytest.mark.parametrize(
    ("direction", "letters"),
    [
        (np.eye(3), "SPL"),
        (np.diag([-1.0, -1.0, 1.0]), "SAR"),
        (np.eye(3)[[1, 2, 0]], "PLS"),
        (Rotation.from_euler("x", 20, degrees=True).as_matrix(), "SPL"),
    ],
)
def test_the_axes_of_an_array_have_the_letters_of_the_directions_in_which_they_run(direction, letters):
    assert nearest_axes(Geometry((1.0, 1.0, 1.0), direction=tuple(np.ravel(direction))).array_axes()) == letters
