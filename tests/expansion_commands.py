"""``sbldm_expand_dataset`` on the phantom, fast; gates, records and interruptions; a configuration that trains in seconds."""

import json
import subprocess

import pytest
from phantom_fixtures import hash_tree

from nnunet_sbldm.common.files import read_json
from nnunet_sbldm.dataset_conversion.expand_dataset import expand_entry
from nnunet_sbldm.expansion.ledger import ProductionSettings
from nnunet_sbldm.ldm.config import SamplerConfig
from nnunet_sbldm.quality.gate import Reason, Verdict

FAST = ["-p", "nnUNetPlans", "-preset", "nano", "-steps", "3", "-device", "cpu", "--no_gate"]
PREPROCESS = "nnunetv2.experiment_planning.plan_and_preprocess_entrypoints:preprocess_entry"
QUICK = ProductionSettings(SamplerConfig(num_steps=3))


def expand(*arguments):
    expand_entry(["-d", "900", "-f", "0", *FAST, *map(str, arguments)])


def refused(capsys, *arguments):
    with pytest.raises(SystemExit) as e:
        expand(*arguments)
    assert e.value.code == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


def add_tiny_configuration(plans, **extra):
    architecture = json.loads(json.dumps(plans["configurations"]["3d_fullres"]["architecture"]))
    arguments = architecture["arch_kwargs"]
    arguments |= {
        "n_stages": 2,
        "features_per_stage": [2, 4],
        "n_conv_per_stage": [1, 1],
        "n_conv_per_stage_decoder": [1],
        "kernel_sizes": arguments["kernel_sizes"][:2],
        "strides": arguments["strides"][:2],
    }
    plans["configurations"]["3d_nano"] = {
        "inherits_from": "3d_fullres",
        "patch_size": [8, 16, 16],
        "batch_size": 2,
        "architecture": architecture,
        **extra,
    }


def judge_by_seed(is_good):
    """A gate that accepts what ``is_good(nearest distance)`` accepts; draws differ in it, so it stands for any rule."""
    return lambda reference, asked, obtained, appearance, distance, real: Verdict(
        {"distance": distance}, () if is_good(distance) else (Reason("distance", "the distance is bad"),)
    )


def tree_of(dataset):
    return hash_tree(dataset.raw), hash_tree(dataset.preprocessed)


def undo():
    expand_entry(["-d", "900", "--undo"])


def die(*_):
    raise RuntimeError("killed")


def records(destination, folder="provenance"):
    return {p.stem: read_json(p) for p in sorted(destination.record_folders[0].parent.glob(f"{folder}/*.json"))}


def dead_pid():
    """Number of a process that has ended."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid
