"""Sources of synthetic cases: what is refused before a training starts, and what happens when files go away."""

import pytest
from nnunet_fixtures import add_settings, expand, fill_pool, make_trainer, start_trainer

from nnunet_sbldm.common.files import read_json, write_json
from nnunet_sbldm.data.splits import fold_cases
from nnunet_sbldm.expansion.places import pool_cases_folder
from nnunet_sbldm.trainers.nnUNetTrainerSBLDM import nnUNetTrainerSBLDM
from nnunet_sbldm.types import UserError


def test_a_leaking_pool_is_refused_before_the_network_is_built(dataset):
    _, val = fold_cases(dataset, 0)
    fill_pool(dataset, 0, val[:1])
    trainer = make_trainer(nnUNetTrainerSBLDM, dataset, 0)
    with pytest.raises(UserError, match=rf"validation cases: {val[0]} \(same case id\)"):
        trainer.on_train_start()
    assert trainer.network is None


def test_without_a_pool_the_command_that_fills_it_is_named_and_the_exit_code_is_2(dataset, capsys):
    trainer = make_trainer(nnUNetTrainerSBLDM, dataset, 0)
    with pytest.raises(SystemExit) as end:
        trainer.run_training()
    assert end.value.code == 2
    assert "has no pool of synthetic cases" in capsys.readouterr().err
    assert "run sbldm_expand_dataset -d 901 --pool -f 0 -ratio 1.0" in str(end.value.__cause__)


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
