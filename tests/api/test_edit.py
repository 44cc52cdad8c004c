"""Edits from Python: hosts of a dataset as the command takes them, and hosts given by hand as arrays, files or a case."""

from dataclasses import replace

import numpy as np
import pytest

from nnunet_sbldm import SBLDM, Case, UserError
from nnunet_sbldm.cli.sample import sample_entry
from nnunet_sbldm.common.files import read_json
from nnunet_sbldm.data.cases import load_preprocessed, read_case
from nnunet_sbldm.data.splits import fold_cases

QUICK = {"steps": 2}


@pytest.fixture
def model(generator):
    return SBLDM.load(generator.folder, device="cpu")


@pytest.fixture
def case(phantom_dataset):
    """A training case with a lesion."""
    train, _ = fold_cases(phantom_dataset, 0)
    return next(c for c in (read_case(phantom_dataset, name) for name in train) if c.label.any())


def assert_only_the_region_differs(sample):
    assert 0 < sample.region.sum() < sample.region.size
    np.testing.assert_array_equal(sample.image[:, ~sample.region], sample.host.image[:, ~sample.region])
    np.testing.assert_array_equal(sample.label[~sample.region], sample.host.label[~sample.region])
    assert (sample.image != sample.host.image).any()


def test_edits_of_a_dataset_are_those_of_the_command(model, tmp_path):
    options = ["-n", "1", "-seed", "3", "-steps", "2", "-mode", "edit", "-kind", "replace", "-device", "cpu"]
    sample_entry(["-m", str(model.folder), "-o", str(tmp_path / "command"), "--no_gate", *options])
    (sample,) = model.edit(1, dataset=900, kinds=("replace",), seed=3, **QUICK)
    assert_only_the_region_differs(sample)
    sample.save(tmp_path / "python")
    records = [read_json(tmp_path / kind / f"{sample.case_id}.json") for kind in ("command", "python")]
    assert records[0] == records[1]
    assert sample.host.case_id == sample.record.edit["host"]
    assert [r.text for r in sample.verdict.reasons] == sample.record.gate["reasons"]
    assert repr(sample).startswith(f"<Edit (replace in {sample.host.case_id}) {sample.case_id}: ")
    assert sample._repr_png_()


def test_a_host_given_by_hand_is_the_same_as_array_files_and_case(model, case, phantom_dataset):
    files = phantom_dataset.case_files[case.case_id]
    asked = {"kinds": ("remove",), **QUICK}
    (by_case,) = model.edit(image=case, **asked)
    (by_files,) = model.edit(image=files["images"], mask=files["label"], **asked)
    (by_array,) = model.edit(image=case.image, mask=case.label, spacing_mm=case.geometry.spacing_mm, **asked)
    assert_only_the_region_differs(by_case)
    np.testing.assert_array_equal(by_case.host.image, case.image)
    for other in (by_files, by_array):
        np.testing.assert_array_equal(other.image, by_case.image)
        np.testing.assert_array_equal(other.label, by_case.label)
    assert by_files.case.geometry == case.geometry
    assert by_case.record.edit["dataset"] == "by_hand"


def test_a_host_given_by_hand_is_as_bright_as_nnunet_would_have_it(model, case, phantom_dataset):
    from nnunet_sbldm.api.hosts import image_as_host

    hosts = image_as_host(model.trained, case, None, None, None)
    image, label = hosts.planner.real_arrays("by_hand")
    theirs, _ = load_preprocessed(phantom_dataset, case.case_id)
    assert image.shape == theirs.shape
    inside = label >= 0
    for own, other in zip(image[:, inside], theirs[:, inside], strict=True):
        assert np.corrcoef(own, other)[0, 1] > 0.999
        assert np.abs(own - other).max() < 0.3 * np.ptp(other)


def test_a_healthy_host_gets_a_lesion_and_stays_as_it_is_elsewhere(model, case):
    (sample,) = model.edit(image=case.image, spacing_mm=case.geometry.spacing_mm, volume_ml=9, **QUICK)
    assert sample.record.edit["kind"] == "add"
    assert not sample.host.label.any()
    assert_only_the_region_differs(sample)


def test_a_case_of_another_spacing_is_edited_at_its_own(model, case):
    fine = Case(case.case_id, case.image.repeat(2, axis=3), case.label.repeat(2, axis=2),
                replace(case.geometry, spacing_mm=(*case.geometry.spacing_mm[:2], case.geometry.spacing_mm[2] / 2)))
    (sample,) = model.edit(image=fine, kinds=("remove",), **QUICK)
    assert sample.image.shape == fine.image.shape
    assert_only_the_region_differs(sample)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda c: {"image": c.image[:1], "spacing_mm": (6, 4, 4)}, r"has 1 channel\(s\); the SBLDM was trained on FLAIR, T1"),
        (lambda c: {"image": c.image}, "needs spacing_mm, its voxel size along"),
        (lambda c: {"image": c.image, "spacing_mm": (6, 4, 4), "mask": 7 * c.label}, r"has the label\(s\) \[7\]"),
        (lambda c: {"image": c.image, "spacing_mm": (6, 4, 4), "mask": 0.6 * c.label}, "values that are no whole numbers"),
        (lambda c: {"image": c.image, "spacing_mm": (6, 4, 4), "mask": c.label[1:]}, "must share their geometry"),
        (lambda c: {"image": np.full_like(c.image, np.nan), "spacing_mm": (6, 4, 4)}, "NaN or infinite"),
        (lambda c: {"image": 0 * c.image, "spacing_mm": (6, 4, 4)}, "The image is empty"),
        (lambda c: {"image": np.ones_like(c.image), "spacing_mm": (6, 4, 4)}, "Channel FLAIR of the image is constant"),
        (lambda c: {"image": "nowhere.nii.gz"}, "nowhere.nii.gz is not a file"),
        (lambda c: {"image": "nowhere.nii.gz", "spacing_mm": (1, 1, 1)}, "leave out spacing_mm"),
        (lambda c: {"image": c, "mask": c.label}, "leave out mask and spacing_mm"),
        (lambda c: {"image": c, "dataset": 900}, "leave one of them out"),
        (lambda c: {"mask": c.label}, "mask and spacing_mm belong to image"),
        (lambda c: {"image": replace(c, geometry=replace(c.geometry, direction=(0, 1, 0, 1, 0, 0, 0, 0, 1)))}, "reorient it"),
        (lambda c: {"image": c, "kinds": ("paint",)}, "-kind takes replace, add, remove; got paint"),
    ],
)
def test_what_cannot_be_a_host_is_refused_in_one_sentence(model, case, change, sentence):
    with pytest.raises(UserError, match=sentence):
        model.edit(**{**QUICK, **change(case)})
