"""``sbldm_expand_dataset`` on the phantom, fast; and a configuration of nnU-Net that trains in seconds."""

import json

import pytest

from nnunet_sbldm.dataset_conversion.expand_dataset import expand_entry

FAST = ["-p", "nnUNetPlans", "-preset", "nano", "-steps", "3", "-device", "cpu", "--no_gate"]


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
