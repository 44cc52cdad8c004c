import json
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader

from nnunet_sbldm.mixing import (
    SHARE_TOLERANCE,
    DrawAudit,
    MixedDataset,
    MixingSettings,
    append_to_audit_file,
    multiplicities,
    start_audit_file,
)
from nnunet_sbldm.types import UserError


class Cases:
    """Cases by name alone; loading one returns where it came from."""

    def __init__(self, origin, identifiers):
        self.origin, self.identifiers = origin, list(identifiers)

    def load_case(self, identifier):
        return self.origin, identifier


def mixed(num_real, num_synthetic, ratio):
    synthetic = Cases("synthetic", [f"case_{i}x" for i in range(num_synthetic)])
    return MixedDataset(Cases("real", [f"case_{i}" for i in range(num_real)]), synthetic, ratio)


def share(dataset):
    return float(np.isin(dataset.identifiers, list(dataset.synthetic_ids)).mean())


# --- settings ------------------------------------------------------------------------------------------------------


def test_without_a_block_the_defaults_hold():
    assert MixingSettings.from_configuration({"spacing": [1, 1, 1]}) == MixingSettings(ratio=0.25)


@given(st.builds(MixingSettings, st.floats(0, 1), st.none() | st.integers(1, 9), st.none() | st.integers(1, 9),
                 st.none() | st.integers(1, 9)))
def test_a_block_read_back_from_the_plans_is_the_same(settings):
    assert MixingSettings.from_configuration(json.loads(json.dumps({"sbldm": settings.to_block()}))) == settings


def test_an_unknown_key_names_the_nearest_valid_one():
    with pytest.raises(UserError, match="unknown key 'num_epoch': did you mean 'num_epochs'"):
        MixingSettings.from_configuration({"sbldm": {"num_epoch": 5}})


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


# --- the share of synthetic ids ------------------------------------------------------------------------------------


@given(st.integers(1, 300), st.integers(1, 300), st.floats(0.001, 0.999))
def test_the_share_is_met_whatever_the_numbers_of_cases(num_real, num_synthetic, ratio):
    a, b = multiplicities(num_real, num_synthetic, ratio)
    assert min(a, b) in range(1, 26)
    assert abs(b * num_synthetic / (a * num_real + b * num_synthetic) - ratio) <= SHARE_TOLERANCE


def test_ratio_0_gives_exactly_the_real_identifiers():
    dataset = mixed(7, 3, 0)
    assert dataset.identifiers.tolist() == [f"case_{i}" for i in range(7)]
    assert dataset.synthetic_ids == frozenset()


def test_ratio_1_gives_synthetic_identifiers_alone():
    assert share(mixed(7, 3, 1)) == 1


def test_every_real_case_stands_equally_often_and_so_does_every_synthetic_one():
    ids, counts = np.unique(mixed(13, 5, 0.3).identifiers, return_counts=True)
    assert len(set(counts[np.char.endswith(ids, "x")])) == 1
    assert len(set(counts[~np.char.endswith(ids, "x")])) == 1


@pytest.mark.parametrize(("ratio", "num_draws"), [(0.25, 2000), (0.1, 20_000), (0.25, 20_000), (0.5, 20_000), (0.75, 20_000)])
def test_nnunets_loader_draws_the_share_asked(ratio, num_draws):
    dataset = mixed(16, 40, ratio)
    labels = SimpleNamespace(all_labels=[0, 1], has_ignore_label=False)
    loader = nnUNetDataLoader(dataset, 2, (8, 8, 8), (8, 8, 8), labels)
    np.random.seed(0)
    drawn = np.concatenate([loader.get_indices() for _ in range(num_draws // 2)])
    assert np.isin(drawn, list(dataset.synthetic_ids)).mean() == pytest.approx(ratio, abs=0.02)


def test_a_case_is_loaded_from_where_it_belongs():
    dataset = mixed(12, 12, 0.5)
    assert dataset.load_case("case_1") == ("real", "case_1")
    assert dataset.load_case(np.str_("case_1x")) == ("synthetic", "case_1x")


def test_a_synthetic_case_with_the_id_of_a_real_one_is_refused():
    with pytest.raises(UserError, match=r"1 synthetic case\(s\) have the id of a real one \(case_1\)"):
        MixedDataset(Cases("real", ["case_1", "case_10"]), Cases("synthetic", ["case_1", "case_100"]), 0.5)


def test_it_survives_pickling():
    dataset = pickle.loads(pickle.dumps(mixed(4, 4, 0.5)))
    assert dataset.load_case("case_1x") == ("synthetic", "case_1x")


# --- the audit -----------------------------------------------------------------------------------------------------


def test_the_audit_counts_an_epoch_and_starts_again():
    audit = DrawAudit(["a_syn"], ["case_10"])
    audit.count(np.array(["a_syn", "case_1"]))
    audit.count(np.array(["case_2", "case_1"]))
    record = audit.close_epoch(3, ratio=0.5)
    assert record == {"epoch": 3, "draws": 4, "synthetic_draws": 1, "share": 0.25, "asked": 0.5, "validation_draws": 0}
    assert audit.close_epoch(4, ratio=0.5)["draws"] == 0


def test_a_validation_case_drawn_for_training_is_an_error_and_ids_are_compared_whole():
    audit = DrawAudit([], ["case_10"])
    audit.count(np.array(["case_1"]))
    with pytest.raises(UserError, match=r"Validation case\(s\) case_10 were drawn for training"):
        audit.count(np.array(["case_1", "case_10"]))


def test_a_run_that_starts_or_continues_drops_the_records_of_epochs_it_trains_again(tmp_path):
    epochs = lambda: [json.loads(line)["epoch"] for line in (tmp_path / "sbldm_audit.jsonl").read_text().splitlines()]  # noqa: E731
    start_audit_file(tmp_path, 0)
    for epoch in range(5):
        append_to_audit_file(tmp_path, {"epoch": epoch})
    start_audit_file(tmp_path, 3)
    assert epochs() == [0, 1, 2]
    with open(tmp_path / "sbldm_audit.jsonl", "a") as f:
        f.write('{"epoch": 3, "dr')  # killed while writing
    start_audit_file(tmp_path, 4)
    assert epochs() == [0, 1, 2]
    start_audit_file(tmp_path, 0)
    assert epochs() == []
