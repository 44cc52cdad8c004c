"""Configurations of all arms, and two expansions joined into one dataset that nnU-Net trains on."""

import json
import shutil

import pytest
from nnunet_fixtures import start_trainer
from phantom_fixtures import NANO

from nnunet_sbldm.ablation import steps as study_steps
from nnunet_sbldm.common.files import read_json, write_json
from nnunet_sbldm.data.dataset import NnunetDataset
from nnunet_sbldm.editing.choices import EditSettings
from nnunet_sbldm.expansion.ledger import ProductionSettings
from nnunet_sbldm.expansion.new_dataset import write_dataset
from nnunet_sbldm.expansion.places import expansion_folder
from nnunet_sbldm.expansion.prepare import plan_jobs
from nnunet_sbldm.generator.checkpoint import generator_folder
from nnunet_sbldm.generator.records import SyntheticIndex
from nnunet_sbldm.generator.requests import ExpansionRequest
from nnunet_sbldm.ldm.config import SamplerConfig
from nnunet_sbldm.trainers.nnUNetTrainerSBLDM import nnUNetTrainerSBLDM
from nnunet_sbldm.trainers.nnUNetTrainerSBLDMNoDA import nnUNetTrainerSBLDMNoDA
from nnunet_sbldm.types import UserError

SETTINGS = {"ratio": 0.5, "num_epochs": 1, "num_iterations_per_epoch": 2, "num_val_iterations_per_epoch": 1}
SMALL = {"network": "small", "patch_size": [8, 16, 16], "batch_size": 2}


def configure(dataset_id, arms, base=SMALL):
    study_steps.main(["configure", "-d", str(dataset_id), "-base", json.dumps(base), "-arms", json.dumps(arms)])


def preprocessed(phantom, name):
    """A dataset that has no raw folder."""
    folder = phantom.preprocessed / name
    return NnunetDataset(name, phantom.raw / name, folder, read_json(folder / "dataset.json"), configuration="arm")


def test_all_arms_share_a_network_and_the_preprocessed_data(phantom, phantom_dataset, capsys):
    arms = {"a": SETTINGS, "b": {**SETTINGS, "ratio": 0.25, "schedule": "pretrain"}}
    configure(900, arms)
    configure(900, {**arms, "c": SETTINGS})
    plans = NnunetDataset(phantom_dataset.name, phantom_dataset.raw, phantom_dataset.preprocessed, {}).plans
    for name in "abc":
        config = plans.get_configuration(name)
        assert config.data_identifier == phantom_dataset.config.data_identifier
        assert config.patch_size == [8, 16, 16]
        assert config.network_arch_init_kwargs["features_per_stage"] == [8, 16, 32]
    assert plans.get_configuration("b").configuration["sbldm"]["schedule"] == "pretrain"
    for other in ({"batch_size": 4}, {**SMALL, "patch_size": [8, 18, 16]}):
        with pytest.raises(SystemExit) as e:
            configure(900, arms, other)
        assert e.value.code == 2
    assert "give a patch_size of multiples of that; got 8 x 18 x 16" in capsys.readouterr().err


def test_a_network_of_half_the_width(phantom, phantom_dataset):
    configure(900, {"half": SETTINGS}, {"network": "half"})
    plans = NnunetDataset(phantom_dataset.name, phantom_dataset.raw, phantom_dataset.preprocessed, {}).plans
    planned, half = (plans.get_configuration(name).network_arch_init_kwargs for name in ("3d_fullres", "half"))
    assert half["features_per_stage"] == [features // 2 for features in planned["features_per_stage"]]
    assert {**half, "features_per_stage": None} == {**planned, "features_per_stage": None}


@pytest.fixture
def expanded(phantom, phantom_dataset):
    """Two expansions for fold all, of whole cases and of edits; the generator is that of fold 0, moved."""
    source = generator_folder(phantom_dataset, NANO.name, 0)
    shutil.copytree(source, source.parent / "fold_all")
    settings = ProductionSettings(SamplerConfig(num_steps=2), False, 1)
    for target, editing in ((901, None), (902, EditSettings(()))):
        jobs = plan_jobs(phantom_dataset, ["all"], ExpansionRequest(num_cases=2), None, NANO.name, editing)
        write_dataset(phantom_dataset, jobs, target, ["3d_fullres"], settings)
    return phantom


def test_a_joined_dataset_trains_on_both_and_validates_on_neither(expanded, phantom_dataset, monkeypatch):
    name = "Dataset903_Both"
    study_steps.main(["join", "-d", "901", "902", "-o", name])
    study_steps.main(["join", "-d", "901", "902", "-o", name])
    configure(903, {"arm": SETTINGS})
    dataset = preprocessed(expanded, name)
    synthetic = [f"{mode}_sbldm_fall_{i:04d}" for mode in ("whole", "edit") for i in range(2)]
    index = SyntheticIndex.load(expansion_folder(dataset.preprocessed))
    assert sorted(index.cases) == sorted(synthetic) == sorted(dataset.dataset_json["sbldm"]["synthetic_cases"])
    seen = {c.case_id for c in index.seen_by()["edit_sbldm_fall_0000"]}
    assert seen == set(phantom_dataset.real_case_ids)  # hosts count as seen
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    trainer = start_trainer(nnUNetTrainerSBLDM, dataset, "all", "arm")
    assert sorted(trainer.sbldm_source.identifiers) == sorted(synthetic)
    assert sorted(trainer.do_split()[1]) == phantom_dataset.real_case_ids
    assert trainer.num_iterations_per_epoch == 2


def test_expansions_of_other_plans_are_not_joined(expanded):
    folder = expansion_folder(next(expanded.preprocessed.glob("Dataset902_*")))
    index = SyntheticIndex.load(folder)
    SyntheticIndex("other", index.cases, index.generators).save(folder)
    with pytest.raises(UserError, match="is no expansion with synthetic cases of the same plans"):
        study_steps.join_expansions(["901", "902"], "Dataset903_Both")


def test_the_trainer_without_augmentation_takes_our_settings(phantom, phantom_dataset, monkeypatch):
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    configure(900, {"arm": {**SETTINGS, "ratio": 0}})
    write_json(phantom_dataset.preprocessed / "dataset.json", phantom_dataset.dataset_json)
    trainer = start_trainer(nnUNetTrainerSBLDMNoDA, preprocessed(phantom, phantom_dataset.name), "all", "arm")
    assert (trainer.num_epochs, trainer.num_iterations_per_epoch) == (1, 2)
    assert trainer.inference_allowed_mirroring_axes is None
    transforms = trainer.dataloader_train.data_loader.transforms.transforms
    assert "SpatialTransform" not in [type(t).__name__ for t in transforms]
