"""Class ``SBLDM``: how it is loaded, what it says of itself, and that its samples are those of the commands."""

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from nnunet_sbldm import SBLDM, UserError
from nnunet_sbldm.api.settings import SampleSettings
from nnunet_sbldm.cli.sample import sample_entry
from nnunet_sbldm.common.files import read_json
from nnunet_sbldm.data.cases import read_written_case
from nnunet_sbldm.generator.checkpoint import hash_of
from nnunet_sbldm.generator.sharing import Sharing, export_model
from nnunet_sbldm.ldm.config import SamplerConfig
from nnunet_sbldm.types import SBLDMWarning, UnfitGeneratorError

QUICK = {"steps": 2}


@pytest.fixture
def model(generator):
    return SBLDM.load(generator.folder, device="cpu")


def impossible(model):
    """The model with a gate that nothing passes."""
    gate = replace(model.trained.plan.gate, low={"channel_0/mean": 1e9}, high={"channel_0/mean": 2e9})
    return SBLDM(replace(model.trained, plan=replace(model.trained.plan, gate=gate)), "impossible")


# --- loading ---------------------------------------------------------------------------------------------------------


def test_a_model_is_loaded_by_name_by_folder_and_from_a_zip_alike(model, generator, tmp_path):
    assert SBLDM.load("hippocampus_t1", device="cpu").trained.plan.dataset_name == "Dataset004_Hippocampus"
    export_model(generator, tmp_path / "shared.zip", Sharing({"licence": "CC0"}))
    shared = SBLDM.load(tmp_path / "shared.zip", device="cpu")
    (own,), (same,) = (m.sample(seed=3, **QUICK) for m in (model, shared))
    np.testing.assert_array_equal(own.image, same.image)
    assert same.record.generator_path == str(tmp_path / "shared.zip")
    assert "licence CC0" in repr(shared)
    folder = shared.folder
    del shared
    assert not folder.exists()


@pytest.mark.parametrize(("model", "sentence"), [("nobody", "There is no SBLDM nobody"), ("nobody.zip", "There is no SBLDM")])
def test_what_is_no_model_is_refused_as_by_the_commands(model, sentence):
    with pytest.raises(UserError, match=sentence):
        SBLDM.load(model)


def test_a_file_that_is_no_model_is_refused(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"no zip")
    with pytest.raises(UserError, match="is no zip file"):
        SBLDM.load(tmp_path / "a.zip")


def test_training_again_gives_the_model_that_is_there(model, phantom):
    assert SBLDM.train(900, 0, preset="nano", seed=1, device="cpu").trained.hash == hash_of(model.folder)
    with pytest.raises(UserError, match="preset takes tiny, small, base"):
        SBLDM.train(900, 0, preset="huge", device="cpu")
    with pytest.raises(UserError, match="which is not among the real training cases of fold 0"):
        SBLDM.train(900, 0, preset="nano", cases=["nobody"], device="cpu")


# --- conditions ------------------------------------------------------------------------------------------------------


def test_conditions_have_the_ranges_of_the_training_cases(model):
    volumes = model.trained.plan.condition_model.table[:, 1]
    volume = model.conditions["volume_ml"]
    assert (volume.label, volume.unit) == ("tumour", "ml")
    assert (volume.low, volume.high) == (np.nanmin(volumes), np.nanmax(volumes))
    assert volume == model.conditions["tumour/volume_ml"]
    text = repr(model.conditions)
    assert "tumour  volume_ml       ml" in text
    assert text.index("centroid x") < text.index("centroid y") < text.index("centroid z")
    assert model.conditions.table.loc[("tumour", "volume_ml"), "high"] == volume.high
    with pytest.raises(UserError, match="There is no condition volume; the nearest is volume_ml"):
        model.conditions["volume"]


def test_axes_of_conditions_are_those_of_the_file(model):
    plan = model.trained.plan
    turned = SBLDM(replace(model.trained, plan=replace(plan, grid=replace(plan.grid, transpose_forward=(2, 0, 1)))), "turned")
    names = plan.condition_scaling.names
    for letter, plan_axis in (("x", "d"), ("z", "h"), ("y", "w")):
        column = plan.condition_model.table[:, names.index(f"tumour/centroid_{plan_axis}")]
        assert turned.conditions[f"centroid {letter}"].low == np.nanmin(column)


# --- sampling --------------------------------------------------------------------------------------------------------


def test_samples_are_those_of_the_command_voxel_for_voxel(model, phantom_dataset, tmp_path):
    options = ["-n", "2", "-seed", "4", "-steps", "2", "-volume_ml", "12", "-centroid", "0.3", "0.5", "0.6", "-device", "cpu"]
    sample_entry(["-m", str(model.folder), "-o", str(tmp_path / "command"), "--no_gate", *options])
    samples = model.sample(2, seed=4, volume_ml=12, centroid=(0.3, 0.5, 0.6), **QUICK)
    assert samples.save(tmp_path / "python") == tmp_path / "python" / "montage.png"
    for sample in samples:
        names = [f"{sample.case_id}_{c:04d}.nii.gz" for c in range(2)], f"{sample.case_id}.nii.gz"
        for folder in (tmp_path / "command", tmp_path / "python"):
            written, _ = read_written_case(phantom_dataset, sample.case, [folder / n for n in names[0]], folder / names[1])
            np.testing.assert_array_equal(written.image, sample.image)
            np.testing.assert_array_equal(written.label, sample.label)
        records = [read_json(tmp_path / kind / f"{sample.case_id}.json") for kind in ("command", "python")]
        assert records[0] == records[1]
    assert [s.record.seed for s in samples] == [4, 5]


def test_a_range_of_volumes_gives_every_case_its_own(model):
    asked = [s.table.loc[("tumour", "volume_ml"), "asked"] for s in model.sample(3, volume_ml=(10, 20), **QUICK)]
    assert len(set(asked)) == 3
    assert all(10 <= v <= 20 for v in asked)


def test_numbers_of_numpy_are_numbers(model):
    (sample,) = model.sample(np.int64(1), volume_ml=np.float32(12), centroid=np.array([0.3, 0.5, 0.6]), seed=np.int64(2), **QUICK)
    assert sample.record.seed == 2
    assert sample.record.condition_asked["tumour/volume_ml"] == pytest.approx(12)


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"n": 0}, "n takes a whole number from 1; got 0"),
        ({"seed": -1}, "seed takes a whole number from 0"),
        ({"volume_ml": -3}, "volume_ml must be a number above 0"),
        ({"volume_ml": (5, 2)}, "volume_ml must be a number above 0, or"),
        ({"centroid": (0.1, 0.2, 1.3)}, r"centroid must be \[x, y, z\], fractions"),
        ({"label": "nothing"}, "-label nothing is none of tumour"),
        ({"presence": False, "volume_ml": 3}, "an absent label .* has no volume_ml"),
        ({"steps": 1001}, "steps takes a whole number from 1 to 1000"),
        ({"guidance": float("nan")}, "guidance takes a number; got nan"),
        ({"diversity": 0}, "diversity takes a number above 0; got 0"),
    ],
)
def test_bad_values_are_refused_in_one_sentence(model, asked, sentence):
    with pytest.raises(UserError, match=sentence):
        model.sample(**asked)


def test_an_unusual_value_is_warned_of_once_and_printed_by_the_command(model, tmp_path, capsys):
    sentence = "tumour/volume_ml = 9000 is outside the training range"
    with pytest.warns(SBLDMWarning, match=sentence) as caught:
        model.sample(volume_ml=9000, **QUICK)
    assert [w.filename for w in caught if w.category is SBLDMWarning] == [__file__]
    with pytest.warns(SBLDMWarning, match=sentence) as caught:
        model.dataset(1, volume_ml=9000)
    assert [w.filename for w in caught] == [__file__]
    options = ["-volume_ml", "9000", "-n", "1", "-steps", "2", "-device", "cpu"]
    sample_entry(["-m", str(model.folder), "-o", str(tmp_path), "--no_gate", *options])
    assert f"warning: {sentence}" in capsys.readouterr().err


def test_further_settings_of_the_sampler_are_checked_and_recorded(model):
    (sample,) = model.draw(SampleSettings(sampler=SamplerConfig("ddim", eta=0.5, num_steps=2)))
    assert (sample.record.sampler["name"], sample.record.sampler["eta"]) == ("ddim", 0.5)
    with pytest.raises(UserError, match="-eta goes with -sampler ddim, not with dpmsolver"):
        SampleSettings(sampler=SamplerConfig(eta=0.5))


# --- the gate --------------------------------------------------------------------------------------------------------


def test_without_the_gate_its_verdict_is_noted_and_decides_nothing(model):
    (sample,) = impossible(model).sample(**QUICK)
    assert not sample.verdict.accepted
    assert sample.verdict.reasons[0].rule == "channel_0/mean"
    assert sample.record.gate["rules"][0] == "channel_0/mean"
    assert "rejected: channel_0/mean" in repr(sample)


def test_the_gate_leaves_out_what_it_gives_up_and_refuses_an_unfit_model(model):
    with pytest.warns(SBLDMWarning, match=r"The quality gate gave up 1 case\(s\), most often because of channel_0/mean"):
        assert len(impossible(model).sample(1, gate=True, **QUICK)) == 0
    settings = SampleSettings(10, sampler=SamplerConfig(num_steps=1, max_corrections=0), use_gate=True, max_attempts=1)
    with pytest.warns(SBLDMWarning), pytest.raises(UnfitGeneratorError, match="accepts 0 of 10 cases"):
        list(impossible(model).draw(settings))


def test_a_case_that_passes_the_gate_is_recorded_as_in_an_expansion(model):
    plan = model.trained.plan
    lenient = replace(plan.gate, low={}, high={}, tolerance={})
    relaxed = SBLDM(replace(model.trained, plan=replace(plan, gate=lenient)), "lenient")
    (sample,) = relaxed.sample(gate=True, presence=False, **QUICK)
    assert sample.verdict.accepted
    assert sample.record.gate["reasons"] == []
    assert sample.record.sampler["gate"] is True


# --- training loops --------------------------------------------------------------------------------------------------


def items_of(dataset, num_workers):
    return {item["case_id"]: item for item in DataLoader(dataset, batch_size=None, num_workers=num_workers)}


def test_a_dataset_gives_the_same_cases_for_any_number_of_workers(model):
    dataset = model.dataset(3, volume_ml=12, **QUICK)
    alone, shared = items_of(dataset, 0), items_of(dataset, 2)
    assert list(alone) == ["sbldm_00000", "sbldm_00001", "sbldm_00002"]
    assert set(shared) == set(alone)
    for case_id, item in alone.items():
        assert torch.equal(item["image"], shared[case_id]["image"])
        assert torch.equal(item["label"], shared[case_id]["label"])


def test_items_are_as_large_as_the_grid_and_hold_the_sample(model):
    (item,), (sample,) = model.dataset(1, **QUICK), model.sample(1, **QUICK)
    assert item["image"].shape == (2, *model.trained.plan.grid.shape)
    assert (item["image"].dtype, item["label"].dtype) == (torch.float32, torch.int64)
    assert item["label"].shape == (1, *model.trained.plan.grid.shape)
    assert item["image"].double().sum().item() == pytest.approx(sample.image.astype(float).sum())
    assert item["label"].sum().item() == sample.label.sum()
    assert item["spacing_mm"].tolist() == pytest.approx(sample.spacing_mm)
    batch = next(iter(DataLoader(model.dataset(2, **QUICK), batch_size=2)))
    assert batch["image"].shape[:2] == (2, 2)


def test_a_dataset_without_a_number_never_ends(model):
    endless = model.dataset(steps=1, seed=7)
    assert [item["seed"] for item in islice(endless, 3)] == [7, 8, 9]
    with pytest.raises(UserError, match="n takes a whole number from 1; got 0"):
        model.dataset(0)
