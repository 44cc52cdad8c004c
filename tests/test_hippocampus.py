"""The main job on real MRI: from a raw dataset to an expanded dataset, a pool, two trainings and a prediction."""

import json
import os
import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from expansion_commands import add_tiny_configuration
from nnunet_fixtures import PLAN, PREDICT, TRAIN, NnunetFolders, run_nnunet
from phantom_fixtures import NANO

from nnunet_sbldm.cli.train import train_entry
from nnunet_sbldm.common.files import read_json, write_json
from nnunet_sbldm.data.cases import load_arrays, read_case
from nnunet_sbldm.data.dataset import open_dataset
from nnunet_sbldm.dataset_conversion.expand_dataset import expand_entry
from nnunet_sbldm.generator import presets as config

DATA = Path(os.environ.get("SBLDM_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
SOURCE = DATA / "Dataset004_Hippocampus"
NUM_CASES = 10
SHORT = {"ratio": 0.5, "num_epochs": 1, "num_iterations_per_epoch": 10, "num_val_iterations_per_epoch": 1}

pytestmark = pytest.mark.skipif(not SOURCE.is_dir(), reason=f"needs Dataset004_Hippocampus in {DATA} (set SBLDM_TEST_DATA)")


@pytest.fixture
def hippocampus(tmp_path, monkeypatch):
    """Ten real cases, planned and preprocessed by nnU-Net."""
    folders = NnunetFolders(tmp_path / "raw", tmp_path / "preprocessed", tmp_path / "results")
    for folder in (folders.preprocessed, folders.results):
        folder.mkdir()
    copy = folders.raw / SOURCE.name
    cases = sorted(p.name.removesuffix(".nii.gz") for p in (SOURCE / "labelsTr").glob("*.nii.gz"))[:NUM_CASES]
    for case in cases:
        for file in (f"imagesTr/{case}_0000.nii.gz", f"labelsTr/{case}.nii.gz"):
            (copy / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(SOURCE / file, copy / file)
    write_json(copy / "dataset.json", {**read_json(SOURCE / "dataset.json"), "numTraining": NUM_CASES})
    for name, value in folders.environment().items():
        monkeypatch.setenv(name, value)
    (trainers,) = find_spec("nnunet_sbldm.trainers").submodule_search_locations
    monkeypatch.setenv("nnUNet_extTrainer", trainers)  # an editable install has no start-up hook
    monkeypatch.setitem(config.PRESETS, "nano", NANO)
    done = run_nnunet(PLAN, "-d", 4, "-c", "3d_fullres", "-np", 1, "-npfp", 1, "--no_pbar", **folders.environment())
    assert done.returncode == 0, done.stderr[-2000:]
    return folders


def train(folders, dataset, name, **settings):
    plans_file = folders.preprocessed / dataset / "nnUNetPlans.json"
    plans = read_json(plans_file)
    add_tiny_configuration(plans, sbldm=settings)
    write_json(plans_file, plans)
    done = run_nnunet(
        TRAIN,
        name,
        "3d_nano",
        "0",
        "-tr",
        "nnUNetTrainerSBLDM",
        "-device",
        "cpu",
        nnUNet_n_proc_DA="0",
        nnUNet_extTrainer=os.environ["nnUNet_extTrainer"],
        **folders.environment(),
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return folders.results / dataset / "nnUNetTrainerSBLDM__nnUNetPlans__3d_nano" / "fold_0"


@pytest.mark.slow
def test_the_main_job_on_real_mri(hippocampus, tmp_path):
    fast = ["-f", "0", "-preset", "nano", "-device", "cpu", "--no_gate"]
    train_entry(["-d", "4", *fast[:-1]])
    expand_entry(["-d", "4", "-o", "104", "-ratio", "0.5", "-steps", "3", *fast])
    new = open_dataset("104")
    case = read_case(new, "sbldm_f0_0003")
    assert case.geometry == read_case(new, new.real_case_ids[0]).geometry
    assert (case.image != 0).all()  # the crops of this dataset have no air around them
    output = train(hippocampus, new.name, "104", **SHORT)
    real_val = read_json(new.preprocessed / "splits_final.json")[0]["val"]
    assert {p.name for p in (output / "validation").glob("*.nii.gz")} == {f"{c}.nii.gz" for c in real_val}

    expand_entry(["-d", "4", "--pool", "-ratio", "0.5", "-steps", "3", *fast])
    pool = open_dataset("4").preprocessed / "sbldm" / "nnUNetPlans_3d_fullres" / "fold_0" / "cases"
    for case_id in ("sbldm_f0_0000", "sbldm_f0_0003"):  # both doors lead to the same preprocessed arrays
        for mine, theirs in zip(load_arrays(pool, case_id), load_arrays(new.data_folder, case_id), strict=True):
            np.testing.assert_array_equal(mine, theirs)
    output = train(hippocampus, SOURCE.name, "4", **SHORT)
    (audit,) = (json.loads(line) for line in (output / "sbldm_audit.jsonl").read_text().splitlines())
    assert 0.1 < audit["share"] < 0.9
    assert (audit["asked"], audit["validation_draws"]) == (0.5, 0)

    images = tmp_path / "images"
    images.mkdir()
    shutil.copyfile(next((hippocampus.raw / SOURCE.name / "imagesTr").iterdir()), images / "new_0000.nii.gz")
    done = run_nnunet(
        PREDICT,
        "-d",
        4,
        "-c",
        "3d_nano",
        "-f",
        0,
        "-tr",
        "nnUNetTrainerSBLDM",
        "-i",
        images,
        "-o",
        tmp_path / "out",
        "-device",
        "cpu",
        "-npp",
        1,
        "-nps",
        1,
        nnUNet_extTrainer=os.environ["nnUNet_extTrainer"],
        **hippocampus.environment(),
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "out" / "new.nii.gz").is_file()
