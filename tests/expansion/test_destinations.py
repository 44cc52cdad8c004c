"""Where cases go: real files untouched, lost files made again, every configuration served."""

import json
import os
from importlib.util import find_spec

import pytest
from expansion_commands import (
    PREPROCESS,
    expand,
)
from nnunet_fixtures import TRAIN, run_nnunet
from phantom_fixtures import hash_tree

from nnunet_sbldm.common.files import read_json, write_json
from nnunet_sbldm.data.cases import load_arrays
from nnunet_sbldm.data.dataset import open_dataset


@pytest.mark.parametrize("where", ["--pool", "-o"])
def test_a_case_that_lost_a_file_is_made_again(phantom, pool, where):
    raw, preprocessed = phantom.raw / "Dataset904_PhantomSBLDM", phantom.preprocessed / "Dataset904_PhantomSBLDM"
    lost = {
        "--pool": [pool / "cases" / "sbldm_f0_0001_seg.b2nd"],
        "-o": [
            raw / "synthetic" / "images" / "sbldm_f0_0000_0001.nii.gz",
            preprocessed / "nnUNetPlans_3d_fullres" / "sbldm_f0_0001.pkl",
        ],
    }
    command = ("--pool", "-n", "2") if where == "--pool" else ("-o", "904", "-n", "2")
    expand(*command)
    folders = [pool] if where == "--pool" else [raw, preprocessed]
    finished = [hash_tree(f) for f in folders]
    for file in lost[where]:
        os.remove(file)
    expand(*command)
    assert [hash_tree(f) for f in folders] == finished


def test_the_real_dataset_is_left_byte_for_byte(phantom, pool):
    def real_files():
        trees = {
            "raw": hash_tree(phantom.raw / "Dataset900_Phantom"),
            "pre": hash_tree(phantom.preprocessed / "Dataset900_Phantom"),
        }
        return {(t, k): v for t, tree in trees.items() for k, v in tree.items() if not k.startswith("sbldm")}

    open_dataset("900")
    before = real_files()
    expand("--pool", "-n", "1")
    expand("-o", "904", "-n", "1")
    assert real_files() == before


def test_every_configuration_gets_its_cases_and_2d_trains_on_them(phantom, phantom_dataset, pool):
    done = run_nnunet(PREPROCESS, "-d", 900, "-plans_name", "nnUNetPlans", "-c", "2d", "-np", 1, **phantom.environment())
    assert done.returncode == 0, done.stderr[-2000:]
    expand("--pool", "-n", "2", "-c", "3d_fullres", "2d")
    flat = pool.parents[1] / "nnUNetPlans_2d" / "fold_0"
    assert hash_tree(pool / "provenance") == hash_tree(flat / "provenance")  # the same cases, sampled once
    assert load_arrays(flat / "cases", "sbldm_f0_0000")[1].ndim == 3
    plans_file = phantom_dataset.preprocessed / "nnUNetPlans.json"
    plans = read_json(plans_file)
    short = {"ratio": 0.5, "num_epochs": 1, "num_iterations_per_epoch": 5, "num_val_iterations_per_epoch": 1}
    plans["configurations"]["2d_short"] = {"inherits_from": "2d", "batch_size": 4, "sbldm": short}
    write_json(plans_file, plans)
    (trainers,) = find_spec("nnunet_sbldm.trainers").submodule_search_locations
    variables = {"nnUNet_n_proc_DA": "0", "nnUNet_extTrainer": trainers}
    arguments = ("900", "2d_short", "0", "-tr", "nnUNetTrainerSBLDM", "-device", "cpu")
    done = run_nnunet(TRAIN, *arguments, **variables, **phantom.environment())
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    output = phantom.results / phantom_dataset.name / "nnUNetTrainerSBLDM__nnUNetPlans__2d_short" / "fold_0"
    assert json.loads((output / "sbldm_audit.jsonl").read_text())["synthetic_draws"] > 0
