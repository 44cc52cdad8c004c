import matplotlib.image
import nibabel
import numpy as np
import pytest
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from nnunet_sbldm.common.pictures import (
    LABEL_COLOURS,
    Panel,
    central_voxel,
    grey_window,
    montage,
    take_plane,
    three_planes,
    turned,
)
from nnunet_sbldm.common.plots import curves, scatter
from nnunet_sbldm.data.formats import geometry_of
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
    assert read_png(tmp_path / "empty.png").max() <= 0.61  # letters and the scale bar


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


def written_as(codes, tilt_deg=0.0):
    """A made-up head as a file whose axes run along nibabel's ``codes``, perhaps tilted, read by nnU-Net's reader."""
    from nibabel.orientations import axcodes2ornt, ornt_transform
    from scipy.spatial.transform import Rotation

    rng = np.random.default_rng(0)
    head = np.zeros((24, 20, 16), np.float32)  # left, anterior, superior
    head[2:-2, 2:-2, 2:-2] = 50 + rng.normal(size=(20, 16, 12))
    head[-6:-2, 8:12, 6:10] = 70  # on the patient's left
    head[10:14, 14:17, 6:10] = 120  # in front
    head[11, 10:17, 7] = head[8:16, 15, 7] = head[11, 15, 4:12] = 120  # one voxel through which its largest planes go
    affine = np.diag([-1.0, 1.0, 1.0, 1.0])  # the first axis runs to the left
    affine[:3, :3] = Rotation.from_euler("xyz", [tilt_deg, tilt_deg, -tilt_deg], degrees=True).as_matrix() @ affine[:3, :3]
    start = nibabel.Nifti1Image(head, affine)
    own = nibabel.orientations.io_orientation(affine)
    return start.as_reoriented(ornt_transform(own, axcodes2ornt(codes)))


@pytest.mark.parametrize(("codes", "tilt_deg"), [("RAS", 0), ("PIR", 0), ("RIA", 0), ("ASL", 0), ("LPS", 12), ("IAL", 12)])
def test_one_head_gives_one_picture_whatever_its_file_looks_like(tmp_path, codes, tilt_deg):
    pictures = []
    for k, (name, tilt) in enumerate([("LPS", 0), (codes, tilt_deg)]):
        nibabel.save(written_as(name, tilt), tmp_path / f"{k}.nii.gz")
        array, properties = SimpleITKIO().read_images([str(tmp_path / f"{k}.nii.gz")])
        geometry = geometry_of(properties)
        label = (array[0] > 80).astype(np.int16)
        one = Panel(array[0], label, geometry.spacing_mm, "head", axes=geometry.array_axes())
        three_planes(tmp_path / f"{k}.png", [one], width_px=600)
        pictures.append(read_png(tmp_path / f"{k}.png"))
    np.testing.assert_allclose(pictures[0], pictures[1], atol=1 / 255)


def test_what_is_on_the_patients_left_is_drawn_on_the_right(tmp_path):
    nibabel.save(written_as("ASR"), tmp_path / "a.nii.gz")
    array, properties = SimpleITKIO().read_images([str(tmp_path / "a.nii.gz")])
    one = Panel(array[0], np.zeros(array[0].shape, np.int16), (1.0, 1.0, 1.0), axes=geometry_of(properties).array_axes())
    ready = turned(one)
    d, h, w = np.argwhere(ready.image == 70).mean(axis=0)
    assert w > ready.image.shape[2] / 2
    assert np.argwhere(ready.image == 120).mean(axis=0)[1] < ready.image.shape[1] / 2  # in front is up


def test_an_empty_sample_off_the_centre_has_a_picture(tmp_path):
    label = np.full((20, 20, 20), OUTSIDE, np.int16)
    label[1:4, 1:5, 1:5] = 0
    image = np.where(label == 0, np.arange(20), 0.0).astype(np.float32)
    three_planes(tmp_path / "p.png", [Panel(image, label, (1.0, 1.0, 1.0))], width_px=300)
    assert read_png(tmp_path / "p.png").max() > 0.1
