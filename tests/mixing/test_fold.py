"""A trainer's fold: every path of ``do_split``, and the fold rule."""

import shutil
from dataclasses import replace

import pytest
from nnunet_fixtures import CASE_IDS, SYNTHETIC_IDS, expand, make_trainer, start_trainer
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_sbldm.common.files import read_json, write_json
from nnunet_sbldm.data.fingerprints import fingerprints_of
from nnunet_sbldm.data.folds import CaseFingerprint
from nnunet_sbldm.data.groups import groups_file
from nnunet_sbldm.data.splits import fold_cases, splits_of
from nnunet_sbldm.expansion.places import expansion_folder
from nnunet_sbldm.trainers.nnUNetTrainerSBLDM import nnUNetTrainerSBLDM
from nnunet_sbldm.types import UserError

pytestmark = pytest.mark.quick


def stock_split(dataset, fold):
    return make_trainer(nnUNetTrainer, dataset, fold).do_split()


def split(dataset, fold):
    return make_trainer(nnUNetTrainerSBLDM, dataset, fold).do_split()


@pytest.mark.parametrize("fold", [0, 4, 7, "all"])
def test_an_ordinary_dataset_is_split_as_by_nnunet(dataset, fold):
    assert split(dataset, fold) == stock_split(dataset, fold)


def test_fold_of_an_expanded_dataset_keeps_its_validation_cases_and_trains_on_synthetic_ones(dataset):
    train, val = stock_split(dataset, 0)
    expand(dataset)
    assert split(dataset, 0) == ([*train, *SYNTHETIC_IDS], val)


def test_synthetic_cases_in_val_of_the_splits_are_dropped(dataset):
    expand(dataset)
    splits = read_json(dataset.preprocessed / "splits_final.json")
    splits[0]["val"] += splits[0]["train"][-2:]
    del splits[0]["train"][-2:]
    write_json(dataset.preprocessed / "splits_final.json", splits)
    train, val = split(dataset, 0)
    assert set(train).intersection(SYNTHETIC_IDS) == {SYNTHETIC_IDS[0]}
    assert not set(val).intersection(SYNTHETIC_IDS)


def test_fold_all_trains_on_everything_and_validates_on_real_cases(dataset):
    expand(dataset)
    train, val = split(dataset, "all")
    assert sorted(train) == sorted([*CASE_IDS, *SYNTHETIC_IDS])
    assert sorted(val) == sorted(CASE_IDS)


def test_fold_past_the_end_splits_real_cases_as_nnunet_and_adds_only_synthetic_cases_that_cannot_leak(dataset, capsys):
    train, val = stock_split(dataset, 7)
    expand(dataset)
    expand(dataset, seen=[CaseFingerprint(c) for c in train], case_ids=("blind",), generator="other")
    assert set(val).intersection(fold_cases(dataset, 0)[0]), "the first generator has to have seen one of these cases"
    assert split(dataset, 7) == ([*train, "blind"], val)
    assert "1 synthetic cases train with them; 3 are left out" in capsys.readouterr().out


def test_fold_past_the_end_leaves_out_cases_whose_generators_have_seen_a_patient_of_val(dataset, capsys):
    train, val = stock_split(dataset, 7)
    expand(dataset, seen=[CaseFingerprint(c) for c in train[1:]])
    expand(dataset, seen=[CaseFingerprint(c) for c in train[:1]], case_ids=("other_scan",), generator="other")
    patients = {c: c for c in CASE_IDS} | {train[0]: "patient", val[0]: "patient"}  # named after the generators were trained
    write_json(groups_file(dataset.preprocessed), patients)
    assert split(dataset, 7) == ([*train, *SYNTHETIC_IDS], val)
    assert "3 synthetic cases train with them; 1 are left out" in capsys.readouterr().out


def test_missing_splits_of_an_expanded_dataset_are_made_over_real_cases_alone(dataset):
    train, val = stock_split(dataset, 2)
    splits_file = dataset.preprocessed / "splits_final.json"
    as_by_nnunet = read_json(splits_file)
    expand(dataset)
    splits_file.unlink()
    assert split(dataset, 2) == (train, val)
    assert read_json(splits_file) == as_by_nnunet


def test_missing_splits_of_an_expanded_dataset_train_on_real_cases(dataset, capsys):
    expand(dataset)
    (dataset.preprocessed / "splits_final.json").unlink()
    trainer = start_trainer(nnUNetTrainerSBLDM, dataset)
    train, _ = trainer.get_tr_and_val_datasets()
    assert sorted(train.identifiers) == sorted(fold_cases(dataset, 0)[0])
    assert "training on real cases alone; run sbldm_expand_dataset -d 4 -o 901 again, with the options" in capsys.readouterr().out


def test_a_leaking_split_is_refused_and_names_the_cases(dataset):
    _, val = fold_cases(dataset, 1)
    expand(dataset)
    splits = read_json(dataset.preprocessed / "splits_final.json")
    splits[1]["train"] += SYNTHETIC_IDS
    write_json(dataset.preprocessed / "splits_final.json", splits)
    with pytest.raises(UserError, match=r"Fold 1: the generator was trained on 2 of this fold's validation cases") as error:
        split(dataset, 1)
    assert all(f"{c} (same case id)" in str(error.value) for c in val)


def test_ids_are_compared_whole(dataset):
    fold = next(f for f, s in enumerate(splits_of(dataset)) if "case_10" in s["train"] and "case_1" in s["val"])
    expand(dataset, fold, seen=[CaseFingerprint("case_10")])
    assert set(SYNTHETIC_IDS) <= set(split(dataset, fold)[0])
    expand(dataset, fold, seen=[CaseFingerprint("case_1")], case_ids=("leaky",), generator="other")
    with pytest.raises(UserError, match=r"1 of this fold's validation cases: case_1 \(same case id\)"):
        split(dataset, fold)


def test_a_renamed_copy_of_a_validation_case_is_caught_by_content(dataset):
    _, val = fold_cases(dataset, 0)
    content = fingerprints_of(dataset, val)[val[0]]
    expand(dataset, seen=[CaseFingerprint("renamed", content.image_hashes)])
    with pytest.raises(UserError, match=rf"{val[0]} \(same image content as renamed\)"):
        split(dataset, 0)


@pytest.mark.parametrize(("source", "message"), [
    ("Dataset004_Source", "generators of case_1b, .* have seen, .*: run sbldm_expand_dataset -d 4 -o 901 again"),
    ("Dataset901_Tiny", "in-place expansion of Dataset901_Tiny is not finished: .* sbldm_expand_dataset -d 901 --undo"),
])
def test_an_expanded_dataset_without_its_index_is_refused(dataset, source, message):
    expand(dataset)
    path = dataset.preprocessed / "dataset.json"
    content = read_json(path)
    write_json(path, content | {"sbldm": content["sbldm"] | {"source_dataset": source}})
    shutil.rmtree(expansion_folder(dataset.preprocessed))
    with pytest.raises(UserError, match=message):
        split(dataset, 0)


def test_the_command_names_the_configuration_of_plans_whose_folders_have_another_name(dataset):
    """Those of nnU-Net's residual encoders name their 3d_fullres data ``nnUNetPlans_3d_fullres``."""
    write_json(dataset.preprocessed / "Res.json", read_json(dataset.preprocessed / "nnUNetPlans.json") | {"plans_name": "Res"})
    trainer = make_trainer(nnUNetTrainerSBLDM, replace(dataset, plans_name="Res"), 0)
    assert trainer.sbldm_fold.config.data_identifier == "nnUNetPlans_3d_fullres"
    assert trainer.sbldm_fold.expand_command == "run sbldm_expand_dataset -d 901 --pool -f 0 -ratio 1.0 -p Res"
