import json
import multiprocessing
import random
import shutil
import sysconfig
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunet_fixtures import (
    CASE_IDS,
    NAME,
    PREDICT,
    PREDICT_FROM_FOLDER,
    SYNTHETIC_IDS,
    TRAIN,
    expand,
    fill_pool,
    make_trainer,
    run_nnunet,
    start_trainer,
)
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from worker_tasks import shape_of

from nnunet_sbldm import trainers
from nnunet_sbldm.common.files import read_json, write_json
from nnunet_sbldm.data.splits import fold_cases
from nnunet_sbldm.trainers.nnUNetTrainerSBLDM import nnUNetTrainerSBLDM
from nnunet_sbldm.types import UserError


def test_fold_all_draws_from_its_own_pool(dataset):
    case_ids = fill_pool(dataset, "all", CASE_IDS)
    train, val = start_trainer(nnUNetTrainerSBLDM, dataset, "all").get_tr_and_val_datasets()
    assert set(train.identifiers) == {*CASE_IDS, *case_ids}
    assert sorted(val.identifiers) == sorted(CASE_IDS)


def test_an_expanded_dataset_trains_at_the_ratio_asked_not_at_its_own(dataset):
    expand(dataset)
    train, _ = start_trainer(nnUNetTrainerSBLDM, dataset, 0, "3d_tiny_sbldm50").get_tr_and_val_datasets()
    counts = Counter(c in SYNTHETIC_IDS for c in np.asarray(train.identifiers))
    assert counts[True] == pytest.approx(counts[False], rel=0.02)


def test_an_expanded_dataset_at_ratio_0_trains_on_real_cases(dataset):
    expand(dataset)
    train, _ = start_trainer(nnUNetTrainerSBLDM, dataset, 0, "3d_tiny_real").get_tr_and_val_datasets()
    assert sorted(np.asarray(train.identifiers)) == sorted(fold_cases(dataset, 0)[0])


def test_a_worker_started_afresh_reads_real_and_synthetic_cases(dataset):
    case_ids = fill_pool(dataset, 0, fold_cases(dataset, 0)[0], num_cases=1)
    train, _ = start_trainer(nnUNetTrainerSBLDM, dataset).get_tr_and_val_datasets()
    asked = [(train, fold_cases(dataset, 0)[0][0]), (train, case_ids[0])]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.starmap(shape_of, asked) == [shape_of(*a) for a in asked]


def _losses(trainer_class, dataset, configuration, num_steps=6):
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(0)
    trainer = start_trainer(trainer_class, dataset, 0, configuration)
    trainer.network.train()
    return [float(trainer.train_step(next(trainer.dataloader_train))["loss"]) for _ in range(num_steps)]


def test_at_ratio_0_training_equals_that_of_nnunets_trainer(dataset):
    real_only = _losses(nnUNetTrainerSBLDM, dataset, "3d_tiny_real")
    assert np.isfinite(real_only).all()
    assert real_only == _losses(nnUNetTrainer, dataset, "3d_tiny_real")
    fill_pool(dataset, 0, fold_cases(dataset, 0)[0])
    assert real_only != _losses(nnUNetTrainerSBLDM, dataset, "3d_tiny_sbldm50")


def _discovery():
    """How nnU-Net finds the trainer here: by the start-up hook, or in an editable install by its own variable."""
    has_hook = (Path(sysconfig.get_path("purelib")) / "nnunet_sbldm_hook.pth").is_file()
    return {} if has_hook else {"nnUNet_extTrainer": next(iter(trainers.__path__))}


def test_nnunet_trains_validates_and_predicts(folders, dataset, tmp_path):
    train, val = fold_cases(dataset, 0)
    fill_pool(dataset, 0, train)
    environment = folders.environment() | _discovery()
    arguments = (901, "3d_tiny_sbldm50", 0, "-tr", "nnUNetTrainerSBLDM", "-device", "cpu")
    done = run_nnunet(TRAIN, *arguments, **environment, nnUNet_n_proc_DA="0")
    assert done.returncode == 0, done.stderr

    output = folders.results / NAME / "nnUNetTrainerSBLDM__nnUNetPlans__3d_tiny_sbldm50" / "fold_0"
    records = [json.loads(line) for line in (output / "sbldm_audit.jsonl").read_text().splitlines()]
    assert [(r["epoch"], r["draws"], r["validation_draws"]) for r in records] == [(0, 200, 0), (1, 200, 0)]
    assert sum(r["synthetic_draws"] for r in records) / 400 == pytest.approx(0.5, abs=0.02)
    assert "synthetic share of drawn cases: " in done.stdout
    settings = read_json(output / "sbldm_settings.json")
    assert (settings["ratio"], settings["num_epochs"], settings["num_synthetic_cases"]) == (0.5, 2, 4)
    assert (settings["schedule"], settings["source"]) == ("constant", "pool")
    assert sorted(p.name for p in (output / "validation").glob("*.nii.gz")) == sorted(f"{c}.nii.gz" for c in val)

    shutil.rmtree(dataset.preprocessed / "sbldm")  # prediction asks neither for a pool nor for our package
    inputs = tmp_path / "inputs"
    inputs.mkdir()
    shutil.copy(dataset.raw / "imagesTr" / f"{val[0]}_0000.nii.gz", inputs)
    cpu = ("-device", "cpu", "-npp", 1, "-nps", 1, "--disable_tta")
    model = ("-d", 901, "-c", "3d_tiny_sbldm50", "-f", 0, "-tr", "nnUNetTrainerSBLDM")
    folder = ("-m", output.parent, "-f", 0, "-chk", "checkpoint_best.pth")
    for entry, of in ((PREDICT, model), (PREDICT_FROM_FOLDER, folder)):
        done = run_nnunet(entry, *of, "-i", inputs, "-o", tmp_path / entry, *cpu, with_plugin=False, **folders.environment())
        assert done.returncode == 0, done.stderr
        assert (tmp_path / entry / f"{val[0]}.nii.gz").is_file()


def test_validation_alone_needs_no_pool(dataset):
    trainer = make_trainer(nnUNetTrainerSBLDM, dataset, 0)
    trainer.initialize()
    assert trainer.do_split() == fold_cases(dataset, 0)


def test_splits_with_a_case_on_both_sides_stop_the_training(dataset):
    fill_pool(dataset, 0, fold_cases(dataset, 0)[0])
    trainer = start_trainer(nnUNetTrainerSBLDM, dataset)
    held_out = fold_cases(dataset, 0)[1][0]
    with pytest.raises(UserError, match=rf"Validation case\(s\) {held_out} were drawn for training"):
        trainer.train_step({"keys": np.array([held_out])})


def test_a_mistyped_setting_stops_the_training_with_one_sentence(folders, dataset):
    path = dataset.preprocessed / "nnUNetPlans.json"
    plans = read_json(path)
    plans["configurations"]["3d_tiny_sbldm50"]["sbldm"] = {"mix_ratio": 0.5}
    write_json(path, plans)
    with pytest.raises(UserError, match="unknown key 'mix_ratio': did you mean 'ratio'"):
        start_trainer(nnUNetTrainerSBLDM, dataset, 0, "3d_tiny_sbldm50")
    arguments = (901, "3d_tiny_sbldm50", 0, "-tr", "nnUNetTrainerSBLDM", "-device", "cpu")
    done = run_nnunet(TRAIN, *arguments, **folders.environment(), **_discovery(), nnUNet_n_proc_DA="0")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "has an unknown key 'mix_ratio': did you mean 'ratio'" in done.stderr.splitlines()[-1]
