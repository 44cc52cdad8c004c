"""Features of a trained nnU-Net: what they are, and which networks are refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from nnunet_fixtures import start_trainer
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_sbldm.cli.evaluate import evaluate_entry
from nnunet_sbldm.common.files import read_json, write_json
from nnunet_sbldm.data.cases import load_preprocessed
from nnunet_sbldm.data.splits import fold_cases
from nnunet_sbldm.evaluation.nnunet_encoder import load_encoder
from nnunet_sbldm.evaluation.sections import SECTIONS
from nnunet_sbldm.mixing.settings import SETTINGS_NAME
from nnunet_sbldm.types import UserError

CPU = torch.device("cpu")


@pytest.fixture
def model(phantom, phantom_dataset):
    """An nnU-Net of fold 0, with the weights it starts with."""
    plans = phantom_dataset.preprocessed / "nnUNetPlans.json"
    content = read_json(plans)
    arguments = content["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
    arguments["features_per_stage"] = [8 * 2**i for i in range(arguments["n_stages"])]
    write_json(plans, content)
    trainer = start_trainer(nnUNetTrainer, phantom_dataset, fold=0, configuration="3d_fullres")
    folder = phantom.results / phantom_dataset.name / "nnUNetTrainer__nnUNetPlans__3d_fullres"
    trainer.save_checkpoint(str(folder / "fold_0" / "checkpoint_final.pth"))
    return folder


def test_features_of_a_patch_are_the_means_of_the_deepest_feature_maps(model, phantom_dataset):
    encoder = load_encoder(model, phantom_dataset, 0, CPU)
    image, _ = load_preprocessed(phantom_dataset, fold_cases(phantom_dataset, 0)[1][0])
    padded = np.zeros((len(image), *encoder.patch_size), np.float32)
    padded[(slice(None), *(slice(0, n) for n in image.shape[1:]))] = image
    with torch.inference_mode():
        expected = encoder.encoder(torch.from_numpy(padded)[None])[-1].mean(dim=(0, 2, 3, 4)).numpy()
    np.testing.assert_allclose(encoder.features(image), expected, rtol=1e-4, atol=1e-6)
    assert encoder.features(image).std() > 0


def test_a_large_image_is_the_mean_of_its_patches(model, phantom_dataset):
    encoder = load_encoder(model, phantom_dataset, 0, CPU)
    patch = np.random.default_rng(0).normal(size=(len(phantom_dataset.channel_names), *encoder.patch_size)).astype(np.float32)
    other = np.roll(patch, 3, axis=2)
    halves = [encoder.features(p) for p in (patch, other)]
    np.testing.assert_allclose(encoder.features(np.concatenate([patch, other], axis=1)), np.mean(halves, axis=0), rtol=1e-4)


def test_command_reports_the_features_with_their_floor(model, generator, tmp_path, capsys):
    out = tmp_path / "out"
    options = ["-n", "2", "-steps", "1", "-device", "cpu", "--no_gate", "-nnunet", str(model)]
    evaluate_entry(["-m", str(generator.folder), "-o", str(out), *options])
    written = read_json(out / "evaluation.json")
    assert written["nnunet"] == str(model)
    names = [r["name"] for r in written["sections"]["nnunet"]]
    assert names == ["Frechet distance", "kernel distance (KID)", "precision", "recall", "density", "coverage"]
    assert all(r["value"] is not None and r["floor"] is not None for r in written["sections"]["nnunet"])
    assert SECTIONS["nnunet"]["title"] in (out / "evaluation.html").read_text()


def edited(folder, name, change):
    content = read_json(folder / name)
    change(content)
    (folder / name).write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("dataset.json", lambda c: c.update(channel_names={"0": "T2", "1": "PD"}), "on the channels T2, PD; Dataset900"),
        ("plans.json", lambda c: c.update(dataset_name="Dataset901_Other"), "was trained on Dataset901_Other with nnUNetPlans"),
        (
            "plans.json",
            lambda c: c["configurations"]["3d_fullres"].update(spacing=[9.0, 4.0, 4.0]),
            "preprocessed differently from Dataset900",
        ),
        ("dataset.json", lambda c: c.update(sbldm={"synthetic_cases": ["sbldm_f0_0000"]}), "was trained on synthetic cases"),
        ("plans.json", lambda c: c["configurations"].pop("3d_fullres"), "cannot be loaded"),
    ],
)
def test_unsuitable_networks_are_refused_in_one_sentence(model, phantom_dataset, name, change, message):
    edited(model, name, change)
    with pytest.raises(UserError, match=message):
        load_encoder(model, phantom_dataset, 0, CPU)


def test_networks_of_another_fold_or_damaged_ones_are_refused(model, phantom_dataset):
    for folder in (model, model / "fold_0"):
        with pytest.raises(UserError, match=r"has no fold_1/checkpoint_final.pth; expected the folder TRAINER__PLANS"):
            load_encoder(folder, phantom_dataset, 1, CPU)
    (model / "fold_0" / "checkpoint_final.pth").write_bytes(b"nothing")
    with pytest.raises(UserError, match="cannot be loaded"):
        load_encoder(model, phantom_dataset, 0, CPU)


@pytest.mark.parametrize("ratio", [0, 0.5])
def test_our_trainer_is_welcome_where_it_mixes_nothing_in(model, phantom_dataset, ratio):
    write_json(model / "fold_0" / SETTINGS_NAME, {"ratio": ratio})
    if ratio:
        with pytest.raises(UserError, match="was trained on synthetic cases; give one trained on real cases alone"):
            load_encoder(model, phantom_dataset, 0, CPU)
    else:
        assert load_encoder(model, replace(phantom_dataset), 0, CPU).patch_size
