"""A small nnU-Net dataset, planned and preprocessed by nnU-Net itself, and synthetic cases made by nnU-Net's preprocessor."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from nnunet_sbldm.common.files import read_json, write_json
from nnunet_sbldm.data.cases import preprocess_case, read_case
from nnunet_sbldm.data.dataset import NnunetDataset
from nnunet_sbldm.data.fingerprints import fingerprints_of
from nnunet_sbldm.data.formats import write_case
from nnunet_sbldm.data.splits import SPLITS, dealt, fold_cases
from nnunet_sbldm.expansion.places import expansion_folder, pool_cases_folder, pool_folder
from nnunet_sbldm.generator.records import SyntheticIndex
from nnunet_sbldm.types import Case, Geometry

NAME = "Dataset901_Tiny"
CONFIGURATION = "3d_tiny"
CASE_IDS = tuple(f"case_{i}" for i in range(1, 11))
PLAN = "nnunetv2.experiment_planning.plan_and_preprocess_entrypoints:plan_and_preprocess_entry"
SYNTHETIC_IDS = ("case_1b", "sbldm_f0_0000", "sbldm_f0_0001")
TRAIN = "nnunetv2.run.run_training:run_training_entry"
PREDICT = "nnunetv2.inference.predict_from_raw_data:predict_entry_point"
PREDICT_FROM_FOLDER = "nnunetv2.inference.predict_from_raw_data:predict_entry_point_modelfolder"


@dataclass(frozen=True)
class NnunetFolders:
    """The three folders of nnU-Net."""

    raw: Path
    preprocessed: Path
    results: Path

    def environment(self):
        """Variables that make nnU-Net use these folders, with small process pools."""
        return {"nnUNet_raw": str(self.raw), "nnUNet_preprocessed": str(self.preprocessed), "nnUNet_results": str(self.results),
                "nnUNet_def_n_proc": "1", "OMP_WAIT_POLICY": "PASSIVE"}


def run_nnunet(entry, *arguments, with_plugin=True, **environment):
    """Run one of nnU-Net's commands in a process of its own, without the working directory on its path, as the script does.

    Without the plugin, importing our package fails in that process, as on a machine that has nnU-Net alone.
    """
    module, function = entry.split(":")
    code = "" if with_plugin else "import sys; sys.modules['nnunet_sbldm'] = None\n"
    code += f"from {module} import {function} as main; main()"
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("nnUNet_", "SBLDM_"))}
    return subprocess.run([sys.executable, "-P", "-c", code, *map(str, arguments)],
                          env=kept | environment, capture_output=True, text=True, timeout=300)


def make_case(case_id, seed):
    """A noisy head, exactly 0 outside, with one bright ball; no two cases are alike."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in (24, 28, 26)), indexing="ij"))
    distance = lambda centre: np.sqrt(((grid - np.reshape(centre, (3, 1, 1, 1))) ** 2).sum(0))  # noqa: E731
    head = distance((12, 14, 13)) < 11
    label = (distance(rng.uniform(9, 15, 3)) < rng.uniform(2.5, 4)) & head
    image = np.where(head, 100 + 60 * label + rng.normal(0, 8, head.shape), 0).astype(np.float32)
    return Case(case_id, image[None], label.astype(np.int16), Geometry((1.0, 1.0, 1.0)))


@pytest.fixture(scope="session")
def planned_folders(tmp_path_factory):
    """Ten cases in raw and preprocessed form; shared by all tests, so left as they are."""
    home = tmp_path_factory.mktemp("nnunet")
    folders = NnunetFolders(home / "raw", home / "preprocessed", home / "results")
    for folder in (folders.raw, folders.preprocessed, folders.results):
        folder.mkdir()
    raw = folders.raw / NAME
    for i, case_id in enumerate(CASE_IDS):
        write_case(make_case(case_id, i), [raw / "imagesTr" / f"{case_id}_0000.nii.gz"], raw / "labelsTr" / f"{case_id}.nii.gz")
    write_json(raw / "dataset.json", {"channel_names": {"0": "MRI"}, "labels": {"background": 0, "tumour": 1},
                                      "numTraining": len(CASE_IDS), "file_ending": ".nii.gz"})
    done = run_nnunet(PLAN, "-d", 901, "-c", "3d_fullres", "-np", 1, "-npfp", 1, "--no_pbar", **folders.environment())
    assert done.returncode == 0, done.stderr
    _add_tiny_configurations(folders.preprocessed / NAME / "nnUNetPlans.json")
    write_json(folders.preprocessed / NAME / SPLITS, dealt(_dataset_in(folders)))  # as nnU-Net's first training does
    return folders


def _add_tiny_configurations(path):
    plans = read_json(path)
    architecture = read_json(path)["configurations"]["3d_fullres"]["architecture"]
    arguments = architecture["arch_kwargs"]
    kernels, strides = [[3, 3, 3]] * 3, [[1, 1, 1], [2, 2, 2], [2, 2, 2]]  # deep supervision needs three stages
    arguments |= {"n_stages": 3, "features_per_stage": [4, 8, 8], "n_conv_per_stage": [1, 1, 1],
                  "n_conv_per_stage_decoder": [1, 1], "kernel_sizes": kernels, "strides": strides}
    plans["configurations"] |= {
        CONFIGURATION: {"inherits_from": "3d_fullres", "patch_size": [16, 16, 16], "batch_size": 2, "architecture": architecture},
        "3d_tiny_real": {"inherits_from": CONFIGURATION, "sbldm": {"ratio": 0}},
        "3d_tiny_sbldm50": {"inherits_from": CONFIGURATION, "sbldm": {
            "ratio": 0.5, "num_epochs": 2, "num_iterations_per_epoch": 100, "num_val_iterations_per_epoch": 2}},
        "3d_tiny_cascade": {"inherits_from": CONFIGURATION, "previous_stage": "3d_lowres"},
    }
    write_json(path, plans)


@pytest.fixture
def folders(planned_folders, tmp_path, monkeypatch):
    """A private copy of the preprocessed dataset and empty results, with nnU-Net's variables set to them."""
    mine = replace(planned_folders, preprocessed=tmp_path / "preprocessed", results=tmp_path / "results")
    shutil.copytree(planned_folders.preprocessed, mine.preprocessed)
    mine.results.mkdir()
    for name, value in (mine.environment() | {"nnUNet_n_proc_DA": "0"}).items():
        monkeypatch.setenv(name, value)
    return mine


@pytest.fixture
def dataset(folders):
    """The small dataset, through the small configuration."""
    return _dataset_in(folders)


def _dataset_in(folders):
    raw = folders.raw / NAME
    return NnunetDataset(NAME, raw, folders.preprocessed / NAME, read_json(raw / "dataset.json"), configuration=CONFIGURATION)


def add_synthetic_cases(dataset, index_folder, cases_folder, case_ids, seen, generator="generator"):
    """Preprocess noisy copies of real cases as synthetic ones and register them with what their generator has seen."""
    rng = np.random.default_rng(0)
    for case_id, source in zip(case_ids, CASE_IDS * 9, strict=False):
        case = read_case(dataset, source)
        noise = rng.normal(0, 5, case.image.shape).astype(np.float32) * (case.image != 0)
        preprocess_case(dataset, replace(case, case_id=case_id, image=case.image + noise), cases_folder / case_id)
    index = SyntheticIndex.load(index_folder) or SyntheticIndex(dataset.plans_hash())
    index.add(case_ids, generator, seen)
    index.save(index_folder)


def fill_pool(dataset, fold, seen_ids, num_cases=4):
    """Fill the pool of a fold from a generator that has seen ``seen_ids``."""
    place = (dataset.preprocessed, dataset.config.data_identifier, fold)
    case_ids = [f"sbldm_f{fold}_{i:04d}" for i in range(num_cases)]
    seen = fingerprints_of(dataset, seen_ids).values()
    pool_cases_folder(*place).mkdir(parents=True, exist_ok=True)
    add_synthetic_cases(dataset, pool_folder(*place), pool_cases_folder(*place), case_ids, seen)
    return case_ids


def expand(dataset, fold=0, seen=None, case_ids=SYNTHETIC_IDS, generator="generator"):
    """Add synthetic cases among the real ones; by default their generator has seen the training cases of ``fold``."""
    train, _ = fold_cases(dataset, fold)
    seen = fingerprints_of(dataset, train).values() if seen is None else seen
    add_synthetic_cases(dataset, expansion_folder(dataset.preprocessed), dataset.data_folder, case_ids, seen, generator)
    path = dataset.preprocessed / "dataset.json"
    content = read_json(path)
    block = content.setdefault("sbldm", {"synthetic_cases": [], "source_dataset": "Dataset004_Source"})
    block["synthetic_cases"] += case_ids
    write_json(path, content)
    splits = read_json(dataset.preprocessed / "splits_final.json")
    splits[fold]["train"] += case_ids
    write_json(dataset.preprocessed / "splits_final.json", splits)


def make_trainer(trainer_class, dataset, fold, configuration=CONFIGURATION):
    """A trainer as ``nnUNetv2_train`` makes it, on the CPU."""
    plans = read_json(dataset.preprocessed / f"{dataset.plans_name}.json") | {"continue_training": False}
    dataset_json = read_json(dataset.preprocessed / "dataset.json")
    return trainer_class(plans, configuration, fold, dataset_json, torch.device("cpu"))


def add_settings(dataset, name, base=CONFIGURATION, **settings):
    """Add a configuration with these settings of our trainer, and return its name."""
    path = dataset.preprocessed / f"{dataset.plans_name}.json"
    plans = read_json(path)
    plans["configurations"][name] = {"inherits_from": base, "sbldm": settings}
    write_json(path, plans)
    return name


def start_trainer(trainer_class, dataset, fold=0, configuration=CONFIGURATION):
    """A trainer at the start of its training."""
    trainer = make_trainer(trainer_class, dataset, fold, configuration)
    trainer.on_train_start()
    return trainer
