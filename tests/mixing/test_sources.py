import shutil
from dataclasses import replace

import pytest
from nnunet_fixtures import CASE_IDS, SYNTHETIC_IDS, add_settings, expand, fill_pool, make_trainer, start_trainer
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_sbldm.common.files import read_json, write_json
from nnunet_sbldm.data.fingerprints import fingerprints_of
from nnunet_sbldm.data.folds import CaseFingerprint
from nnunet_sbldm.data.groups import groups_file
from nnunet_sbldm.data.splits import fold_cases, splits_of
from nnunet_sbldm.expansion.places import expansion_folder, pool_cases_folder
from nnunet_sbldm.trainers.nnUNetTrainerSBLDM import nnUNetTrainerSBLDM
from nnunet_sbldm.types import UserError


def stock_split(dataset, fold):
    return make_trainer(nnUNetTrainer, dataset, fold).do_split()


def split(dataset, fold):
    return make_trainer(nnUNetTrainerSBLDM, dataset, fold).do_split()


# --- do_split: every path ------------------------------------------------------------------------------------------


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


# --- the fold rule -------------------------------------------------------------------------------------------------


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


def test_a_leaking_pool_is_refused_before_the_network_is_built(dataset):
    _, val = fold_cases(dataset, 0)
    fill_pool(dataset, 0, val[:1])
    trainer = make_trainer(nnUNetTrainerSBLDM, dataset, 0)
    with pytest.raises(UserError, match=rf"validation cases: {val[0]} \(same case id\)"):
        trainer.on_train_start()
    assert trainer.network is None


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


# --- refusals at start ---------------------------------------------------------------------------------------------


def test_without_a_pool_the_command_that_fills_it_is_named_and_the_exit_code_is_2(dataset, capsys):
    trainer = make_trainer(nnUNetTrainerSBLDM, dataset, 0)
    with pytest.raises(SystemExit) as end:
        trainer.run_training()
    assert end.value.code == 2
    assert "has no pool of synthetic cases" in capsys.readouterr().err
    assert "run sbldm_expand_dataset -d 901 --pool -f 0 -ratio 1.0" in str(end.value.__cause__)


def test_the_command_names_the_configuration_of_plans_whose_folders_have_another_name(dataset):
    """Those of nnU-Net's residual encoders name their 3d_fullres data ``nnUNetPlans_3d_fullres``."""
    write_json(dataset.preprocessed / "Res.json", read_json(dataset.preprocessed / "nnUNetPlans.json") | {"plans_name": "Res"})
    trainer = make_trainer(nnUNetTrainerSBLDM, replace(dataset, plans_name="Res"), 0)
    assert trainer.sbldm_fold.config.data_identifier == "nnUNetPlans_3d_fullres"
    assert trainer.sbldm_fold.expand_command == "run sbldm_expand_dataset -d 901 --pool -f 0 -ratio 1.0 -p Res"


@pytest.mark.parametrize("source", ["pool", "copy_paste", "on_the_fly"])
def test_a_case_in_train_and_val_is_refused_before_the_network_is_built(dataset, source):
    fill_pool(dataset, 0, fold_cases(dataset, 0)[0])
    splits = read_json(dataset.preprocessed / "splits_final.json")
    splits[0]["train"].append(splits[0]["val"][0])
    write_json(dataset.preprocessed / "splits_final.json", splits)
    trainer = make_trainer(nnUNetTrainerSBLDM, dataset, 0, add_settings(dataset, "3d_other", source=source))
    twice = rf"Fold 0 lists 1 case\(s\) both in train and in val \({splits[0]['val'][0]}\)"
    with pytest.raises(UserError, match=twice):
        trainer.on_train_start()
    assert trainer.network is None


def test_a_pool_of_other_plans_is_refused(dataset):
    fill_pool(dataset, 0, fold_cases(dataset, 0)[0])
    path = dataset.preprocessed / "nnUNetPlans.json"
    plans = read_json(path)
    plans["configurations"]["3d_fullres"]["spacing"] = [1.5, 1.0, 1.0]
    write_json(path, plans)
    with pytest.raises(UserError, match="preprocessed with other plans than nnUNetPlans has now"):
        start_trainer(nnUNetTrainerSBLDM, dataset)


def test_a_pool_with_missing_files_names_the_cases(dataset):
    case_ids = fill_pool(dataset, 0, fold_cases(dataset, 0)[0])
    (pool_cases_folder(dataset.preprocessed, dataset.config.data_identifier, 0) / f"{case_ids[1]}_seg.b2nd").unlink()
    again = "run sbldm_expand_dataset -d 901 --pool again, with the options that it was run with, to complete it"
    with pytest.raises(UserError, match=rf"files of 1 synthetic case\(s\) \({case_ids[1]}\): {again}"):
        start_trainer(nnUNetTrainerSBLDM, dataset)


@pytest.mark.parametrize("ending", [".b2nd", "_seg.b2nd", ".pkl"])
def test_in_place_of_a_pool_case_that_goes_away_while_training_another_one_is_loaded(dataset, ending):
    case_ids = fill_pool(dataset, 0, fold_cases(dataset, 0)[0])
    train, _ = start_trainer(nnUNetTrainerSBLDM, dataset).get_tr_and_val_datasets()
    (pool_cases_folder(dataset.preprocessed, dataset.config.data_identifier, 0) / f"{case_ids[1]}{ending}").unlink()
    image, seg, _, _ = train.load_case(case_ids[1])
    assert image.shape[1:] == seg.shape[1:]


@pytest.mark.parametrize("ending", [".b2nd", "_seg.b2nd", ".pkl"])
def test_a_pool_case_that_cannot_be_read_is_named(dataset, ending):
    case_ids = fill_pool(dataset, 0, fold_cases(dataset, 0)[0])
    file = pool_cases_folder(dataset.preprocessed, dataset.config.data_identifier, 0) / f"{case_ids[1]}{ending}"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(UserError, match=rf"files of synthetic case {case_ids[1]} in .* cannot be read .*: delete that folder"):
        start_trainer(nnUNetTrainerSBLDM, dataset)


def test_an_ordinary_dataset_as_the_expanded_one_it_is_not_is_refused(dataset):
    name = add_settings(dataset, "3d_expanded", source="expanded")
    with pytest.raises(UserError, match="Dataset901_Tiny is no expanded dataset, but source is expanded: run sbldm_expand"):
        start_trainer(nnUNetTrainerSBLDM, dataset, 0, name)


def test_settings_of_the_generator_with_a_source_that_has_none_are_refused(dataset):
    name = add_settings(dataset, "3d_model", model="a/folder")
    with pytest.raises(UserError, match="source pool has no setting model"):
        start_trainer(nnUNetTrainerSBLDM, dataset, 0, name)


def test_a_fold_without_synthetic_cases_in_an_expanded_dataset_is_refused(dataset):
    expand(dataset)
    with pytest.raises(UserError, match="Fold 3 of Dataset901_Tiny has no .* -d 4 -o ID -f 3 .* that is free"):
        start_trainer(nnUNetTrainerSBLDM, dataset, 3)


def test_a_dataset_expanded_in_place_without_a_fold_is_undone_first(dataset):
    expand(dataset)
    path = dataset.preprocessed / "dataset.json"
    content = read_json(path)
    content["sbldm"]["source_dataset"] = dataset.name
    write_json(path, content)
    with pytest.raises(UserError, match="-d 901 --undo, then sbldm_expand_dataset -d 901 --in_place -f 3"):
        start_trainer(nnUNetTrainerSBLDM, dataset, 3)


def test_the_second_stage_of_a_cascade_is_refused(dataset):
    with pytest.raises(UserError, match="The second stage of a cascade"):
        start_trainer(nnUNetTrainerSBLDM, dataset, 0, "3d_tiny_cascade")
