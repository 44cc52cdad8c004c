"""Splits: as nnU-Net deals them, over what it has preprocessed; nothing is written, nothing is dropped without a word."""

import shutil

import pytest
from nnunet_fixtures import NAME

from nnunet_sbldm.common.files import read_json, write_json
from nnunet_sbldm.data.dataset import open_dataset
from nnunet_sbldm.data.splits import dealt, fold_cases, splits_of
from nnunet_sbldm.types import UserError


@pytest.fixture
def own(folders, tmp_path, monkeypatch):
    """The small dataset with a private raw folder, without splits."""
    shutil.copytree(folders.raw, tmp_path / "raw")
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    (folders.preprocessed / NAME / "splits_final.json").unlink(missing_ok=True)
    return tmp_path / "raw" / NAME


def tiny():
    return open_dataset("901", configuration="3d_tiny")


def test_without_a_file_the_splits_are_those_that_nnunet_will_deal_and_nothing_is_written(own, folders):
    before = splits_of(tiny())
    assert len(before) == 5
    assert not (folders.preprocessed / NAME / "splits_final.json").exists()


@pytest.mark.parametrize("name", ["._case_1", "case_99"], ids=["left by macOS", "not preprocessed"])
def test_raw_files_that_nnunet_has_not_preprocessed_are_not_dealt(own, name):
    before = dealt(tiny())
    shutil.copy(own / "imagesTr" / "case_1_0000.nii.gz", own / "imagesTr" / f"{name}_0000.nii.gz")
    shutil.copy(own / "labelsTr" / "case_1.nii.gz", own / "labelsTr" / f"{name}.nii.gz")
    assert dealt(tiny()) == before
    assert name not in fold_cases(tiny(), "all")[0]


@pytest.mark.parametrize("wrong", ["case_1.nii.gz", "case-1", "case_1_0000"])
def test_ids_that_no_case_has_are_named(own, folders, wrong):
    file = folders.preprocessed / NAME / "splits_final.json"
    splits = splits_of(tiny())
    splits[3]["train"][0] = wrong
    write_json(file, splits)
    with pytest.raises(UserError, match=rf"lists 1 case\(s\) that {NAME} does not have \({wrong}\)"):
        fold_cases(tiny(), 0)
    assert read_json(file) == splits
