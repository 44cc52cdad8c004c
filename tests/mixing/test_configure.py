import json
from dataclasses import fields

import pytest

from nnunet_sbldm.cli.configure import configure_entry
from nnunet_sbldm.data.dataset import open_dataset
from nnunet_sbldm.mixing.configure import add_configuration
from nnunet_sbldm.mixing.settings import MixingSettings
from nnunet_sbldm.types import UserError


@pytest.fixture
def plans_file(dataset):
    path = dataset.preprocessed / "nnUNetPlans.json"
    path.write_text(json.dumps(json.loads(path.read_text()), indent=4))  # as nnU-Net writes it
    return path


def test_the_new_configuration_shares_data_and_carries_the_settings(plans_file):
    name = add_configuration("901", base_configuration="3d_tiny", settings=MixingSettings(0.6, num_epochs=3))
    new, base = open_dataset("901", configuration=name), open_dataset("901", configuration="3d_tiny")
    assert name == "3d_tiny_sbldm60"
    assert new.data_folder == base.data_folder
    assert new.plans_hash() == base.plans_hash()
    assert MixingSettings.from_configuration(new.config.configuration) == MixingSettings(0.6, num_epochs=3)


@pytest.mark.parametrize(("settings", "ending"), [
    (MixingSettings(0), "0"), (MixingSettings(), "25"), (MixingSettings(0.125), "12p5"), (MixingSettings(1), "100"),
    (MixingSettings(0.5, schedule="pretrain"), "50_pretrain"),
    (MixingSettings(0.5, schedule="ramp_down", source="copy_paste"), "50_ramp_down_copy_paste"),
    (MixingSettings(0.5, source="on_the_fly", mode="edit"), "50_on_the_fly_edit"),
])
def test_the_name_tells_the_ratio_in_percent_the_schedule_and_the_source(plans_file, settings, ending):
    assert add_configuration("901", settings=settings) == f"3d_fullres_sbldm{ending}"


def test_the_command_writes_every_setting(plans_file, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    configure_entry("-d 901 -c 3d_tiny -ratio 0.5 -name mine -schedule pretrain -source on_the_fly -m model "
                    "-mode edit -sbldm_device cuda:1 -pool_size 8 -max_reuse 2 -num_epochs 3".split())
    assert json.loads(plans_file.read_text())["configurations"]["mine"] == {"inherits_from": "3d_tiny", "sbldm": {
        "ratio": 0.5, "num_epochs": 3, "schedule": "pretrain", "source": "on_the_fly", "mode": "edit",
        "model": str(tmp_path / "model"), "sbldm_device": "cuda:1", "pool_size": 8, "max_reuse": 2}}
    assert "nnUNetv2_train 901 mine FOLD -p nnUNetPlans -tr nnUNetTrainerSBLDM" in capsys.readouterr().out


@pytest.mark.parametrize(("options", "sentence"), [
    ("-schedule ramp", "error: schedule is one of constant, ramp_down, pretrain; got 'ramp', did you mean 'ramp_down'?"),
    ("-source pool -mode edit", "error: source pool has no setting mode: leave it out or choose on_the_fly."),
    ("-source pool -m MODEL", "error: source pool has no setting model: leave it out or choose on_the_fly."),
])
def test_the_command_refuses_settings_with_one_sentence(plans_file, options, sentence, capsys):
    with pytest.raises(SystemExit) as end:
        configure_entry(f"-d 901 -ratio 0.5 {options}".split())
    assert end.value.code == 2
    assert capsys.readouterr().err.splitlines() == [sentence]


def test_a_second_equal_call_changes_nothing_and_all_else_stays_byte_for_byte(plans_file):
    before = plans_file.read_text()
    name = add_configuration("901", settings=MixingSettings(0.3))
    after = plans_file.read_text()
    assert add_configuration("901", settings=MixingSettings(0.3)) == name
    assert plans_file.read_text() == after
    plans = json.loads(after)
    del plans["configurations"][name]
    assert json.dumps(plans, indent=4) == before


def test_other_settings_under_a_taken_name_are_refused(plans_file):
    add_configuration("901", settings=MixingSettings(0.3), name="3d_mine")
    before = plans_file.read_text()
    with pytest.raises(UserError, match="already have another configuration 3d_mine"):
        add_configuration("901", settings=MixingSettings(0.4), name="3d_mine")
    with pytest.raises(UserError, match="already have another configuration 3d_fullres"):
        add_configuration("901", settings=MixingSettings(0.4), name="3d_fullres")
    assert plans_file.read_text() == before


@pytest.mark.parametrize("name", ["3d__mine", "3d/mine", "..", "3d mine"])
def test_a_name_has_to_fit_into_nnunets_folder_names(plans_file, name):
    with pytest.raises(UserError, match="part of a folder name"):
        add_configuration("901", name=name)


def test_an_unknown_base_and_the_second_stage_of_a_cascade_are_refused(plans_file):
    with pytest.raises(UserError, match="no configuration 3d_nowhere; they have"):
        add_configuration("901", base_configuration="3d_nowhere")
    with pytest.raises(UserError, match="second stage of a cascade"):
        add_configuration("901", base_configuration="3d_tiny_cascade")


def test_missing_plans_name_the_command_that_makes_them(plans_file):
    with pytest.raises(UserError, match="has no plans nnUNetOther: run nnUNetv2_plan_and_preprocess -d 901"):
        add_configuration("901", plans_name="nnUNetOther")


def test_every_setting_has_an_option(capsys):
    with pytest.raises(SystemExit):
        configure_entry(["-h"])
    shown = capsys.readouterr().out
    otherwise = {"model": "-m MODEL", "final_validation": "--no_final_validation"}
    missing = [f.name for f in fields(MixingSettings) if otherwise.get(f.name, f"-{f.name} ") not in shown]
    assert missing == []
