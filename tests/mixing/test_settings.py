import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnunet_sbldm.mixing.schedule import SCHEDULES
from nnunet_sbldm.mixing.settings import MODES, SOURCES, MixingSettings
from nnunet_sbldm.types import UserError


def test_without_a_block_the_defaults_hold():
    assert MixingSettings.from_configuration({"spacing": [1, 1, 1]}) == MixingSettings(ratio=0.25)


COUNT = st.none() | st.integers(1, 9)


@given(st.builds(MixingSettings, st.floats(0, 1), COUNT, COUNT, COUNT, st.sampled_from(SCHEDULES), st.sampled_from(SOURCES))
       | st.builds(MixingSettings, mode=st.sampled_from(MODES), model=st.just("a/model"),
                   sbldm_device=st.just("cuda:1"), pool_size=COUNT, max_reuse=COUNT,
                   wait_s=st.floats(0, 600)))
def test_a_block_read_back_from_the_plans_is_the_same(settings):
    assert MixingSettings.from_configuration(json.loads(json.dumps({"sbldm": settings.to_block()}))) == settings


def test_an_unknown_key_names_the_nearest_valid_one():
    with pytest.raises(UserError, match="unknown key 'num_epoch': did you mean 'num_epochs'"):
        MixingSettings.from_configuration({"sbldm": {"num_epoch": 5}})


@pytest.mark.parametrize(("key", "value", "nearest"), [
    ("schedule", "rampdown", "ramp_down"), ("source", "copypaste", "copy_paste"), ("source", "on_fly", "on_the_fly"),
    ("mode", "edits", "edit"),
])
def test_an_unknown_value_names_the_nearest_valid_one(key, value, nearest):
    with pytest.raises(UserError, match=f"{key} is one of .*; got {value!r}, did you mean '{nearest}'") as error:
        MixingSettings.from_configuration({"sbldm": {key: value}})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("key", "value"), [("model", ""), ("model", 4), ("sbldm_device", "gpu"), ("sbldm_device", 1),
                                            ("pool_size", 0), ("max_reuse", 2.5), ("wait_s", 601),
                                            ("wait_s", True), ("cpu_precision", "fp16"), ("final_validation", 1)])
def test_values_of_settings_are_checked(key, value):
    with pytest.raises(UserError, match=f"^{key} is .* got {value!r}"):
        MixingSettings.from_configuration({"sbldm": {key: value}})


def test_settings_that_the_source_does_not_have_are_refused():
    with pytest.raises(UserError, match="source copy_paste has no setting model or pool_size"):
        MixingSettings(source="copy_paste", model="m", pool_size=3)


def test_the_trainers_own_source_holds_where_none_is_chosen():
    source = lambda block: MixingSettings.from_configuration(block, "on_the_fly").source  # noqa: E731
    assert source({}) == source({"sbldm": {"ratio": 1}}) == source({"sbldm": {"source": "auto"}}) == "on_the_fly"
    assert source({"sbldm": {"source": "pool"}}) == "pool"


def test_the_block_in_the_plans_holds_the_ratio_and_what_differs_from_the_defaults():
    assert MixingSettings().to_block() == {"ratio": 0.25}
    assert MixingSettings(0.5, schedule="pretrain").to_block() == {"ratio": 0.5, "schedule": "pretrain"}


def test_the_printed_settings_name_all_that_is_set():
    said = "ratio 0.5, num_epochs 3, schedule constant, source auto, mode generate, cpu_precision fp32, "
    assert str(MixingSettings(0.5, num_epochs=3)) == f"{said}final_validation True"


@pytest.mark.parametrize("ratio", [-0.1, 1.01, float("nan"), "0.5", True, None])
def test_a_ratio_is_a_number_from_0_to_1(ratio):
    with pytest.raises(UserError, match="a number from 0 to 1; got"):
        MixingSettings.from_configuration({"sbldm": {"ratio": ratio}})


@pytest.mark.parametrize("value", [0, -1, 2.5, True, "3"])
def test_epochs_are_whole_numbers_from_1(value):
    with pytest.raises(UserError, match="num_epochs is a whole number from 1"):
        MixingSettings.from_configuration({"sbldm": {"num_epochs": value}})


def test_settings_that_are_no_block_are_refused():
    with pytest.raises(UserError, match="is a block such as"):
        MixingSettings.from_configuration({"sbldm": 0.5})


