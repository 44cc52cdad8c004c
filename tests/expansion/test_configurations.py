"""What nnU-Net's trainer can do, ours can: regions, ignore label, 2d, 3d_lowres, deep supervision, foreground oversampling."""

from dataclasses import replace

import numpy as np
import pytest
from nnunet_fixtures import CASE_IDS, CONFIGURATION, add_settings, fill_pool, start_trainer
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_sbldm.common.files import read_json, write_json
from nnunet_sbldm.data.cases import preprocess_case, read_case
from nnunet_sbldm.data.splits import fold_cases
from nnunet_sbldm.trainers.nnUNetTrainerSBLDM import nnUNetTrainerSBLDM, nnUNetTrainerSBLDMCopyPaste

LABELS = {
    "labels": {"labels": {"background": 0, "tumour": 1, "core": 2}},
    "ignore": {"labels": {"background": 0, "tumour": 1, "core": 2, "ignore": 3}},
    "regions": {"labels": {"background": 0, "whole": [1, 2], "core": [2]}, "regions_class_order": [1, 2]},
    "regions_ignore": {"labels": {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3}, "regions_class_order": [1, 2]},
}


def relabelled(dataset, labels):
    """The dataset with other labels, preprocessed anew: half of each tumour is its core, a corner is left unannotated."""
    dataset = replace(dataset, dataset_json=dataset.dataset_json | LABELS[labels])
    write_json(dataset.preprocessed / "dataset.json", dataset.dataset_json)
    dataset.data_folder.mkdir(exist_ok=True)
    for case_id in CASE_IDS:
        case = read_case(dataset, case_id)
        label = case.label.copy()
        label[:, :, int(np.argwhere(label > 0)[:, 2].mean()) :] *= 2
        if "ignore" in labels:
            label[:10, :10] = 3
        preprocess_case(dataset, replace(case, label=label), dataset.data_folder / case_id)
    return dataset


def with_configuration(dataset, name):
    """The dataset through a small 2d or low-resolution configuration."""
    path = dataset.preprocessed / "nnUNetPlans.json"
    plans = read_json(path)
    configurations = plans["configurations"]
    if name == "2d_tiny":
        architecture = configurations["2d"]["architecture"]
        architecture["arch_kwargs"] |= {
            "n_stages": 3, "features_per_stage": [4, 8, 8], "n_conv_per_stage": [1, 1, 1], "n_conv_per_stage_decoder": [1, 1],
            "kernel_sizes": [[3, 3]] * 3, "strides": [[1, 1], [2, 2], [2, 2]],
        }
        configurations[name] = {"inherits_from": "2d", "patch_size": [16, 16], "batch_size": 6, "architecture": architecture}
    if name == "3d_lowres_tiny":
        configurations[name] = {"inherits_from": CONFIGURATION, "data_identifier": "nnUNetPlans_3d_lowres", "spacing": [2, 2, 2]}
    write_json(path, plans)
    return replace(dataset, configuration=name)


def batches_and_losses(trainer_class, dataset, configuration, num_steps=4):
    np.random.seed(0)
    trainer = start_trainer(trainer_class, dataset, 0, configuration)
    trainer.on_train_epoch_start()
    batches = [next(trainer.dataloader_train) for _ in range(num_steps)]
    losses = [trainer.train_step(b)["loss"] for b in batches]
    return batches, losses, trainer.validation_step(next(trainer.dataloader_val))


def layout(batch):
    targets = batch["target"]
    return batch["data"].shape, batch["data"].dtype, [(t.shape, t.dtype) for t in targets]


THREE_D = [(labels, CONFIGURATION) for labels in LABELS]
CASES = [*THREE_D, ("ignore", "2d_tiny"), ("labels", "2d_tiny"), ("labels", "3d_lowres_tiny")]


@pytest.mark.parametrize(("labels", "configuration"), CASES)
def test_batches_are_laid_out_as_nnunets_and_train_whatever_the_labels_and_the_configuration(dataset, labels, configuration):
    dataset = relabelled(with_configuration(dataset, configuration), labels)
    pooled = set(fill_pool(dataset, 0, fold_cases(dataset, 0)[0]))
    mixed = add_settings(dataset, "mixed", configuration, ratio=0.5)
    (stock, *_), _, _ = batches_and_losses(nnUNetTrainer, dataset, configuration)
    for trainer_class in (nnUNetTrainerSBLDM, nnUNetTrainerSBLDMCopyPaste):
        batches, losses, validation = batches_and_losses(trainer_class, dataset, mixed)
        keys = {str(k) for b in batches for k in b["keys"]}
        assert keys & pooled or any(k.startswith("copy_paste") for k in keys)
        assert all(layout(b) == layout(stock) for b in batches)
        assert np.isfinite(losses).all()
        assert np.isfinite(validation["loss"])


@pytest.mark.parametrize("labels", LABELS)
def test_foreground_is_oversampled_in_copy_paste_composites(dataset, labels):
    dataset = relabelled(dataset, labels)
    synthetic = add_settings(dataset, "synthetic", ratio=1)
    trainer = start_trainer(nnUNetTrainerSBLDMCopyPaste, dataset, 0, synthetic)
    train, _ = trainer.get_tr_and_val_datasets()
    loader = nnUNetDataLoader(train, 2, (4, 4, 4), (4, 4, 4), trainer.label_manager, oversample_foreground_percent=0.33)
    batches = [next(loader) for _ in range(50)]
    assert all(np.isin(b["target"][1], (1, 2)).any() for b in batches)
    assert not all(np.isin(b["target"][0], (1, 2)).any() for b in batches)
