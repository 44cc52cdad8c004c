"""Datasets of other kinds: CT in Hounsfield units, a handful of slices, regions, an ignore label."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from nnunet_fixtures import NnunetFolders
from phantom_fixtures import SHORT, SMALL_PHANTOM, make_planned_phantom

from nnunet_sbldm.common.files import read_json, write_json
from nnunet_sbldm.data.boxes import to_grid
from nnunet_sbldm.data.cases import load_arrays, load_preprocessed, preprocess_case, read_case
from nnunet_sbldm.data.dataset import open_dataset
from nnunet_sbldm.data.labels import IGNORED
from nnunet_sbldm.data.splits import fold_cases
from nnunet_sbldm.evaluation.evaluate import evaluate
from nnunet_sbldm.evaluation.settings import EvaluationSettings
from nnunet_sbldm.generator.checkpoint import load_model
from nnunet_sbldm.generator.sampling import Request, draw
from nnunet_sbldm.ldm.config import SamplerConfig
from nnunet_sbldm.training.preparation import prepare
from nnunet_sbldm.training.request import TrainingRequest
from nnunet_sbldm.training.train import train_generator
from nnunet_sbldm.types import OUTSIDE

NUM_CASES = 6
SAMPLER = SamplerConfig(num_steps=2)
AIR_HU = -1000.0


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("kinds")


def use(folders: NnunetFolders, monkeypatch):
    for name, value in folders.environment().items():
        monkeypatch.setenv(name, value)
    return open_dataset("900")


def trained(dataset):
    request = TrainingRequest(dataset, 0, SHORT, fold_cases(dataset, 0)[0])
    return load_model(train_generator(request, "cpu"), torch.device("cpu"))


def preprocessed(dataset, case, folder):
    preprocess_case(dataset, case, folder / case.case_id)
    return load_arrays(folder, case.case_id)


# --- CT ------------------------------------------------------------------------------------------------------------


def to_hounsfield_units(raw):
    """Turn the first channel into a CT: air of -1000 around a head whose tumours lie around 0."""
    import SimpleITK as sitk

    for file in (raw / "imagesTr").glob("*_0000.nii.gz"):
        image = sitk.ReadImage(str(file))
        values = sitk.GetArrayFromImage(image)
        hounsfield = sitk.GetImageFromArray(np.where(values == 0, AIR_HU, 0.5 * values - 450).astype(np.float32))
        hounsfield.CopyInformation(image)
        sitk.WriteImage(hounsfield, str(file))
    content = read_json(raw / "dataset.json")
    write_json(raw / "dataset.json", {**content, "channel_names": {"0": "CT", "1": "T1"}})


@pytest.fixture(scope="module")
def ct_folders(home):
    (home / "ct").mkdir()
    return make_planned_phantom(home / "ct", num_cases=NUM_CASES, change=to_hounsfield_units)


@pytest.fixture
def ct(ct_folders, monkeypatch):
    return use(ct_folders, monkeypatch)


def test_a_ct_passes_through_grid_and_hounsfield_units_to_itself(ct, tmp_path):
    assert ct.config.normalization_schemes == ["CTNormalization", "ZScoreNormalization"]
    plan, arrays, _ = prepare(TrainingRequest(ct, 0, SHORT, fold_cases(ct, 0)[0]), tmp_path / "arrays")
    case_id = fold_cases(ct, 0)[0][0]
    image, label = load_preprocessed(ct, case_id)
    np.testing.assert_allclose(plan.intensity.normalised(arrays.images[0].astype(np.float32)).max(), image.max(), rtol=0.01)
    scaled, classes = plan.to_network(image, label)
    copy = plan.from_network("copy", scaled, plan.encoding.decode(classes), classes != 0)
    original = read_case(ct, case_id)
    bounds = ct.plans.foreground_intensity_properties_per_channel["0"]
    clipped = np.clip(original.image[0], bounds["percentile_00_5"], bounds["percentile_99_5"])
    np.testing.assert_allclose(copy.image[0], clipped, atol=0.05)  # nnU-Net clips a CT, nothing else is lost
    again, label_again = preprocessed(ct, copy, tmp_path)
    np.testing.assert_array_equal(label_again, label)
    np.testing.assert_allclose(again[0], image[0], atol=1e-3)


def test_a_synthetic_ct_is_in_hounsfield_units_and_normalised_to_what_was_generated(ct, tmp_path):
    generator = trained(ct)
    (drawn,) = draw(generator, [Request("s", 0, {})], SAMPLER)
    plan, case = generator.plan, drawn.case(generator)
    assert plan.grid.outside_is_box
    assert case.image[0].min() < 0
    bounds = ct.plans.foreground_intensity_properties_per_channel["0"]
    low, high = ((bounds[f"percentile_{p}"] - bounds["mean"]) / bounds["std"] for p in ("00_5", "99_5"))
    image, label = preprocessed(ct, case, tmp_path)
    assert (label != OUTSIDE).all()
    generated = plan.intensity.normalised(drawn.image)[(0, *np.nonzero(drawn.anatomy))]
    np.testing.assert_allclose(image[0].ravel(), np.clip(generated, low, high), atol=1e-3)


# --- few slices, regions, ignore label -----------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[3, 5])
def thin_folders(request, home):
    folder = home / f"slices_{request.param}"
    folder.mkdir()
    ignore = {3: 0, 5: 1}[request.param]
    phantom = replace(
        SMALL_PHANTOM,
        shape=(request.param, 32, 28),
        spacing_mm=(60 / request.param, 4.0, 4.0),
        num_labels=2,
        regions=True,
        ignore_slices=ignore,
    )
    return make_planned_phantom(folder, phantom, NUM_CASES)


def test_a_handful_of_slices_with_regions_and_ignored_ones_goes_all_the_way(thin_folders, monkeypatch, tmp_path):
    dataset = use(thin_folders, monkeypatch)
    generator = trained(dataset)
    plan = generator.plan
    ignore = plan.encoding.ignore_label
    assert ignore not in plan.encoding.values
    assert [len(t.label_values) for t in plan.targets] == [2, 1]
    requests = [Request(f"s{i}", i, {}) for i in range(2)]
    for drawn in draw(generator, requests, SAMPLER):
        case = drawn.case(generator)
        image, label = preprocessed(dataset, case, tmp_path)
        assert np.isfinite(image).all()
        assert set(np.unique(label)) <= {OUTSIDE, 0, 1, 2}
        assert image.shape[1:] == label.shape
    result = evaluate(generator, dataset, EvaluationSettings(2, SAMPLER, use_gate=False), tmp_path / "out")
    assert result["num_cases"]["synthetic"] == 2


def test_ignored_voxels_are_kept_apart_from_background_in_training(thin_folders, monkeypatch, tmp_path):
    dataset = use(thin_folders, monkeypatch)
    train = fold_cases(dataset, 0)[0]
    plan, arrays, _ = prepare(TrainingRequest(dataset, 0, SHORT, train), tmp_path / "arrays")
    labels = [to_grid(load_preprocessed(dataset, c)[1], plan.grid.shape, OUTSIDE) for c in train]
    ignored = np.stack(labels) == plan.encoding.ignore_label
    np.testing.assert_array_equal(arrays.classes[: len(train)] == IGNORED, ignored)
    assert ignored.any() == (plan.encoding.ignore_label is not None)
