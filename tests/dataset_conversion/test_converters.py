"""Converters: a miniature of each archive becomes a dataset that nnU-Net's own reader and checks accept."""

import importlib
import socket
import subprocess
import sys

import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from nnunet_fixtures import PLAN, NnunetFolders, run_nnunet
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from phantom_fixtures import hash_tree

from nnunet_sbldm.common.files import read_json, write_json
from nnunet_sbldm.data.cases import read_case
from nnunet_sbldm.data.dataset import NnunetDataset
from nnunet_sbldm.dataset_conversion import Dataset137_BraTS2021, Dataset505_LGG, Dataset900_Phantom, convert_MSD_dataset

SIZE, SPACING_MM, ORIGIN_MM = (7, 6, 5), (1.0, 1.5, 2.0), (-3.0, -239.0, 4.0)  # x, y, z
FLIPPED = (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0)


@pytest.fixture
def folders(tmp_path, monkeypatch):
    mine = NnunetFolders(tmp_path / "raw", tmp_path / "preprocessed", tmp_path / "results")
    for folder in (mine.raw, mine.preprocessed, mine.results):
        folder.mkdir()
    for name, value in mine.environment().items():
        monkeypatch.setenv(name, value)
    return mine


class RawFolder(NnunetDataset):
    """A raw dataset that is not planned yet, with the reader that nnU-Net will choose for it."""

    reader = SimpleITKIO


def opened(folder):
    return RawFolder(folder.name, folder, folder, read_json(folder / "dataset.json"))


def volume(array):
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(SPACING_MM)
    image.SetOrigin(ORIGIN_MM)
    image.SetDirection(FLIPPED)
    return image


def save(image, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path), True)


def random_volume(seed, high=1000):
    return np.random.default_rng(seed).integers(0, high, SIZE[::-1]).astype(np.int16)


def refused(capsys, module, *arguments):
    with pytest.raises(SystemExit) as e:
        module.main([*map(str, arguments)])
    assert e.value.code == 2
    (message,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    return message


def assert_geometry(case):
    assert case.geometry.spacing_mm == SPACING_MM[::-1]
    assert case.geometry.origin_mm == ORIGIN_MM
    assert case.geometry.direction == FLIPPED


# --- BraTS ---------------------------------------------------------------------------------------------------------


def brats_label(i):
    label = np.random.default_rng(i).choice([0, 1, 2, 4], SIZE[::-1]).astype(np.uint8)
    label[0, 0, :4] = (0, 1, 2, 4)
    return label


@pytest.fixture
def brats(tmp_path):
    archive = tmp_path / "BraTS2021_Training_Data"
    for i in range(3):
        case_id = f"BraTS2021_{i:05d}"
        for c, name in enumerate(("flair", "t1", "t1ce", "t2")):
            save(volume(random_volume(10 * i + c)), archive / case_id / f"{case_id}_{name}.nii.gz")
        save(volume(brats_label(i)), archive / case_id / f"{case_id}_seg.nii.gz")
    return archive


def test_brats_gets_four_channels_and_nested_regions(folders, brats, capsys):
    Dataset137_BraTS2021.main(["-i", str(brats)])
    dataset = opened(folders.raw / "Dataset137_BraTS2021")
    assert str(dataset.raw) in capsys.readouterr().out
    assert dataset.channel_names == ["T1", "T1ce", "T2", "FLAIR"]
    assert dataset.dataset_json["numTraining"] == 3 == len(dataset.case_files)
    assert "synapse" in dataset.dataset_json["licence"]
    manager = LabelManager(dataset.dataset_json["labels"], dataset.dataset_json["regions_class_order"])
    assert manager.has_regions
    for i in range(3):
        case = read_case(dataset, f"BraTS2021_{i:05d}")
        for channel, name in enumerate((1, 2, 3, 0)):  # places of T1, T1ce, T2, FLAIR among the archive's files
            np.testing.assert_array_equal(case.image[channel], random_volume(10 * i + name))
        theirs, regions = brats_label(i), dataset.dataset_json["labels"]
        for name, values in {"whole_tumour": [1, 2, 4], "tumour_core": [1, 4], "enhancing_tumour": [4]}.items():
            np.testing.assert_array_equal(np.isin(case.label, regions[name]), np.isin(theirs, values))
        inside = np.stack([np.isin(case.label, regions[n]) for n in regions if n != "background"])
        painted = manager.convert_logits_to_segmentation(np.where(inside, 9.0, -9.0).astype(np.float32))
        np.testing.assert_array_equal(painted, case.label)
        assert_geometry(case)


@pytest.mark.slow
def test_nnunets_own_integrity_check_accepts_brats(folders, brats):
    Dataset137_BraTS2021.main(["-i", str(brats)])
    check = ("-d", 137, "--verify_dataset_integrity", "-np", 1, "-npfp", 1, "--no_pp")
    done = run_nnunet(PLAN, *check, **folders.environment())
    assert done.returncode == 0, done.stderr[-2000:]
    assert "verify_dataset_integrity Done" in done.stdout
    assert "Warning" not in done.stdout.split("verify_dataset_integrity Done")[0]


def test_brats_as_in_the_paper_is_flair_with_the_whole_tumour(folders, brats):
    Dataset137_BraTS2021.main(["-i", str(brats), "--flair", "-d", "7"])
    dataset = opened(folders.raw / "Dataset007_BraTS2021FLAIR")
    assert (dataset.channel_names, dataset.dataset_json["labels"]) == (["FLAIR"], {"background": 0, "whole_tumour": 1})
    case = read_case(dataset, "BraTS2021_00002")
    np.testing.assert_array_equal(case.image, random_volume(20)[None])
    np.testing.assert_array_equal(case.label, brats_label(2) > 0)
    assert_geometry(case)


def test_an_interrupted_conversion_is_finished_by_the_same_command(folders, brats):
    Dataset137_BraTS2021.main(["-i", str(brats)])
    folder = folders.raw / "Dataset137_BraTS2021"
    finished = hash_tree(folder)
    (folder / "dataset.json").unlink()
    (folder / "imagesTr" / "BraTS2021_00001_0002.nii.gz").unlink()
    (folder / "labelsTr" / "BraTS2021_00002.nii.gz").unlink()
    killed = subprocess.Popen([sys.executable, "-c", ""])
    killed.wait()
    leftover = folder / "labelsTr" / f".sbldm_tmp_{socket.gethostname()}.{killed.pid}.x"
    leftover.mkdir()
    kept = (folder / "labelsTr" / "BraTS2021_00000.nii.gz").stat().st_mtime_ns
    Dataset137_BraTS2021.main(["-i", str(brats)])
    assert hash_tree(folder) == finished
    assert (folder / "labelsTr" / "BraTS2021_00000.nii.gz").stat().st_mtime_ns == kept
    assert not leftover.exists()


def test_a_bad_brats_archive_is_refused_with_one_sentence(folders, brats, tmp_path, capsys):
    def message(*arguments):
        return refused(capsys, Dataset137_BraTS2021, *arguments)

    assert "is not a folder; expected folders such as BraTS2021_00000" in message("-i", tmp_path / "nowhere")
    assert "has no folder BraTS*; expected folders such as BraTS2021_00000" in message("-i", brats.parent / "results")
    seg = brats / "BraTS2021_00001" / "BraTS2021_00001_seg.nii.gz"
    save(volume(np.full(SIZE[::-1], 3, np.uint8)), seg)
    assert "Case BraTS2021_00001 of the archive has the label(s) [3]; BraTS 2021 has 0, 1, 2 and 4." in message("-i", brats)
    save(volume(np.zeros((5, 6, 6), np.uint8)), seg)
    assert "has (7, 6, 5) voxels of (1.0, 1.5, 2.0) mm, but BraTS2021_00001_seg.nii.gz has (6, 6, 5) of" in message("-i", brats)
    seg.write_bytes(b"no image")
    assert "BraTS2021_00001_seg.nii.gz cannot be read" in message("-i", brats)
    seg.unlink()
    assert "Case BraTS2021_00001 of the archive has no BraTS2021_00001_seg.nii.gz" in message("-i", brats)
    assert not (folders.raw / "Dataset137_BraTS2021" / "dataset.json").exists()


def test_the_folder_of_another_dataset_is_left_alone(folders, brats, capsys, monkeypatch):
    other = folders.raw / "Dataset137_BraTS2021"
    write_json(other / "dataset.json", {"channel_names": {"0": "CT"}, "labels": {"background": 0}, "file_ending": ".nii.gz"})
    before = hash_tree(folders.raw)
    assert "its channel_names are {'0': 'CT'}" in refused(capsys, Dataset137_BraTS2021, "-i", brats)
    assert "id 137 is taken by Dataset137_BraTS2021" in refused(capsys, Dataset137_BraTS2021, "-i", brats, "--flair", "-d", "137")
    assert "from 1 to 999; got 1000" in refused(capsys, Dataset137_BraTS2021, "-i", brats, "-d", "1000")
    save(volume(brats_label(0)), folders.raw / "Dataset138_BraTS2021FLAIR" / "labelsTr" / "mine.nii.gz")
    assert "has mine.nii.gz, which is not in the archive" in refused(capsys, Dataset137_BraTS2021, "-i", brats, "--flair")
    (folders.raw / "Dataset138_BraTS2021FLAIR" / "labelsTr" / "mine.nii.gz").unlink()
    assert {k: v for k, v in hash_tree(folders.raw).items() if "137" in k} == before
    monkeypatch.delenv("nnUNet_raw")
    assert "nnUNet_raw is not set" in refused(capsys, Dataset137_BraTS2021, "-i", brats)


# --- Medical Segmentation Decathlon --------------------------------------------------------------------------------


def make_task(archive, modality, labels, case_ids, test_ids):
    """As the Decathlon packs a task, with the hidden files that its archives contain."""
    channels = len(modality)
    for i, case_id in enumerate([*case_ids, *test_ids]):
        volumes = [volume(random_volume(10 * i + c).astype(np.float32)) for c in range(channels)]
        image = volumes[0] if channels == 1 else sitk.JoinSeries(volumes)
        save(image, archive / ("imagesTr" if case_id in case_ids else "imagesTs") / f"{case_id}.nii.gz")
        if case_id in case_ids:
            save(volume(random_volume(i, len(labels)).astype(np.uint8)), archive / "labelsTr" / f"{case_id}.nii.gz")
            (archive / "imagesTr" / f"._{case_id}.nii.gz").write_bytes(b"Mac")
    write_json(archive / "dataset.json", {
        "name": archive.name[7:], "description": "A task", "reference": "Somewhere", "licence": "CC-BY-SA 4.0",
        "modality": modality, "labels": labels, "numTraining": len(case_ids), "numTest": len(test_ids),
        "training": [{"image": f"./imagesTr/{c}.nii.gz", "label": f"./labelsTr/{c}.nii.gz"} for c in case_ids],
        "test": [f"./imagesTs/{c}.nii.gz" for c in test_ids],
    })
    return archive


@pytest.fixture
def brain_tumour(tmp_path):
    labels = {"0": "background", "1": "edema", "2": "non-enhancing tumor", "3": "enhancing tumour"}
    modality = {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"}
    return make_task(tmp_path / "Task01_BrainTumour", modality, labels, ["BRATS_001", "BRATS_010"], ["BRATS_485"])


def test_the_decathlons_four_dimensional_images_are_split_into_channels(folders, brain_tumour):
    convert_MSD_dataset.main(["-i", str(brain_tumour)])
    dataset = opened(folders.raw / "Dataset001_BrainTumour")
    assert dataset.channel_names == ["FLAIR", "T1w", "t1gd", "T2w"]
    assert dataset.dataset_json["labels"] == {"background": 0, "edema": 1, "non-enhancing tumor": 2, "enhancing tumour": 3}
    assert dataset.dataset_json["licence"] == "CC-BY-SA 4.0"
    assert dataset.dataset_json["numTraining"] == 2
    assert list(dataset.case_files) == ["BRATS_001", "BRATS_010"]
    for i, case_id in enumerate(dataset.case_files):
        case = read_case(dataset, case_id)
        np.testing.assert_array_equal(case.image, [random_volume(10 * i + c) for c in range(4)])
        np.testing.assert_array_equal(case.label, random_volume(i, 4))
        assert_geometry(case)
    tests = sorted(p.name for p in (dataset.raw / "imagesTs").iterdir())
    assert tests == [f"BRATS_485_{c:04d}.nii.gz" for c in range(4)]
    image, _ = SimpleITKIO().read_images([str(dataset.raw / "imagesTs" / tests[3])])
    np.testing.assert_array_equal(image[0], random_volume(23))


def test_the_decathlons_hippocampus_keeps_its_files(folders, tmp_path):
    labels = {"0": "background", "1": "Anterior", "2": "Posterior"}
    train, test = ["hippocampus_367", "hippocampus_003"], ["hippocampus_002"]
    archive = make_task(tmp_path / "Task04_Hippocampus", {"0": "MRI"}, labels, train, test)
    convert_MSD_dataset.main(["-i", str(archive), "-d", "44"])
    dataset = opened(folders.raw / "Dataset044_Hippocampus")
    case = read_case(dataset, "hippocampus_367")
    np.testing.assert_array_equal(case.image, random_volume(0)[None])
    np.testing.assert_array_equal(case.label, random_volume(0, 3))
    assert_geometry(case)
    pairs = {"imagesTr/hippocampus_003_0000": "imagesTr/hippocampus_003", "labelsTr/hippocampus_003": "labelsTr/hippocampus_003",
             "imagesTs/hippocampus_002_0000": "imagesTs/hippocampus_002"}
    for ours, theirs in pairs.items():
        assert (dataset.raw / f"{ours}.nii.gz").read_bytes() == (archive / f"{theirs}.nii.gz").read_bytes()


def test_a_bad_task_is_refused_with_one_sentence(folders, brain_tumour, tmp_path, capsys):
    def message(*arguments):
        return refused(capsys, convert_MSD_dataset, *arguments)

    assert "is no task of the Decathlon: expected a folder such as Task01_BrainTumour with" in message("-i", tmp_path)
    save(volume(random_volume(0)), brain_tumour / "imagesTr" / "BRATS_010.nii.gz")
    assert "image of size (7, 6, 5); expected four dimensions, 4 in the last" in message("-i", brain_tumour)
    (brain_tumour / "labelsTr" / "BRATS_010.nii.gz").unlink()
    assert "Case BRATS_010 of the archive has no BRATS_010.nii.gz in" in message("-i", brain_tumour)
    content = read_json(brain_tumour / "dataset.json")
    write_json(brain_tumour / "dataset.json", {k: v for k, v in content.items() if k != "modality"})
    assert "has no modality" in message("-i", brain_tumour)
    other = {"labels": ["background", "edema"], "modality": {"T1": 0}, "training": [{"image": "./imagesTr/BRATS_001.nii.gz"}]}
    for key, value in [*other.items(), ("training", [])]:
        write_json(brain_tumour / "dataset.json", {**content, key: value})
        assert f"has no {key} as the Decathlon writes them" in message("-i", brain_tumour)
    (brain_tumour / "dataset.json").write_text("{")
    assert "is not valid JSON" in message("-i", brain_tumour)


# --- phantom -------------------------------------------------------------------------------------------------------


def write_phantom(*options):
    Dataset900_Phantom.main([*map(str, options)])


def test_the_phantom_leaves_other_datasets_alone(folders, capsys):
    def message(*arguments):
        before = hash_tree(folders.raw)
        said = refused(capsys, Dataset900_Phantom, *arguments)
        assert hash_tree(folders.raw) == before
        return said

    write_phantom("-n", 2, "-n_test", 1)
    folder, whole = folders.raw / "Dataset900_Phantom", hash_tree(folders.raw)
    for others in (("-n", 1), ("-n", 2, "-n_test", 1, "-seed", 3), ("-n", 3, "-n_test", 0)):
        assert f"{folder} holds other cases than the" in message(*others)
    write_phantom("-n", 2, "-n_test", 1)  # there already
    (folder / "dataset.json").unlink()
    (folder / "labelsTr" / "phantom_001.nii.gz").unlink()
    write_phantom("-n", 2, "-n_test", 1)  # as after an interruption
    assert hash_tree(folders.raw) == whole
    (folder / "dataset.json").unlink()
    (folder / "imagesTr" / "phantom_001_0000.nii.gz").rename(folder / "imagesTr" / "mine_0000.nii.gz")
    assert f"{folder} holds other cases than the" in message("-n", 2, "-n_test", 1)
    (folders.raw / "Dataset004_Mine").mkdir()
    assert "The dataset id 4 is taken by Dataset004_Mine" in message("-d", 4, "-n", 1)
    assert "-d takes a dataset id from 1 to 999; got 5000" in message("-d", 5000, "-n", 1)


@pytest.mark.parametrize("options", [("-d", -4), ("-n", 0), ("-n", -3), ("-n_test", -1), ("-seed", -1)])
def test_numbers_that_make_no_phantom_are_refused(folders, capsys, options):
    with pytest.raises(SystemExit) as e:
        write_phantom(*options)
    assert e.value.code == 2
    assert "expected a whole number from" in capsys.readouterr().err
    assert list(folders.raw.iterdir()) == []


# --- kaggle_3m -----------------------------------------------------------------------------------------------------

PATIENT, NUM_SLICES = "TCGA_CS_4941_19960909", 12


@pytest.fixture
def kaggle(tmp_path):
    """Slice n has the values n, 100 + n and 200 + n; with twelve slices the order of names is not that of numbers."""
    archive = tmp_path / "kaggle_3m"
    for patient, count in ((PATIENT, NUM_SLICES), ("TCGA_HT_A61B_19991127", 3)):
        (archive / patient).mkdir(parents=True)
        for n in range(1, count + 1):
            image = np.zeros((9, 8, 3), np.uint8) + np.array([n, 100 + n, 200 + n], np.uint8)
            image[0, 1] = 0
            mask = np.zeros((9, 8), np.uint8)
            mask[2, n % 8] = 255
            tifffile.imwrite(archive / patient / f"{patient}_{n}.tif", image)
            tifffile.imwrite(archive / patient / f"{patient}_{n}_mask.tif", mask)
    (archive / "data.csv").write_text("Patient\n")
    (archive / "README.md").write_text("LGG\n")
    return archive


FORMS = [([], "Dataset505_LGG", (0, 100, 200)), (["--flair"], "Dataset506_LGGFLAIR", (100,))]


@pytest.mark.parametrize(("flag", "name", "first"), FORMS)
def test_slices_are_stacked_in_the_order_of_their_numbers(folders, kaggle, flag, name, first):
    Dataset505_LGG.main(["-i", str(kaggle), "-spacing", "5", "0.9", "0.8", *flag])
    dataset = opened(folders.raw / name)
    assert dataset.channel_names == (["FLAIR"] if flag else ["pre-contrast", "FLAIR", "post-contrast"])
    assert ("copies of FLAIR" in dataset.dataset_json["description"]) == (not flag)
    assert "CC BY-NC-SA 4.0" in dataset.dataset_json["licence"]
    assert list(dataset.case_files) == [PATIENT, "TCGA_HT_A61B_19991127"]
    case = read_case(dataset, PATIENT)
    assert case.image.shape == (len(first), NUM_SLICES, 9, 8)
    for channel, offset in zip(case.image, first, strict=True):
        np.testing.assert_array_equal(channel[:, 5, 5], offset + np.arange(1, NUM_SLICES + 1))
        assert not channel[:, 0, 1].any()
    expected = np.zeros((NUM_SLICES, 9, 8))
    for z in range(NUM_SLICES):
        expected[z, 2, (z + 1) % 8] = 1
    np.testing.assert_array_equal(case.label, expected)
    np.testing.assert_allclose(case.geometry.spacing_mm, (5, 0.9, 0.8), rtol=1e-6)


def test_another_spacing_is_not_mixed_into_a_dataset_that_is_there(folders, kaggle, capsys):
    Dataset505_LGG.main(["-i", str(kaggle)])
    (folders.raw / "Dataset505_LGG" / "dataset.json").unlink()  # interrupted
    before = hash_tree(folders.raw)
    message = refused(capsys, Dataset505_LGG, "-i", str(kaggle), "-spacing", "5", "1", "1")
    assert f"{PATIENT}_0000.nii.gz has a spacing of 1 1 1 mm, not 5 1 1" in message
    assert hash_tree(folders.raw) == before
    Dataset505_LGG.main(["-i", str(kaggle)])


def test_a_bad_kaggle_archive_is_refused_with_one_sentence(folders, kaggle, tmp_path, capsys):
    def message(*arguments):
        return refused(capsys, Dataset505_LGG, *arguments)

    assert "has no folder TCGA_*; expected folders such as TCGA_CS_4941_19960909 with" in message("-i", tmp_path)
    image, mask = kaggle / PATIENT / f"{PATIENT}_7.tif", kaggle / PATIENT / f"{PATIENT}_7_mask.tif"
    content = image.read_bytes()
    tifffile.imwrite(image, np.zeros((9, 8), np.uint8))
    assert f"{PATIENT}_7.tif has the shape (9, 8); expected a colour image of three channels" in message("-i", kaggle)
    image.write_bytes(content[:20])
    assert f"{PATIENT}_7.tif cannot be read" in message("-i", kaggle)
    tifffile.imwrite(image, np.zeros((5, 5, 3), np.uint8))
    assert f"{PATIENT}: slices differ in size" in message("-i", kaggle)
    mask.unlink()
    assert "lacks the mask of slice 7 of 12" in message("-i", kaggle)
    image.unlink()
    assert "lacks the image of slice 7 of 12" in message("-i", kaggle)
    for file in (kaggle / PATIENT).iterdir():
        file.unlink()
    assert f"has no slices {PATIENT}_N.tif" in message("-i", kaggle)


@pytest.mark.parametrize("name", ["Dataset137_BraTS2021", "convert_MSD_dataset", "Dataset505_LGG"])
def test_help_names_the_expected_structure(name, capsys, monkeypatch):
    module = importlib.import_module(f"nnunet_sbldm.dataset_conversion.{name}")
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--help"])
    with pytest.raises(SystemExit) as e:
        module.main()
    assert e.value.code == 0
    assert module.STRUCTURE.split()[3] in capsys.readouterr().out
