"""Training: resumable, reproducible, self-contained, and careful about what it saw."""

import csv
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from phantom_fixtures import NANO, hash_tree, store_as_sagittal
from safetensors.torch import load_file

from nnunet_sbldm.cli.train import train_entry
from nnunet_sbldm.common.files import read_json, write_json
from nnunet_sbldm.data.cases import read_case
from nnunet_sbldm.data.dataset import open_dataset
from nnunet_sbldm.data.fingerprints import fingerprints_of
from nnunet_sbldm.data.splits import fold_cases
from nnunet_sbldm.dataset_conversion.expand_dataset import expand_entry
from nnunet_sbldm.generator import presets as config
from nnunet_sbldm.generator.checkpoint import generator_folder, load_model
from nnunet_sbldm.generator.zoo import is_complete
from nnunet_sbldm.training import loop as optimisation
from nnunet_sbldm.training import preparation
from nnunet_sbldm.training import train as training
from nnunet_sbldm.training.loop import averaged, learning_rate_at
from nnunet_sbldm.training.preparation import condition_targets, intensity_scaling, label_encoding, prepare, summarise
from nnunet_sbldm.training.request import TrainingRequest
from nnunet_sbldm.training.train import train_generator
from nnunet_sbldm.types import OUTSIDE, SBLDMWarning, UserError

SHORT = replace(
    NANO,
    name="short",
    autoencoder_stage=replace(NANO.autoencoder_stage, num_steps=12, picture_every_steps=5),
    denoiser_stage=replace(NANO.denoiser_stage, num_steps=12, picture_every_steps=5),
)


class KilledError(Exception):
    pass


def test_training_that_is_killed_again_and_again_ends_with_the_same_weights(phantom_dataset, monkeypatch):
    cases = fold_cases(phantom_dataset, 0)[0]
    train_generator(TrainingRequest(phantom_dataset, 0, SHORT, cases), "cpu")
    folder = generator_folder(phantom_dataset, "short", 0)
    uninterrupted = folder.rename(folder.with_name("uninterrupted"))

    save_state, steps_run = optimisation._save_state, []

    def save_and_die(file, network, ema, optimizer, step, seconds):
        save_state(file, network, ema, optimizer, step, seconds)
        steps_run.append(step)
        raise KilledError

    monkeypatch.setattr(optimisation, "_save_state", save_and_die)
    for _ in range(6):  # at 5, 10 and 12 steps of each stage
        with pytest.raises(KilledError):
            train_generator(TrainingRequest(phantom_dataset, 0, SHORT, cases), "cpu")
    train_generator(TrainingRequest(phantom_dataset, 0, SHORT, cases), "cpu")
    assert steps_run == [5, 10, 12] * 2
    for name in ("autoencoder.safetensors", "denoiser.safetensors"):
        mine, theirs = load_file(folder / name), load_file(uninterrupted / name)
        assert all(torch.equal(mine[k], theirs[k]) for k in theirs)
    assert load_model(folder).hash == load_model(uninterrupted).hash


def test_a_finished_generator_is_not_trained_again(phantom, phantom_dataset):
    folder = generator_folder(phantom_dataset, "nano", 0)
    before = hash_tree(folder)
    (folder / "work").mkdir()  # killed after the last file was written
    (folder / "work" / "images.npy").write_bytes(b"0")
    train_generator(TrainingRequest(phantom_dataset, 0, NANO, fold_cases(phantom_dataset, 0)[0], 1), "cpu")
    assert hash_tree(folder) == before
    assert not (folder / "work").exists()


def test_other_processes_wait_for_the_one_that_prepares_the_cases(monkeypatch):
    asked = []
    monkeypatch.setattr(optimisation, "Accelerator", lambda **options: asked.append(options))
    optimisation.make_accelerator("cpu")
    (patience,) = asked[0]["kwargs_handlers"]
    assert patience.to_kwargs()["timeout"].days >= 1


def test_a_channel_with_few_voxels_is_scaled_by_its_extremes(phantom_dataset, monkeypatch):
    targets, encoding = condition_targets(phantom_dataset), label_encoding(phantom_dataset)
    load, read = preparation.load_preprocessed, preparation.read_case

    def sparse(channel, inside):  # a mask or heat map with a few voxels of foreground
        out = np.zeros_like(channel)
        out[tuple(np.argwhere(inside)[0])] = 1
        return out

    def load_sparse(dataset, case_id):
        image, label = load(dataset, case_id)
        return np.stack([image[0], sparse(image[1], label != OUTSIDE)]), label

    def read_sparse(dataset, case_id):
        case = read(dataset, case_id)
        return replace(case, image=np.stack([case.image[0], sparse(case.image[1], case.image[0] != 0)]))

    monkeypatch.setattr(preparation, "load_preprocessed", load_sparse)
    monkeypatch.setattr(preparation, "read_case", read_sparse)
    summaries = [summarise(phantom_dataset, c, encoding, targets) for c in fold_cases(phantom_dataset, 0)[0][:3]]
    scaling = intensity_scaling(phantom_dataset, summaries)
    assert np.isfinite([v for values in vars(scaling).values() for v in values]).all()
    assert min(scaling.scale) > 0.1
    monkeypatch.setattr(preparation, "load_preprocessed", lambda *_: (lambda i, m: (np.where(m == OUTSIDE, i, 0), m))(*load(*_)))
    with pytest.raises(UserError, match="is constant in the anatomy"):
        summarise(phantom_dataset, "phantom_001", encoding, targets)


def test_a_finished_generator_is_not_taken_for_another_one(phantom, phantom_dataset):
    train, _ = fold_cases(phantom_dataset, 0)
    folder = generator_folder(phantom_dataset, "nano", 0)
    with pytest.raises(UserError, match="was trained on other cases and was trained with the seed 1; move that folder away"):
        train_generator(TrainingRequest(phantom_dataset, 0, NANO, train[:3], 7), "cpu")
    plans_file = phantom_dataset.preprocessed / "nnUNetPlans.json"
    plans = read_json(plans_file)
    plans["configurations"]["3d_fullres"]["spacing"] = [5.0, 4.0, 4.0]
    write_json(plans_file, plans)
    with pytest.raises(UserError, match=f"{folder} holds an SBLDM that was trained with other plans; move"):
        train_generator(TrainingRequest(open_dataset("900"), 0, NANO, train, 1), "cpu")


def test_what_the_fold_rule_asks_for_can_be_trained(phantom, phantom_dataset, capsys, monkeypatch):
    """A patient in training and validation, named later, and a copy of a validation case: both are left out."""
    monkeypatch.setitem(config.PRESETS, "nano", replace(SHORT, name="nano"))
    train, val = fold_cases(phantom_dataset, 0)
    command = ["-d", "900", "-f", "0", "-preset", "nano", "-device", "cpu", "-seed", "1"]
    for kind in ("images", "label"):
        theirs, mine = (phantom_dataset.case_files[c][kind] for c in (val[0], train[0]))
        for source, target in zip(theirs, mine, strict=True) if kind == "images" else [(theirs, mine)]:
            shutil.copy(source, target)
    groups = {c: c for c in (*train, *val)} | {train[1]: val[1]}
    write_json(phantom_dataset.preprocessed / "sbldm" / "groups.json", groups)
    with pytest.raises(SystemExit) as e:
        train_entry(command)
    assert e.value.code == 2
    message = capsys.readouterr().err
    assert f"1 in all, as copies of validation cases: {train[0]} (same image content as {val[0]})" in message
    assert "was trained on other cases; move that folder away" in message
    generator_folder(phantom_dataset, "nano", 0).rename(phantom.results / "away")
    train_entry(command)
    seen = load_model(generator_folder(phantom_dataset, "nano", 0)).seen
    assert [c.case_id for c in seen] == train[2:]
    expand_entry([*command, "-steps", "2", "--pool", "-n", "1", "--no_gate"])


def test_an_unfinished_run_with_other_settings_is_not_mixed_in(phantom_dataset, monkeypatch):
    monkeypatch.setattr(training, "train_stage", lambda *a: (_ for _ in ()).throw(KilledError))
    cases = fold_cases(phantom_dataset, 0)[0]
    with pytest.raises(KilledError):
        train_generator(TrainingRequest(phantom_dataset, 0, SHORT, cases, 0), "cpu")
    with pytest.raises(UserError, match="unfinished run with other"):
        train_generator(TrainingRequest(phantom_dataset, 0, SHORT, cases, 1), "cpu")


def test_an_unfinished_run_of_a_version_with_more_options_goes_on():
    old = (
        "Preset(name='tiny', autoencoder=AutoencoderConfig(widths=(16, 24, 32), latent_channels=4, embedding_dim=64, "
        "use_position=True, latent_noise=0.2, crop_pixels=64), denoiser=DenoiserConfig(widths=(32, 64, 128), embedding_dim=64, "
        "dropout=0.0, use_maps=True), autoencoder_stage=StageConfig(num_steps=1000, batch_size=16, learning_rate=0.002, "
        "warmup_steps=30, weight_decay=0.01, ema_decay=0.99, max_gradient_norm=1.0, picture_every_steps=500), "
        "denoiser_stage=StageConfig(num_steps=1200, batch_size=8, learning_rate=0.002, warmup_steps=30, weight_decay=0.01, "
        "ema_decay=0.99, max_gradient_norm=1.0, picture_every_steps=400), diffusion=DiffusionConfig("
        "prediction_type='v_prediction', schedule='squaredcos_cap_v2', noise_shift=2.0, min_snr_gamma=None, "
        "num_train_timesteps=1000, condition_dropout=0.1, feature_dropout=0.2, foreground_weight=4.0, self_conditioning=False, "
        "masked_share=0.0), augmentation=AugmentationConfig(num_wanted=160, max_copies=7, max_rotation_deg=8.0, "
        "max_scaling=0.08, max_gain=0.05, max_gamma=0.1))"
    )
    assert config.PRESETS["tiny"].as_text() == old


@pytest.mark.parametrize(("option", "on"), [("self_conditioning", True), ("masked_share", 0.5)])
def test_a_model_of_an_experiment_that_is_gone_is_refused_and_its_off_switch_is_not(generator, option, on):
    file = generator.folder / "generator.json"
    content = read_json(file)
    content["preset"]["diffusion"] |= {"min_snr_gamma": None, "self_conditioning": False, "masked_share": 0.0}
    write_json(file, content)
    assert load_model(generator.folder).plan == generator.plan
    content["preset"]["diffusion"][option] = on
    write_json(file, content)
    with pytest.raises(UserError, match=rf"was trained with {option}, which this version no longer has; sample it with nnunet"):
        load_model(generator.folder)


def test_the_checkpoint_lists_exactly_the_training_cases_with_their_content(generator, phantom_dataset):
    train, val = fold_cases(phantom_dataset, 0)
    assert sorted(c.case_id for c in generator.seen) == sorted(train)
    assert {c.case_id: c for c in generator.seen} == fingerprints_of(phantom_dataset, train)
    assert all(len(c.image_hashes) == 2 and c.label_hash for c in generator.seen)


def test_the_checkpoint_is_self_contained_and_holds_no_pickle(generator, tmp_path, monkeypatch):
    copy = tmp_path / "elsewhere"
    shutil.copytree(generator.folder, copy)
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.delenv(name)
    assert load_model(copy).hash == generator.hash
    endings = {p.suffix for p in copy.rglob("*") if p.is_file()}
    assert endings == {".json", ".safetensors", ".csv", ".png", ".md"}


@pytest.mark.parametrize("name", ["generator.json", "training_cases.json", "dataset.json"])
def test_a_damaged_or_missing_description_is_noticed(generator, name):
    file = generator.folder / name
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(UserError, match=rf"is damaged \(.*{name} is not valid JSON: .*\); copy it again"):
        load_model(generator.folder)
    file.unlink()
    message = "There is no finished SBLDM" if name == "generator.json" else f"is damaged .*{name}"
    with pytest.raises(UserError, match=message):
        load_model(generator.folder)


def test_a_list_of_training_cases_that_is_too_short_is_no_list(generator):
    write_json(generator.folder / "training_cases.json", [c.to_json() for c in generator.seen[1:]])
    with pytest.raises(UserError, match="lists 7 cases, but it was trained on 8"):
        load_model(generator.folder)


def test_damage_is_noticed(generator, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(generator.folder, copy)
    weights = copy / "denoiser.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match="damaged"):
        load_model(copy)


def test_the_log_can_be_plotted_and_there_are_pictures(generator):
    with open(generator.folder / "training_log.csv", newline="") as f:
        rows = list(csv.DictReader(f))
    assert [int(r["step"]) for r in rows if r["stage"] == "autoencoder"] == [25, 50, 60]
    assert [int(r["step"]) for r in rows if r["stage"] == "denoiser"] == [25, 50, 60]
    first, *later = [float(r["loss"]) for r in rows if r["stage"] == "autoencoder"]
    assert min(later) < first
    names = {p.name for p in (generator.folder / "pictures").iterdir()}
    assert {"autoencoder_000060.png", "denoiser_000060.png"} <= names


def test_standardised_training_latents_have_zero_mean_and_unit_variance(generator, phantom_dataset):
    from nnunet_sbldm.generator.nearest import NearestRealCase

    latents = torch.stack(list(NearestRealCase(generator, phantom_dataset).latents.values()))
    torch.testing.assert_close(latents.mean(dim=(0, 2, 3, 4)), torch.zeros(latents.shape[1]), atol=2e-3, rtol=0)
    torch.testing.assert_close(latents.std(dim=(0, 2, 3, 4)), torch.ones(latents.shape[1]), atol=2e-3, rtol=0)


def test_only_the_training_cases_of_the_fold_are_read(phantom_dataset):
    """Validation cases may be unreadable: nothing of the generator touches them."""
    train, val = fold_cases(phantom_dataset, 1)
    for case_id in val:
        for file in [*phantom_dataset.case_files[case_id]["images"], phantom_dataset.data_folder / f"{case_id}.b2nd"]:
            os.remove(file)
    assert is_complete(train_generator(TrainingRequest(phantom_dataset, 1, SHORT, train), "cpu"))


def test_a_model_has_the_orientation_of_most_of_its_training_cases(phantom_dataset, tmp_path):
    cases = fold_cases(phantom_dataset, 0)[0]
    first = phantom_dataset.case_files[cases[0]]
    store_as_sagittal([*first["images"], first["label"]])
    with pytest.warns(SBLDMWarning, match=f"1 of {len(cases)} training cases .* in another orientation than most"):
        plan, _, _ = prepare(TrainingRequest(phantom_dataset, 0, SHORT, cases), tmp_path)
    assert plan.template == read_case(phantom_dataset, cases[1]).geometry


def test_the_average_of_constant_weights_is_that_constant_and_early_steps_weigh_most():
    network = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(network.weight, 0.0)
    ema = averaged(network, 0.999)
    torch.nn.init.constant_(network.weight, 1.0)
    values = []
    for _ in range(200):
        ema.update_parameters(network)
        values.append(ema.module.weight.item())
    assert values == sorted(values)
    assert values[-1] == pytest.approx(1, abs=1e-3)


def test_the_learning_rate_warms_up_and_decays_to_zero():
    config = NANO.autoencoder_stage
    rates = [learning_rate_at(s, config) for s in range(config.num_steps)]
    assert rates[0] == pytest.approx(config.learning_rate / config.warmup_steps)
    assert max(rates) == pytest.approx(config.learning_rate, rel=0.05)
    assert rates[-1] < 0.01 * config.learning_rate
