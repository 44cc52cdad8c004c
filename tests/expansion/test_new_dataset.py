"""A new dataset: real files where they are, synthetic ones in allowed folds, ready for a stock trainer."""

import os
import shutil

import pytest
from expansion_commands import (
    FAST,
    add_tiny_configuration,
    expand,
    refused,
)
from nnunet_fixtures import PLAN, TRAIN, run_nnunet
from phantom_fixtures import hash_tree

from nnunet_sbldm.common.files import read_json, write_json
from nnunet_sbldm.data.cases import read_case
from nnunet_sbldm.data.dataset import open_dataset
from nnunet_sbldm.data.splits import fold_cases, splits_of
from nnunet_sbldm.dataset_conversion.expand_dataset import expand_entry
from nnunet_sbldm.generator.records import SyntheticIndex


def test_a_new_dataset_lists_real_files_where_they_are_and_trains_with_a_stock_trainer(phantom, phantom_dataset, generator):
    expand("-o", "904", "-n", "2")
    new = open_dataset("904")
    synthetic = ["sbldm_f0_0000", "sbldm_f0_0001"]
    assert new.name == "Dataset904_PhantomSBLDM"
    assert new.dataset_json["numTraining"] == 12 == len(new.case_files)
    assert {k: new.dataset_json[k] for k in ("labels", "channel_names", "file_ending")} == {
        k: phantom_dataset.dataset_json[k] for k in ("labels", "channel_names", "file_ending")
    }
    assert new.real_case_ids == phantom_dataset.real_case_ids
    assert [os.path.realpath(f) for f in new.case_files["phantom_000"]["images"]] == [
        os.path.realpath(f) for f in phantom_dataset.case_files["phantom_000"]["images"]
    ]
    for fold, (old_split, split) in enumerate(
        zip(splits_of(phantom_dataset), read_json(new.preprocessed / "splits_final.json"), strict=True)
    ):
        assert split["train"] == old_split["train"] + (synthetic if fold == 0 else [])
        assert split["val"] == old_split["val"]
    assert new.plans_hash() == phantom_dataset.plans_hash()
    assert SyntheticIndex.load(new.preprocessed / "sbldm").seen_by() == dict.fromkeys(synthetic, generator.seen)
    assert read_case(new, synthetic[0]).image.shape[0] == 2

    plans = read_json(new.preprocessed / "nnUNetPlans.json")
    add_tiny_configuration(plans, sbldm={"num_epochs": 1, "num_iterations_per_epoch": 2, "num_val_iterations_per_epoch": 1})
    write_json(new.preprocessed / "nnUNetPlans.json", plans)
    done = run_nnunet(PLAN, "-d", 904, "--verify_dataset_integrity", "-np", 1, "-npfp", 1, "--no_pp", **phantom.environment())
    assert done.returncode == 0, done.stderr[-2000:]
    done = run_nnunet(
        TRAIN,
        "904",
        "3d_nano",
        "0",
        "-tr",
        "nnUNetTrainer_1epoch",
        "-device",
        "cpu",
        nnUNet_n_proc_DA="0",
        **phantom.environment(),
    )
    assert done.returncode == 0, done.stderr[-2000:]
    summary = read_json(
        phantom.results / new.name / "nnUNetTrainer_1epoch__nnUNetPlans__3d_nano" / "fold_0" / "validation" / "summary.json"
    )
    assert len(summary["metric_per_case"]) == len(fold_cases(phantom_dataset, 0)[1])


@pytest.mark.quick
def test_an_interrupted_new_dataset_is_no_dataset_yet_and_the_same_command_finishes_it(phantom, phantom_dataset):
    expand("-o", "904", "-n", "3")
    raw, preprocessed = phantom.raw / "Dataset904_PhantomSBLDM", phantom.preprocessed / "Dataset904_PhantomSBLDM"
    finished = hash_tree(raw) | hash_tree(preprocessed)
    os.remove(raw / "dataset.json")
    os.remove(raw / "synthetic" / "provenance" / "sbldm_f0_0001.json")
    os.remove(raw / "synthetic" / "labels" / "sbldm_f0_0001.nii.gz")
    shutil.rmtree(preprocessed / "gt_segmentations")
    expand("-o", "904", "-n", "3")
    assert hash_tree(raw) | hash_tree(preprocessed) == finished


@pytest.mark.parametrize("can_link", [True, False])
def test_a_new_dataset_follows_real_cases_that_are_preprocessed_again(phantom, phantom_dataset, monkeypatch, can_link):
    def no_link(*_):
        raise OSError("another file system")

    if not can_link:
        monkeypatch.setattr(os, "link", no_link)
    expand("-o", "904", "-n", "1")
    old, new = (dataset.data_folder / "phantom_000.pkl" for dataset in (phantom_dataset, open_dataset("904")))
    assert new.read_bytes() == old.read_bytes()
    before = new.stat().st_ino, new.stat().st_ctime_ns
    expand("-o", "904", "-n", "1")
    assert (new.stat().st_ino, new.stat().st_ctime_ns) == before  # it is the same file still
    content = old.read_bytes()
    old.unlink()
    old.write_bytes(content[:-1] + b"x")
    expand("-o", "904", "-n", "1")
    assert new.read_bytes() == content[:-1] + b"x"


def test_a_new_dataset_of_an_incomplete_one_is_refused_before_a_case_is_made(phantom, phantom_dataset, generator, capsys):
    (phantom_dataset.preprocessed / "dataset_fingerprint.json").rename(phantom.raw / "away")
    assert "json is missing: run nnUNetv2_extract_fingerprint -d 900" in refused(capsys, "-o", "904", "-n", "1")
    (phantom.raw / "away").rename(phantom_dataset.preprocessed / "dataset_fingerprint.json")
    case_id = fold_cases(phantom_dataset, 0)[0][0]
    label = phantom_dataset.raw / "labelsTr" / f"{case_id}.nii.gz"
    label.rename(phantom.raw / "away")
    assert f"1 real case(s) of Dataset900_Phantom ({case_id}) have no label file" in refused(capsys, "-o", "904", "-n", "1")
    (phantom.raw / "away").rename(label)
    (phantom_dataset.data_folder / f"{case_id}_seg.b2nd").unlink()
    message = refused(capsys, "-o", "904", "-n", "1")
    assert f"1 real case(s) of Dataset900_Phantom ({case_id}) are not preprocessed for 3d_fullres, or by an older" in message
    assert not (phantom.raw / "Dataset904_PhantomSBLDM").exists()


def test_one_foreign_generator_serves_every_fold_whose_validation_cases_it_never_saw(phantom, generator, phantom_dataset):
    """The generator's cases are renamed to strangers with strange content, as if it came from another hospital."""
    strangers = [{"case_id": f"elsewhere_{i}", "image_hashes": [f"{i:064x}"], "label_hash": ""} for i in range(8)]
    write_json(generator.folder / "training_cases.json", strangers)
    model = str(generator.folder)
    expand_entry(["-d", "900", "-f", "0", "1", "2", "3", "4", "-m", model, *FAST, "-o", "904", "-n", "1"])
    splits = read_json(phantom.preprocessed / "Dataset904_PhantomSBLDM" / "splits_final.json")
    assert [[c for c in s["train"] if c.startswith("sbldm")] for s in splits] == [[f"sbldm_f{i}_0000"] for i in range(5)]
