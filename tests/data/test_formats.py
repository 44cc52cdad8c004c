"""Formats: what is written for a reader of nnU-Net is read back by it unchanged, and every kind of dataset goes through."""

import os
import shutil
from dataclasses import replace
from itertools import product

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from nnunet_fixtures import PLAN, NnunetFolders, run_nnunet
from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO, NibabelIOWithReorient
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO, SimpleITKIOWithReorient
from nnunetv2.imageio.tif_reader_writer import Tiff3DIO
from phantom_fixtures import NANO, SMALL_PHANTOM, hash_tree, make_planned_phantom

from nnunet_sbldm.cli.train import train_entry
from nnunet_sbldm.common.files import read_json, write_json
from nnunet_sbldm.data.cases import read_case
from nnunet_sbldm.data.dataset import open_dataset
from nnunet_sbldm.data.formats import (
    NIBABEL_ENDINGS,
    SITK_ENDINGS,
    TIFF_ENDINGS,
    affine_of,
    geometry_of,
    refuse_unwritable,
    side_files,
    writable_endings,
    write_case,
)
from nnunet_sbldm.dataset_conversion.expand_dataset import expand_entry
from nnunet_sbldm.generator import presets as config
from nnunet_sbldm.types import Case, Geometry, UserError

SPACING_MM = (3.0, 2.0, 1.5)
ORIGIN_MM = (10.0, -20.0, 30.5)
OBLIQUE, _ = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))
DIRECTIONS = {
    "identity": np.eye(3),
    "flipped": np.diag([-1.0, -1.0, 1.0]),
    "left-handed": np.diag([1.0, 1.0, -1.0]),
    "permuted": np.eye(3)[[2, 0, 1]],
    "oblique": OBLIQUE,
}
READERS = [
    *product([SimpleITKIO, SimpleITKIOWithReorient], SITK_ENDINGS),
    *product([NibabelIO, NibabelIOWithReorient], NIBABEL_ENDINGS),
    *product([Tiff3DIO], TIFF_ENDINGS),
]


def some_case(direction, shape=(4, 5, 6), channels=2):
    rng = np.random.default_rng(1)
    image = rng.normal(size=(channels, *shape)).astype(np.float32)
    label = rng.integers(0, 3, shape, dtype=np.int16)
    return Case("case_1", image, label, Geometry(SPACING_MM, ORIGIN_MM, tuple(direction.ravel())))


def write_and_read(case, folder, ending, reader):
    images = [folder / "imagesTr" / f"{case.case_id}_{c:04d}{ending}" for c in range(len(case.image))]
    label = folder / "labelsTr" / f"{case.case_id}{ending}"
    write_case(case, images, label, reader)
    image, properties = reader().read_images([str(f) for f in images])
    seg, seg_properties = reader().read_seg(str(label))
    np.testing.assert_allclose(seg_properties["spacing"], properties["spacing"])
    return Case(case.case_id, image, seg[0].astype(np.int16), geometry_of(properties)), images


def assert_same_geometry(one, other):
    for name in ("spacing_mm", "origin_mm", "direction"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), atol=1e-4, err_msg=name)


def brightest_point_mm(file):
    """Physical place of the brightest voxel of a file."""
    image = sitk.ReadImage(str(file))
    z, y, x = np.unravel_index(sitk.GetArrayViewFromImage(image).argmax(), image.GetSize()[::-1])
    return image.TransformIndexToPhysicalPoint((int(x), int(y), int(z)))


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize(("reader", "ending"), READERS, ids=lambda v: getattr(v, "__name__", v))
def test_a_case_seen_by_a_reader_is_the_same_after_writing_and_reading(tmp_path, reader, ending, direction):
    """The first pass makes files of the user's, whatever their orientation; the second is ours."""
    theirs, their_files = write_and_read(some_case(DIRECTIONS[direction]), tmp_path / "theirs", ending, reader)
    ours, our_files = write_and_read(theirs, tmp_path / "ours", ending, reader)
    np.testing.assert_array_equal(ours.image, theirs.image)
    np.testing.assert_array_equal(ours.label, theirs.label)
    assert_same_geometry(ours.geometry, theirs.geometry)
    if reader is not Tiff3DIO:
        np.testing.assert_allclose(brightest_point_mm(our_files[0]), brightest_point_mm(their_files[0]), atol=1e-3)
    assert sorted(p.suffix for p in tmp_path.rglob(".sbldm_tmp*")) == []


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize(("reader", "ending"), [*product([SimpleITKIO], [".nrrd", ".mha", ".nii.gz"]), (NibabelIO, ".nii.gz")])
def test_negative_and_oblique_directions_survive(tmp_path, reader, ending, direction):
    case = some_case(DIRECTIONS[direction])
    written, _ = write_and_read(case, tmp_path, ending, reader)
    np.testing.assert_array_equal(written.image, case.image)
    np.testing.assert_array_equal(written.label, case.label)
    assert_same_geometry(written.geometry, case.geometry)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_both_nifti_writers_put_voxels_in_the_same_place(tmp_path, direction):
    case = some_case(DIRECTIONS[direction])
    _, by_sitk = write_and_read(case, tmp_path / "sitk", ".nii.gz", SimpleITKIO)
    _, by_nibabel = write_and_read(case, tmp_path / "nibabel", ".nii.gz", NibabelIO)
    np.testing.assert_allclose(nibabel.load(by_sitk[0]).affine, nibabel.load(by_nibabel[0]).affine, atol=1e-4)
    np.testing.assert_allclose(affine_of(case.geometry), nibabel.load(by_sitk[0]).affine, atol=1e-4)


def test_sheared_axes_that_only_nibabel_reads_survive(tmp_path):
    sheared = np.array([[1.0, 0.0, 0.2], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    case = some_case(sheared / np.linalg.norm(sheared, axis=0))
    written, _ = write_and_read(case, tmp_path, ".nii.gz", NibabelIO)
    np.testing.assert_array_equal(written.image, case.image)
    assert_same_geometry(written.geometry, case.geometry)


def test_sheared_axes_stay_sheared_where_no_reader_is_named(tmp_path):
    sheared = np.array([[1.0, 0.0, 0.2], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    case = some_case(sheared / np.linalg.norm(sheared, axis=0), channels=1)
    write_case(case, [tmp_path / "a_0000.nii.gz"], tmp_path / "a.nii.gz")
    for name in ("a_0000.nii.gz", "a.nii.gz"):
        np.testing.assert_allclose(nibabel.load(tmp_path / name).affine, affine_of(case.geometry), atol=1e-5)
    with pytest.raises(UserError, match="not at right angles can be written as .nii.gz or .nii alone"):
        write_case(case, [tmp_path / "a_0000.nrrd"], tmp_path / "a.nrrd")


def test_channels_that_share_a_four_dimensional_file_keep_their_place(tmp_path):
    volumes = [sitk.GetImageFromArray(c) for c in some_case(np.eye(3)).image]
    for volume in volumes:
        volume.SetSpacing(SPACING_MM[::-1])
        volume.SetOrigin(ORIGIN_MM)
        volume.SetDirection(OBLIQUE.ravel())
    sitk.WriteImage(sitk.JoinSeries(volumes), str(tmp_path / "case_1_0000.nrrd"))
    image, properties = SimpleITKIO().read_images([str(tmp_path / "case_1_0000.nrrd")])
    assert len(image) == 2
    assert_same_geometry(geometry_of(properties), some_case(OBLIQUE).geometry)


@pytest.mark.parametrize("shape", [(3, 5, 6), (4, 5, 6), (5, 4, 3), (1, 5, 6), (5, 6, 1)])
def test_a_tif_stack_keeps_its_shape_and_its_spacing_stands_beside_it(tmp_path, shape):
    case = some_case(np.eye(3), shape)
    written, images = write_and_read(case, tmp_path, ".tif", Tiff3DIO)
    np.testing.assert_array_equal(written.image, case.image)
    assert written.geometry == Geometry(SPACING_MM)
    beside = side_files(images, tmp_path / "labelsTr" / "case_1.tif")
    assert [str(f.relative_to(tmp_path)) for f in beside] == ["imagesTr/case_1.json", "labelsTr/case_1.json"]
    assert [read_json(f) for f in beside] == [{"spacing": list(SPACING_MM)}] * 2
    assert side_files([tmp_path / "case_1_0000.nii.gz"], tmp_path / "case_1.nii.gz") == ()


@pytest.mark.parametrize(("reader", "ending"), READERS, ids=lambda v: getattr(v, "__name__", v))
def test_writing_twice_gives_the_same_bytes(tmp_path, reader, ending):
    for name in ("one", "two"):
        write_and_read(some_case(np.eye(3)), tmp_path / name, ending, reader)
    assert hash_tree(tmp_path / "one") == hash_tree(tmp_path / "two")


def test_labels_above_254_survive(tmp_path):
    case = some_case(np.eye(3))
    case.label[0, 0, 0] = 300
    for reader, ending in ((SimpleITKIO, ".nrrd"), (NibabelIO, ".nii.gz"), (Tiff3DIO, ".tif")):
        np.testing.assert_array_equal(write_and_read(case, tmp_path / reader.__name__, ending, reader)[0].label, case.label)


def test_what_a_reader_cannot_read_is_refused_with_one_sentence():
    assert set(writable_endings()) == {*SITK_ENDINGS, *TIFF_ENDINGS}
    for reader, ending in READERS:
        refuse_unwritable("Dataset001_X", ending, reader)
    with pytest.raises(UserError, match=r"Dataset001_X has \.nrrd files, read by NibabelIO: .* as \.nii\.gz, \.nii\.$"):
        refuse_unwritable("Dataset001_X", ".nrrd", NibabelIO)
    with pytest.raises(UserError, match=r"as nothing, for it reads two-dimensional images\.$"):
        refuse_unwritable("Dataset001_X", ".png", NaturalImage2DIO)


# --- end to end ----------------------------------------------------------------------------------------------------


@pytest.fixture
def use(monkeypatch):
    def set_variables(folders):
        monkeypatch.setitem(config.PRESETS, "nano", NANO)
        for name, value in folders.environment().items():
            monkeypatch.setenv(name, value)

    return set_variables


def train_and_expand(folders):
    """Both commands on fold 0 of dataset 900; returns the real and the expanded dataset."""
    common = ["-d", "900", "-preset", "nano", "-device", "cpu"]
    train_entry([*common, "-f", "0"])
    expand_entry([*common, "-f", "0", "-n", "2", "-steps", "3", "-o", "904", "--no_gate"])
    done = run_nnunet(PLAN, "-d", 904, "--verify_dataset_integrity", "-np", 1, "-npfp", 1, "--no_pp", **folders.environment())
    assert done.returncode == 0, done.stderr[-2000:]
    return open_dataset("900"), open_dataset("904")


def check_expanded(real, expanded, allowed_labels):
    synthetic = expanded.dataset_json["sbldm"]["synthetic_cases"]
    assert len(synthetic) == 2
    own_case = read_case(real, real.real_case_ids[0])
    for case_id in synthetic:
        case = read_case(expanded, case_id)
        assert len(case.image) == 2
        assert set(np.unique(case.label)) <= allowed_labels
        assert all(c.min() < c.max() for c in case.image)
        np.testing.assert_allclose(case.geometry.direction, own_case.geometry.direction, atol=1e-4)
        assert (expanded.data_folder / f"{case_id}.b2nd").is_file()


def turn_and_move_away(raw):
    """Flipped axes, files outside the dataset's folder under other names, and a reader that reorients."""
    elsewhere = raw.parent.parent / "archive"
    cases = {}
    for label in sorted((raw / "labelsTr").iterdir()):
        case_id = label.name[: -len(".nii.gz")]
        files = {raw / "imagesTr" / f"{case_id}_000{c}.nii.gz": elsewhere / case_id / f"{c}_image.nii.gz" for c in (0, 1)}
        files[label] = elsewhere / case_id / "mask.nii.gz"
        for source, target in files.items():
            target.parent.mkdir(parents=True, exist_ok=True)
            sitk.WriteImage(sitk.DICOMOrient(sitk.ReadImage(str(source)), "PSL"), str(target))
        *images, mask = (os.path.relpath(f, raw) for f in files.values())
        cases[case_id] = {"images": images, "label": mask}
    shutil.rmtree(raw / "imagesTr")
    shutil.rmtree(raw / "labelsTr")
    write_json(raw / "dataset.json", {**read_json(raw / "dataset.json"), "dataset": cases,
                                      "overwrite_image_reader_writer": "NibabelIOWithReorient"})


@pytest.mark.slow
def test_regions_an_ignore_label_another_reader_and_files_elsewhere_go_through(tmp_path, use):
    phantom = replace(SMALL_PHANTOM, num_labels=2, regions=True, ignore_slices=1)
    folders = make_planned_phantom(tmp_path, phantom, change=turn_and_move_away)
    use(folders)
    real, expanded = train_and_expand(folders)
    assert real.reader is expanded.reader is NibabelIOWithReorient
    assert len(expanded.case_files) == 12
    for name in ("labels", "regions_class_order", "overwrite_image_reader_writer", "channel_names"):
        assert expanded.dataset_json[name] == real.dataset_json[name]
    check_expanded(real, expanded, {0, 1, 2})


@pytest.mark.slow
@pytest.mark.parametrize(("ending", "reader"), [(".tif", Tiff3DIO), (".nrrd", SimpleITKIO)])
def test_other_endings_go_through(tmp_path, use, ending, reader):
    folders = make_planned_phantom(tmp_path, file_ending=ending)
    use(folders)
    real, expanded = train_and_expand(folders)
    assert real.reader is reader
    check_expanded(real, expanded, {0, 1})
    beside = {p.name for p in (expanded.raw / "synthetic" / "images").glob("*.json")}
    assert beside == ({"sbldm_f0_0000.json", "sbldm_f0_0001.json"} if ending == ".tif" else set())


# --- refusals ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_dimensional_images_are_refused_when_the_dataset_is_opened(tmp_path, use, capsys):
    from skimage import io

    folders = NnunetFolders(tmp_path / "raw", tmp_path / "preprocessed", tmp_path / "results")
    raw = folders.raw / "Dataset903_Roads"
    for folder in (raw / "imagesTr", raw / "labelsTr", folders.preprocessed, folders.results):
        folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(5):
        io.imsave(raw / "imagesTr" / f"road_{i}_0000.png", rng.integers(1, 255, (40, 48), dtype=np.uint8), check_contrast=False)
        io.imsave(raw / "labelsTr" / f"road_{i}.png", rng.integers(0, 2, (40, 48), dtype=np.uint8), check_contrast=False)
    write_json(raw / "dataset.json", {"channel_names": {"0": "grey"}, "labels": {"background": 0, "road": 1},
                                      "numTraining": 5, "file_ending": ".png"})
    done = run_nnunet(PLAN, "-d", 903, "-c", "2d", "-np", 1, "-npfp", 1, "--no_pbar", **folders.environment())
    assert done.returncode == 0, done.stderr[-2000:]
    use(folders)
    with pytest.raises(SystemExit) as e:
        train_entry(["-d", "903", "-f", "0", "-device", "cpu"])
    assert e.value.code == 2
    found = "Dataset903_Roads has two-dimensional images (.png, read by NaturalImage2DIO)"
    assert capsys.readouterr().err == f"error: {found}; SBLDM needs a dataset of 3-D volumes.\n"


def test_a_damaged_file_is_named_whatever_the_reader_raises(tmp_path):
    from nnunet_sbldm.data.dataset import NnunetDataset

    for reader, ending in ((SimpleITKIO, ".nrrd"), (NibabelIO, ".nii.gz"), (Tiff3DIO, ".tif")):
        raw = tmp_path / reader.__name__
        _, images = write_and_read(some_case(np.eye(3)), raw, ending, reader)
        images[1].write_bytes(images[1].read_bytes()[:150])
        write_json(raw / "nnUNetPlans.json", {"image_reader_writer": reader.__name__, "configurations": {}})
        dataset = NnunetDataset("Dataset001_X", raw, raw, {"file_ending": ending, "labels": {"background": 0}})
        with pytest.raises(UserError, match=r"Case case_1 of Dataset001_X cannot be read: ."):
            read_case(dataset, "case_1")
