import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunet_fixtures import CASE_IDS, add_settings, fill_pool, make_trainer, start_trainer
from nnunetv2.run.run_training import maybe_load_checkpoint
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerDA5 import nnUNetTrainerDA5
from nnunetv2.training.nnUNetTrainer.variants.training_length.nnUNetTrainer_Xepochs import nnUNetTrainer_5epochs

from nnunet_sbldm.common.files import read_json
from nnunet_sbldm.data.splits import fold_cases
from nnunet_sbldm.expansion.places import pool_folder
from nnunet_sbldm.mixing import mixin
from nnunet_sbldm.mixing.dataset import ReadySource
from nnunet_sbldm.mixing.mixin import SBLDMMixin
from nnunet_sbldm.trainers.nnUNetTrainerSBLDM import nnUNetTrainerSBLDM, nnUNetTrainerSBLDMCopyPaste
from nnunet_sbldm.types import UserError

SHORT = {"num_epochs": 4, "num_iterations_per_epoch": 20, "num_val_iterations_per_epoch": 1}


class TrainerDA5(SBLDMMixin, nnUNetTrainerDA5):
    pass


class Trainer5Epochs(SBLDMMixin, nnUNetTrainer_5epochs):
    pass


class TrainerOfAnotherNetwork(SBLDMMixin, nnUNetTrainer):
    @staticmethod
    def build_network_architecture(plans_manager, configuration, num_inputs, num_outputs, enable_deep_supervision=True):
        return nnUNetTrainer.build_network_architecture(
            plans_manager, configuration, num_inputs, num_outputs, enable_deep_supervision)


def records_of(trainer):
    return [json.loads(line) for line in open(f"{trainer.output_folder}/sbldm_audit.jsonl")]


# --- joined with trainers of nnU-Net -------------------------------------------------------------------------------


@pytest.mark.parametrize("trainer_class", [TrainerDA5, Trainer5Epochs])
def test_it_joins_other_trainers(dataset, trainer_class):
    case_ids = fill_pool(dataset, 0, fold_cases(dataset, 0)[0])
    trainer = start_trainer(trainer_class, dataset, 0, add_settings(dataset, "3d_half", ratio=0.5))
    trainer.on_train_epoch_start()
    batches = [next(trainer.dataloader_train) for _ in range(10)]
    assert {str(k) for b in batches for k in b["keys"]} & set(case_ids)
    assert np.isfinite(trainer.train_step(batches[0])["loss"])


def test_the_epochs_are_the_trainers_own_unless_the_settings_name_them(dataset):
    assert make_trainer(Trainer5Epochs, dataset, 0).num_epochs == 5
    assert make_trainer(Trainer5Epochs, dataset, 0, "3d_tiny_sbldm50").num_epochs == 2


# --- epochs --------------------------------------------------------------------------------------------------------


def precisions_of(trainer):
    """Type of what the last convolution computed, and of what the loss gets, in a training step."""
    seen = {}
    convolutions = [m for m in trainer.network.modules() if isinstance(m, torch.nn.Conv3d)]
    convolutions[-1].register_forward_hook(lambda _m, _i, output: seen.update(convolution=output.dtype))
    loss = trainer.loss
    trainer.loss = lambda output, target: (seen.update(loss=output[0].dtype), loss(output, target))[1]
    assert np.isfinite(trainer.train_step(next(trainer.dataloader_train))["loss"])
    return seen["convolution"], seen["loss"]


def test_a_cpu_trains_with_no_more_threads_than_it_may_use(dataset, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)  # as nnUNetv2_train does on two cores
        make_trainer(nnUNetTrainerSBLDM, dataset, 0, "3d_tiny_real").initialize()
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_without_final_validation_a_training_predicts_no_case_unless_asked_explicitly(dataset, capsys):
    name = add_settings(dataset, "3d_short", ratio=0, final_validation=False, **(SHORT | {"num_epochs": 1}))
    trained = make_trainer(nnUNetTrainerSBLDM, dataset, 0, name)
    trained.run_training()
    trained.perform_actual_validation()  # as nnUNetv2_train does after every training
    assert "No validation" in capsys.readouterr().out
    assert not (Path(trained.output_folder) / "validation").exists()
    asked = make_trainer(nnUNetTrainerSBLDM, dataset, 0, name)
    maybe_load_checkpoint(asked, continue_training=False, validation_only=True)  # as --val does
    asked.perform_actual_validation()
    assert len(list((Path(asked.output_folder) / "validation").glob("*.nii.gz"))) == len(fold_cases(dataset, 0)[1])


def test_a_finished_training_that_is_continued_needs_no_synthetic_cases_and_keeps_its_records(dataset):
    fill_pool(dataset, 0, fold_cases(dataset, 0)[0])
    name = add_settings(dataset, "3d_short", ratio=0.5, final_validation=False, **(SHORT | {"num_epochs": 1}))
    first = make_trainer(nnUNetTrainerSBLDM, dataset, 0, name)
    first.run_training()
    shutil.rmtree(pool_folder(dataset.preprocessed, dataset.config.data_identifier, 0))
    records, settings = records_of(first), read_json(Path(first.output_folder) / "sbldm_settings.json")
    second = make_trainer(nnUNetTrainerSBLDM, dataset, 0, name)
    maybe_load_checkpoint(second, continue_training=True, validation_only=False)
    second.run_training()
    assert records_of(second) == records
    assert read_json(Path(second.output_folder) / "sbldm_settings.json") == settings


def test_a_cpu_trains_in_the_precision_that_the_settings_ask_for(dataset):
    mixed = start_trainer(nnUNetTrainerSBLDM, dataset, 0, add_settings(dataset, "3d_mixed", ratio=0, cpu_precision="bf16"))
    assert precisions_of(mixed) == (torch.bfloat16, torch.float32)
    plain = start_trainer(nnUNetTrainerSBLDM, dataset, 0, "3d_tiny_real")
    assert precisions_of(plain) == (torch.float32, torch.float32)


@pytest.mark.parametrize(("schedule", "shares"), [
    ("constant", [0.5, 0.5, 0.5, 0.5]), ("ramp_down", [0.5, 0.375, 0.125, 0]), ("pretrain", [1, 1, 0, 0]),
])
def test_a_training_follows_the_schedule(dataset, schedule, shares):
    name = add_settings(dataset, "3d_schedule", ratio=0.5, schedule=schedule, **SHORT)
    trainer = make_trainer(nnUNetTrainerSBLDMCopyPaste, dataset, 0, name)
    trainer.run_training()
    records = records_of(trainer)
    assert [r["asked"] for r in records] == shares
    assert [r["share"] for r in records] == pytest.approx(shares, abs=0.08)
    settings = read_json(Path(trainer.output_folder) / "sbldm_settings.json")
    assert (settings["schedule"], settings["source"], settings["num_synthetic_cases"]) == (schedule, "copy_paste", 1000)


def test_a_continued_training_goes_on_in_the_schedule(dataset):
    name = add_settings(dataset, "3d_schedule", ratio=0.5, schedule="pretrain", **SHORT)
    first = start_trainer(nnUNetTrainerSBLDMCopyPaste, dataset, 0, name)
    assert set(np.asarray(first.dataloader_train.data_loader.indices)).isdisjoint(CASE_IDS)
    first.current_epoch = 1
    for key in first.logger.local_logger.my_fantastic_logging.values():
        key += [0.0] * (2 - len(key))
    first.save_checkpoint(f"{first.output_folder}/checkpoint_latest.pth")
    second = make_trainer(nnUNetTrainerSBLDMCopyPaste, dataset, 0, name)
    maybe_load_checkpoint(second, continue_training=True, validation_only=False)
    second.run_training()
    assert [(r["epoch"], r["share"]) for r in records_of(second)] == [(2, 0), (3, 0)]


class Growing(ReadySource):
    """A source that has its first case once it was started, and that remembers what was asked of it."""

    def __init__(self):
        self.identifiers, self.calls = (), []

    def start(self):
        self.calls.append("start")
        self.identifiers = ("copy_of_case_1",)

    def stop(self):
        self.calls.append("stop")

    def load_case(self, identifier):
        raise FileNotFoundError(identifier)

    def epoch_report(self):
        return {"made": 1}


def test_a_source_is_started_reports_after_each_epoch_and_is_stopped(dataset, monkeypatch, capsys):
    source = Growing()
    monkeypatch.setattr(mixin, "open_source", lambda run, settings: source)
    trainer = make_trainer(nnUNetTrainerSBLDM, dataset, 0, add_settings(dataset, "3d_grow", ratio=0.5, **SHORT))
    trainer.run_training()
    assert source.calls == ["start", "stop"]
    assert [r["source"] for r in records_of(trainer)] == [{"made": 1}] * 4
    assert "synthetic cases: made: 1" in capsys.readouterr().out


def test_a_source_is_stopped_when_training_breaks_off(dataset, monkeypatch):
    source = Growing()
    monkeypatch.setattr(mixin, "open_source", lambda run, settings: source)
    monkeypatch.setattr(source, "epoch_report", lambda: 1 / 0)
    trainer = make_trainer(nnUNetTrainerSBLDM, dataset, 0, add_settings(dataset, "3d_grow", ratio=0.5, **SHORT))
    with pytest.raises(ZeroDivisionError):
        trainer.run_training()
    assert source.calls == ["start", "stop"]


def test_what_a_source_refuses_at_its_start_ends_with_one_sentence(dataset, monkeypatch, capsys):
    source = Growing()
    monkeypatch.setattr(mixin, "open_source", lambda run, settings: source)

    def start():
        raise UserError("No memory is left for the generator.")

    monkeypatch.setattr(source, "start", start)
    with pytest.raises(SystemExit) as end:
        make_trainer(nnUNetTrainerSBLDM, dataset, 0).run_training()
    assert end.value.code == 2
    assert capsys.readouterr().err == "No memory is left for the generator.\n"
    assert source.calls == ["stop"]


# --- checkpoints ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("trainer_class", "name"), [
    (nnUNetTrainerSBLDMCopyPaste, "nnUNetTrainer"), (TrainerDA5, "nnUNetTrainerDA5"),
    (TrainerOfAnotherNetwork, "TrainerOfAnotherNetwork"),
])
def test_a_checkpoint_names_the_trainer_of_nnunet_that_builds_the_same_network(dataset, trainer_class, name):
    settings = add_settings(dataset, "3d_short", source="copy_paste", **(SHORT | {"num_epochs": 1}))
    trainer = make_trainer(trainer_class, dataset, 0, settings)
    trainer.run_training()
    for file in ("checkpoint_final.pth", "checkpoint_best.pth"):
        checkpoint = torch.load(f"{trainer.output_folder}/{file}", weights_only=False)
        assert checkpoint["trainer_name"] == name
        assert checkpoint.get("sbldm", {"trainer_name": name})["trainer_name"] == trainer_class.__name__
        weights = trainer.network.state_dict()
        assert file != "checkpoint_final.pth" or all((v == weights[k]).all() for k, v in checkpoint["network_weights"].items())
