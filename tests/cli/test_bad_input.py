"""Bad input ends with one clear sentence and exit code 2, and nothing is left behind."""

import errno
import re
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from command_line import refused
from nnunet_fixtures import NAME
from phantom_fixtures import NANO, hash_tree

from nnunet_sbldm.cli import models as model_commands
from nnunet_sbldm.cli.demo import demo_entry
from nnunet_sbldm.cli.evaluate import evaluate_entry
from nnunet_sbldm.cli.regenerate import regenerate_entry
from nnunet_sbldm.cli.sample import sample_entry
from nnunet_sbldm.cli.train import train_entry
from nnunet_sbldm.common.files import read_json, write_json
from nnunet_sbldm.data.cases import preprocess_case, read_case
from nnunet_sbldm.dataset_conversion.expand_dataset import expand_entry
from nnunet_sbldm.generator import presets as config
from nnunet_sbldm.training import loop as optimisation


def train(*extra):
    return train_entry, "-d", "901", "-f", "0", "-preset", "nano", "-device", "cpu", *extra


@pytest.fixture(autouse=True)
def nano(phantom_folders, monkeypatch):
    monkeypatch.setitem(config.PRESETS, "nano", NANO)


@pytest.fixture
def writable_raw(folders, tmp_path, monkeypatch):
    """The small dataset with a private copy of its raw files too."""
    shutil.copytree(folders.raw, tmp_path / "raw")
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    return tmp_path / "raw" / NAME


@pytest.mark.parametrize("variable", ["nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"])
def test_unset_variables_are_named(folders, monkeypatch, capsys, variable):
    monkeypatch.delenv(variable)
    assert f"The environment variable {variable} is not set" in refused(capsys, *train())


def test_unknown_datasets_plans_and_folds(folders, capsys):
    assert "Expected one dataset with the id 77" in refused(capsys, train_entry, "-d", "77", "-f", "0")
    assert "run nnUNetv2_plan_and_preprocess -d 901" in refused(capsys, *train("-p", "otherPlans"))
    assert "Fold 7 is not in splits_final.json" in refused(capsys, *train("-f", "7"))
    assert "A fold is a number from 0, or all; got 'first'" in refused(capsys, *train("-f", "first"))
    assert "There is no finished SBLDM in" in refused(capsys, sample_entry, "-m", folders.results, "-o", "x")


def test_a_dataset_that_is_not_preprocessed(folders, dataset, capsys):
    shutil.rmtree(dataset.data_folder)
    assert "is not preprocessed for 3d_fullres: run nnUNetv2_preprocess -d 901 -plans_name nnUNetPlans -c 3d_fullres" in refused(
        capsys, *train()
    )


def replace_voxels(path, change):
    image = sitk.ReadImage(str(path))
    array = change(sitk.GetArrayFromImage(image).astype(np.float32))
    new = sitk.GetImageFromArray(array)
    if array.shape == tuple(reversed(image.GetSize())):
        new.CopyInformation(image)
    sitk.WriteImage(new, str(path))


def test_a_mask_of_another_geometry_is_named_and_leaves_nothing_behind(writable_raw, folders, capsys):
    replace_voxels(writable_raw / "labelsTr" / "case_3.nii.gz", lambda a: a[:-2])
    write_json(folders.preprocessed / NAME / "splits_final.json", [{"train": ["case_1", "case_2", "case_3"], "val": ["case_4"]}])
    assert re.search("Case case_3 .* differ in geometry", refused(capsys, *train()))
    assert [p for p in folders.results.rglob("*") if p.is_file()] == []


def preprocess_changed(dataset, case_id, **changes):
    preprocess_case(dataset, replace(read_case(dataset, case_id), **changes), dataset.data_folder / case_id)


def test_constant_images_and_missing_foreground(folders, dataset, capsys):
    splits = folders.preprocessed / NAME / "splits_final.json"
    write_json(splits, [{"train": ["case_1", "case_2"], "val": ["case_4"]}])
    case = read_case(dataset, "case_1")
    preprocess_changed(dataset, "case_1", image=np.ones_like(case.image))
    assert "Channel MRI of case case_1" in refused(capsys, *train())
    preprocess_changed(dataset, "case_1", image=np.where(case.label[None] == 1, np.nan, case.image))
    assert "Case case_1 of Dataset901_Tiny has NaN or infinite voxels" in refused(capsys, *train())
    for case_id in ("case_1", "case_2"):
        preprocess_changed(dataset, case_id, label=np.zeros_like(case.label))
    assert "No training case" in refused(capsys, *train())
    write_json(splits, [{"train": ["case_2"], "val": ["case_4"]}])
    assert "has 1 training case(s) in fold 0; an SBLDM needs at least 2" in refused(capsys, *train())


def test_healthy_cases_among_others_are_fine(folders, dataset):
    write_json(folders.preprocessed / NAME / "splits_final.json", [{"train": ["case_1", "case_2", "case_3"], "val": ["case_4"]}])
    preprocess_changed(dataset, "case_2", label=np.zeros_like(read_case(dataset, "case_2").label))
    train_entry(["-d", "901", "-f", "0", "-preset", "nano", "-device", "cpu"])
    plan = read_json(folders.results / NAME / "SBLDM__nnUNetPlans__nano" / "fold_0" / "generator.json")
    presence = plan["condition_scaling"]["names"].index("tumour/presence")
    assert [row[presence] for row in plan["condition_table"]] == [1.0, 0.0, 1.0]


def test_chosen_cases_must_be_training_cases_of_the_fold(folders, tmp_path, capsys):
    chosen = tmp_path / "cases.txt"
    write_json(folders.preprocessed / NAME / "splits_final.json", [{"train": ["case_1", "case_2"], "val": ["case_4"]}])
    chosen.write_text("case_1\ncase_4\n")
    assert "-cases names case_4, which is not among the real training cases of fold 0" in refused(
        capsys, *train("-cases", chosen)
    )
    assert "is not a file" in refused(capsys, *train("-cases", tmp_path / "none.txt"))


@pytest.mark.parametrize(("number", "reason"), [(errno.ENOSPC, "the disk is full"), (errno.EACCES, "permission denied")])
def test_a_full_disk_or_a_forbidden_folder_in_the_middle_of_training(folders, capsys, monkeypatch, number, reason):
    def fail(*_):
        raise OSError(number, "no", "weights")

    monkeypatch.setattr(optimisation, "save_file", fail)
    write_json(folders.preprocessed / NAME / "splits_final.json", [{"train": ["case_1", "case_2"], "val": ["case_4"]}])
    assert f"weights cannot be written: {reason}" in refused(capsys, *train())
    assert not list(folders.results.rglob("*.safetensors"))
    assert not list(folders.results.rglob("generator.json"))


@pytest.mark.parametrize(
    "command",
    [
        (train_entry, "-d", "900", "-f", "0", "-preset", "nano"),
        (expand_entry, "-d", "900", "-f", "0", "-preset", "nano", "--pool"),
        (sample_entry, "-m", "Dataset900_Phantom/SBLDM__nnUNetPlans__nano", "-o", "out"),
        (evaluate_entry, "-m", "Dataset900_Phantom/SBLDM__nnUNetPlans__nano", "-mode", "edit"),
        (regenerate_entry, "900", "case"),
        (demo_entry, "-o", "out"),
    ],
    ids=lambda command: command[0].__name__,
)
def test_a_missing_device(phantom, tmp_path, monkeypatch, capsys, command):
    import torch

    monkeypatch.chdir(tmp_path)
    for device, is_there in {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}.items():
        if not is_there:
            assert f"-device {device} was asked for, but" in refused(capsys, *command, "-device", device)
    assert not (tmp_path / "out").exists()


def test_sampling_with_bad_conditions(phantom_folders, tmp_path, capsys):
    model = phantom_folders.results / "Dataset900_Phantom" / "SBLDM__nnUNetPlans__nano" / "fold_0"
    before = hash_tree(tmp_path)
    sample = (sample_entry, "-m", model, "-o", tmp_path / "out", "-device", "cpu")
    assert "-label edema is none of tumour" in refused(capsys, *sample, "-label", "edema", "-volume_ml", "3")
    assert "expected a number above 0" in refused(capsys, *sample, "-volume_ml", "0")
    assert "expected a whole number from 1" in refused(capsys, *sample, "-n", "none")
    assert "expected a whole number from 1 to 1000" in refused(capsys, *sample, "-steps", "2000")
    assert "expected a whole number from 0 to" in refused(capsys, *sample, "-seed", "99999999999999999999")
    assert hash_tree(tmp_path) == before


def test_a_file_where_a_folder_is_to_be_written(phantom_folders, tmp_path, capsys):
    model = phantom_folders.results / "Dataset900_Phantom" / "SBLDM__nnUNetPlans__nano" / "fold_0"
    file = tmp_path / "notes.txt"
    file.write_text("mine")
    sample = (sample_entry, "-m", model, "-n", "1", "-steps", "1", "-device", "cpu", "-o", file)
    export = (model_commands.export_entry, "-m", model, "-licence", "none", "-o", file / "model.zip")
    for command in (sample, export):
        assert refused(capsys, *command) == f"error: {file} cannot be written: a file of that name is in the way."
    assert file.read_text() == "mine"


def test_a_reader_that_has_read_enough_is_no_error_of_ours():
    command = "from nnunet_sbldm.common.commands import run; run(lambda: print('x' * 10**6))"
    process = subprocess.Popen([sys.executable, "-c", command], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 1
