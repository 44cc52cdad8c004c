import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from nnunet_sbldm.common.files import read_json
from nnunet_sbldm.data.conditions import FEATURES, Target, measure
from nnunet_sbldm.data.phantom import CORE, TUMOUR, PhantomConfig, dataset_json, make_phantom_case, write_phantom_dataset
from nnunet_sbldm.types import OUTSIDE, UserError

CONFIG = PhantomConfig()
WHOLE = Target("tumour", (TUMOUR, CORE))


def measured(case, target=WHOLE):
    label = np.where(case.image[0] == 0, OUTSIDE, case.label)
    return measure(label, [target], case.geometry.spacing_mm)


@pytest.mark.parametrize("index", range(6))
def test_volume_is_the_asked_one_to_half_a_voxel(index):
    case, truth = make_phantom_case(CONFIG, index)
    assert abs(measured(case)[1] - truth.volume_ml) <= CONFIG.voxel_ml / 2


@pytest.mark.parametrize("index", range(6))
def test_centroid_is_the_asked_one_to_a_voxel(index):
    case, truth = make_phantom_case(CONFIG, index)
    inside = np.argwhere(case.image[0] > 0)
    voxel = 1 / (inside.max(axis=0) + 1 - inside.min(axis=0))
    assert (np.abs(measured(case)[2:5] - truth.centroid) <= voxel).all()


@pytest.mark.parametrize("index", range(6))
def test_a_head_has_one_tumour_of_one_piece(index):
    case, _ = make_phantom_case(CONFIG, index)
    presence, num_components = measured(case)[[FEATURES.index("presence"), FEATURES.index("num_components")]]
    assert (presence, num_components) == (1, 1)


def test_intensities_are_exactly_zero_outside_the_head_and_positive_inside():
    case, _ = make_phantom_case(CONFIG, 0)
    flair, t1 = case.image
    np.testing.assert_array_equal(flair == 0, t1 == 0)
    assert case.image.min() == 0
    assert case.image[case.image != 0].min() >= 1
    for edge in (flair[[0, -1]], flair[:, [0, -1]], flair[:, :, [0, -1]]):
        assert not edge.any()
    assert flair[case.label > 0].all()


def test_tumour_has_the_contrast_of_the_truth():
    config = replace(CONFIG, bias=0.0, volume_ml=(20.0, 40.0))
    case, truth = make_phantom_case(config, 1)
    white = truth.noise_std / config.noise
    centre = tuple(np.argwhere(case.label).mean(axis=0).round().astype(int))
    around = tuple(slice(c - 1, c + 2) for c in centre)
    contrast = case.image[(slice(None), *around)].mean(axis=(1, 2, 3)) / white
    np.testing.assert_allclose(contrast, truth.contrast, atol=0.05)


def test_a_case_depends_on_seed_and_index_alone():
    first, again = make_phantom_case(CONFIG, 3), make_phantom_case(CONFIG, 3)
    np.testing.assert_array_equal(first[0].image, again[0].image)
    np.testing.assert_array_equal(first[0].label, again[0].label)
    assert first[1] == again[1]
    for other in (make_phantom_case(CONFIG, 4), make_phantom_case(replace(CONFIG, seed=1), 3)):
        assert (first[0].label != other[0].label).any()


def test_core_lies_in_the_tumour_and_has_its_share():
    config = replace(CONFIG, num_labels=2, volume_ml=(20.0, 40.0))
    case, truth = make_phantom_case(config, 0)
    assert set(np.unique(case.label)) == {0, TUMOUR, CORE}
    assert abs(measured(case)[1] - truth.volume_ml) <= config.voxel_ml / 2
    assert abs(measured(case, Target("core", (CORE,)))[1] - truth.core_volume_ml) <= config.voxel_ml


def test_a_healthy_head_has_no_tumour():
    case, truth = make_phantom_case(replace(CONFIG, healthy_probability=1.0), 0)
    assert not case.label.any()
    assert (truth.volume_ml, truth.centroid) == (0.0, None)


def test_regions_need_two_labels():
    with pytest.raises(UserError, match="regions need 2"):
        PhantomConfig(regions=True)


@pytest.mark.parametrize(("options", "has_regions", "ignore_label"), [
    ({}, False, None), ({"num_labels": 2}, False, None), ({"num_labels": 2, "regions": True}, True, None),
    ({"ignore_slices": 4}, False, 2), ({"num_labels": 2, "regions": True, "ignore_slices": 4}, True, 3),
])
def test_nnunet_understands_the_labels(options, has_regions, ignore_label):
    config = replace(CONFIG, **options)
    content = dataset_json(config, 5)
    manager = LabelManager(content["labels"], content.get("regions_class_order"))
    assert (manager.has_regions, manager.ignore_label) == (has_regions, ignore_label)
    expected = {0, *manager.all_labels} | ({ignore_label} if ignore_label else set())
    assert set(np.unique(make_phantom_case(config, 0)[0].label)) == expected


def test_nnunet_reads_back_what_was_written(tmp_path):
    folder = write_phantom_dataset(tmp_path, 900, 2, 1)
    assert folder == tmp_path / "Dataset900_Phantom"
    assert read_json(folder / "dataset.json")["numTraining"] == 2
    case, truth = make_phantom_case(CONFIG, 2)
    image, properties = SimpleITKIO().read_images([str(folder / f"imagesTs/phantom_002_000{c}.nii.gz") for c in range(2)])
    label, _ = SimpleITKIO().read_seg(str(folder / "labelsTs/phantom_002.nii.gz"))
    np.testing.assert_array_equal(image, case.image)
    np.testing.assert_array_equal(label[0], case.label)
    np.testing.assert_allclose(properties["spacing"], CONFIG.spacing_mm, rtol=1e-6)
    np.testing.assert_allclose(properties["sitk_stuff"]["origin"], case.geometry.origin_mm, rtol=1e-6)
    assert read_json(folder / "phantom_truth.json")["cases"][2]["volume_ml"] == truth.volume_ml


def test_command_writes_into_nnunet_raw_and_asks_for_the_variable(tmp_path):
    command = [sys.executable, "-m", "nnunet_sbldm.dataset_conversion.Dataset900_Phantom", "-n", "1", "-n_test", "0"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("nnUNet_")}
    refused = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "nnUNet_raw is not set" in refused.stderr
    subprocess.run(command, env=environment | {"nnUNet_raw": str(tmp_path)}, check=True, capture_output=True)
    assert sorted(p.name for p in (tmp_path / "Dataset900_Phantom/imagesTr").iterdir()) == [
        "phantom_000_0000.nii.gz", "phantom_000_0001.nii.gz"]
