"""Label values: whole numbers, as nnU-Net takes them."""

import json

import numpy as np
import pytest
import SimpleITK as sitk
from nnunet_fixtures import NAME

from nnunet_sbldm.data.cases import read_case
from nnunet_sbldm.data.dataset import NnunetDataset
from nnunet_sbldm.data.labels import values_of
from nnunet_sbldm.types import UserError


@pytest.mark.parametrize(("entry", "values"), [(3, (3,)), ("10", (10,)), ([1, 2], (1, 2)), (["1", "12"], (1, 12))])
def test_an_entry_of_labels_is_read_as_nnunet_reads_it(entry, values):
    assert values_of(entry) == values


@pytest.mark.parametrize(("value", "taken_for"), [(0.99999, 0), (1.5, 1)])
def test_a_mask_that_nnunet_would_misread_is_refused(dataset, tmp_path, value, taken_for):
    with pytest.raises(UserError, match=rf"case_1 of {NAME} has values .* \({value:g}\), which nnU-Net takes for {taken_for}"):
        read_case(with_label_value(dataset, tmp_path, value), "case_1")


def test_a_rounding_error_above_a_whole_number_is_none_to_nnunet(dataset, tmp_path):
    expected = read_case(dataset, "case_1").label
    np.testing.assert_array_equal(read_case(with_label_value(dataset, tmp_path, 1.00001), "case_1").label, expected)


def with_label_value(dataset, folder, value):
    """The dataset with case_1's foreground stored as a floating-point number."""
    files = dataset.case_files["case_1"]
    image = sitk.ReadImage(files["label"])
    array = sitk.GetArrayFromImage(image).astype(np.float32)
    array[array > 0] = value
    floating = sitk.GetImageFromArray(array)
    floating.CopyInformation(image)
    sitk.WriteImage(floating, str(folder / "case_1.nii.gz"))
    listed = {"case_1": {"images": files["images"], "label": str(folder / "case_1.nii.gz")}}
    (folder / "raw" / NAME).mkdir(parents=True)
    raw = folder / "raw" / NAME
    (raw / "dataset.json").write_text(json.dumps({**dataset.dataset_json, "dataset": listed}))
    return NnunetDataset(NAME, raw, dataset.preprocessed, {**dataset.dataset_json, "dataset": listed}, configuration="3d_tiny")
