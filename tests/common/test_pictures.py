import matplotlib.image
import numpy as np
import pytest

from nnunet_sbldm.common.pictures import LABEL_COLOURS, Panel, central_voxel, grey_window, montage, take_plane, three_planes
from nnunet_sbldm.common.plots import curves, scatter
from nnunet_sbldm.types import OUTSIDE


def read_png(path):
    return matplotlib.image.imread(path)[..., :3]


def has_colour(picture, colour):
    wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return bool((np.abs(picture - wanted).max(axis=-1) < 0.05).any())


def panel(shape=(6, 10, 8), spacing_mm=(2.0, 1.0, 1.0), label_value=0):
    image, label = np.full(shape, 100.0, np.float32), np.zeros(shape, np.int16)
    image[1:-1, 2:-2, 2:-2] = 50
    label[2:4, 3:7, 2:6] = label_value
    return Panel(image, label, spacing_mm)


def test_superior_is_up_and_anterior_up_or_left():
    volume = np.zeros((4, 5, 6))
    volume[-1, 0, -1] = 1  # superior, anterior, left
    everywhere = [(d, h, w) for d in range(4) for h in range(5) for w in range(6)]
    assert np.argwhere(take_plane(volume, "axial", everywhere[-1])).tolist() == [[0, 5]]
    assert np.argwhere(take_plane(volume, "coronal", everywhere[0])).tolist() == [[0, 5]]
    assert np.argwhere(take_plane(volume, "sagittal", everywhere[-1])).tolist() == [[0, 0]]


def test_planes_go_through_the_largest_foreground():
    label = np.zeros((5, 6, 7), np.int16)
    label[1, 2:4, 3:6] = label[2, 2, 3] = 1
    assert central_voxel(label) == (1, 2, 3)
    assert central_voxel(np.zeros_like(label)) == (2, 3, 3)


@pytest.mark.parametrize("marked", [True, False])
def test_window_ignores_what_lies_outside_and_the_gain_of_the_scanner(marked):
    rng = np.random.default_rng(0)
    inside = rng.random((6, 8, 8)) > 0.4
    image = np.where(inside, rng.normal(300, 50, inside.shape), 0).astype(np.float32)
    label = np.where(inside | (not marked), 0, OUTSIDE)
    grey = grey_window(image, label)
    assert (grey[~inside] == 0).all()
    assert (grey[inside] > 0).all()
    assert grey.max() == 1
    np.testing.assert_allclose(grey_window(3 * image, label), grey, atol=1e-5)


def test_proportions_are_physical(tmp_path):
    montage(tmp_path / "p.png", [("", [panel((6, 10, 8), (4.0, 1.0, 1.5))])], planes=["coronal"], width_px=600)
    picture = read_png(tmp_path / "p.png")
    rows, columns = np.where(picture.max(axis=-1) > 0.5)
    height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
    assert picture.shape[1] == 600
    assert height / width == pytest.approx(6 * 4.0 / (8 * 1.5), rel=0.1)


def test_every_label_has_its_own_outline_and_a_case_without_labels_has_none(tmp_path):
    three_planes(tmp_path / "two.png", [panel(label_value=1), panel(label_value=2)], {1: "tumour", 2: "core"})
    three_planes(tmp_path / "none.png", [panel()])
    two, none = read_png(tmp_path / "two.png"), read_png(tmp_path / "none.png")
    assert [has_colour(two, c) for c in LABEL_COLOURS[:3]] == [True, True, False]
    assert np.ptp(none, axis=-1).max() < 0.01
    assert sorted(p.name for p in tmp_path.iterdir()) == ["none.png", "two.png"]


def test_voxels_outside_and_ignored_intensities_leave_a_black_picture(tmp_path):
    empty = Panel(np.zeros((4, 4, 4), np.float32), np.zeros((4, 4, 4), np.int16), (1, 1, 1))
    three_planes(tmp_path / "empty.png", [empty])
    assert read_png(tmp_path / "empty.png").max() == 0


def test_curves_show_each_stage_and_each_loss(tmp_path):
    rows = ["stage,step,num_steps,loss,label,learning_rate,seconds"]
    rows += [f"autoencoder,{s},50,{1 / s},{2 / s},0.001,{s}" for s in range(5, 55, 5)]
    rows += [f"denoiser,{s},50,{1 / s},,0.001,{s}" for s in range(5, 55, 5)]
    (tmp_path / "log.csv").write_text("\n".join(rows))
    curves(tmp_path / "log.csv", tmp_path / "curves.png")
    picture = read_png(tmp_path / "curves.png")
    first, second = np.array_split(picture, 2, axis=1)
    assert [has_colour(first, c) for c in LABEL_COLOURS[:3]] == [True, True, False]
    assert [has_colour(second, c) for c in LABEL_COLOURS[:3]] == [True, False, False]


def test_scatter_of_equal_values_lies_on_the_diagonal(tmp_path):
    scatter(tmp_path / "s.png", [("volume (ml)", [1.0, 5.0], [1.0, 5.0])], width_px=400)
    picture = read_png(tmp_path / "s.png")
    wanted = np.array([int(LABEL_COLOURS[0][i : i + 2], 16) for i in (1, 3, 5)]) / 255
    rows, columns = np.where(np.abs(picture - wanted).max(axis=-1) < 0.05)
    assert np.corrcoef(rows, columns)[0, 1] < -0.99
