import hashlib
import os
from dataclasses import replace
from pathlib import Path

import blosc2
import pytest
import SimpleITK as sitk
import torch
from nnunet_fixtures import PLAN, NnunetFolders, run_nnunet

from nnunet_sbldm.common.files import write_json
from nnunet_sbldm.data.dataset import open_dataset
from nnunet_sbldm.data.phantom import PhantomConfig, write_phantom_dataset
from nnunet_sbldm.data.splits import SPLITS, dealt, fold_cases
from nnunet_sbldm.generator import presets as config
from nnunet_sbldm.generator.checkpoint import load_model
from nnunet_sbldm.generator.presets import AugmentationConfig, Preset, StageConfig
from nnunet_sbldm.ldm.config import AutoencoderConfig, DenoiserConfig
from nnunet_sbldm.training.request import TrainingRequest
from nnunet_sbldm.training.train import train_generator

SMALL_PHANTOM = PhantomConfig(shape=(10, 32, 28), spacing_mm=(6.0, 4.0, 4.0))
STAGE = StageConfig(num_steps=60, batch_size=8, learning_rate=2e-3, warmup_steps=5, ema_decay=0.9, picture_every_steps=25)
NANO = Preset(
    "nano",
    AutoencoderConfig(widths=(8, 8, 16), embedding_dim=16),
    DenoiserConfig(widths=(8, 16), embedding_dim=16),
    STAGE,
    replace(STAGE, batch_size=4),
    augmentation=AugmentationConfig(max_copies=1),
)
SHORT = replace(NANO, autoencoder_stage=replace(STAGE, num_steps=15), denoiser_stage=replace(STAGE, batch_size=4, num_steps=10))
"""Enough where it does not matter what the networks have learned."""


def hash_tree(folder):
    """Every file below a folder with the hash of its bytes, or of its voxels: blosc2's threads finish in any order."""
    files = (p for p in sorted(Path(folder).rglob("*")) if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(content(p)).hexdigest() for p in files}


def content(file):
    return blosc2.open(str(file), mode="r")[:].tobytes() if file.suffix == ".b2nd" else file.read_bytes()


def make_planned_phantom(home, phantom_config=SMALL_PHANTOM, num_cases=10, file_ending=".nii.gz", change=None):
    """A phantom dataset 900, changed by ``change(raw folder)``, planned and preprocessed by nnU-Net."""
    folders = NnunetFolders(home / "raw", home / "preprocessed", home / "results")
    for folder in (folders.raw, folders.preprocessed, folders.results):
        folder.mkdir()
    raw = write_phantom_dataset(folders.raw, 900, num_cases, config=phantom_config, file_ending=file_ending)
    if change:
        change(raw)
    done = run_nnunet(PLAN, "-d", 900, "-c", "3d_fullres", "-np", 1, "-npfp", 1, "--no_pbar", **folders.environment())
    assert done.returncode == 0, done.stderr
    return folders


@pytest.fixture(scope="session")
def phantom_folders(tmp_path_factory):
    """A phantom dataset and an SBLDM of fold 0, trained for a few steps; shared, so left as they are."""
    folders = make_planned_phantom(tmp_path_factory.mktemp("phantom"))
    before = dict(os.environ)
    os.environ.update(folders.environment())
    try:
        dataset = open_dataset("900")
        write_json(dataset.preprocessed / SPLITS, dealt(dataset))  # as nnU-Net's first training does
        train_generator(TrainingRequest(dataset, 0, NANO, fold_cases(dataset, 0)[0], 1), "cpu")
    finally:
        os.environ.clear()
        os.environ.update(before)
    return folders


@pytest.fixture
def phantom(phantom_folders, tmp_path, monkeypatch):
    """A private copy of the phantom's folders, with nnU-Net's variables set to them and the preset ``nano`` known."""
    import shutil

    mine = NnunetFolders(tmp_path / "raw", tmp_path / "preprocessed", tmp_path / "results")
    for name in ("raw", "preprocessed", "results"):
        shutil.copytree(getattr(phantom_folders, name), getattr(mine, name))
    for name, value in mine.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setitem(config.PRESETS, "nano", NANO)
    return mine


@pytest.fixture
def phantom_dataset(phantom):
    return open_dataset("900")


@pytest.fixture
def generator(phantom_dataset, phantom):
    return load_model(phantom.results / phantom_dataset.name / "SBLDM__nnUNetPlans__nano" / "fold_0", torch.device("cpu"))


def store_as_sagittal(files):
    """Let the third axis of the files, x first, run between left and right; the arrays stay as they are."""
    for file in files:
        image = sitk.ReadImage(str(file))
        image.SetDirection([0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0])
        sitk.WriteImage(image, str(file))
