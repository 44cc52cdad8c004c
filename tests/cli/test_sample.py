"""``sbldm_sample``: the gate decides, the same command goes on, and folders hold samples of one request."""

import pytest
from command_line import refused
from phantom_fixtures import hash_tree

from nnunet_sbldm.cli.sample import sample_entry
from nnunet_sbldm.common.files import read_json


def arguments(generator, out, *further):
    return ["-m", str(generator.folder), "-o", str(out), "-steps", "2", "-device", "cpu", "--no_gate", *further]


@pytest.mark.parametrize("lost", ["sbldm_00001.json", "montage.png"])
def test_the_same_command_finishes_what_was_interrupted(generator, tmp_path, lost):
    sample_entry(arguments(generator, tmp_path / "out", "-n", "3"))
    finished = hash_tree(tmp_path / "out")
    times = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("sbldm_00000*")}
    (tmp_path / "out" / lost).unlink()
    sample_entry(arguments(generator, tmp_path / "out", "-n", "3"))
    assert hash_tree(tmp_path / "out") == finished
    assert {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("sbldm_00000*")} == times


def test_a_larger_number_adds_to_what_is_there(generator, tmp_path):
    sample_entry(arguments(generator, tmp_path / "out", "-n", "1"))
    sample_entry(arguments(generator, tmp_path / "out", "-n", "2"))
    assert sorted(p.stem for p in (tmp_path / "out").glob("sbldm_*.json")) == ["sbldm_00000", "sbldm_00001"]


def test_another_request_is_refused_and_so_is_a_folder_that_does_not_say_what_was_asked(generator, tmp_path, capsys):
    out = tmp_path / "out"
    sample_entry(arguments(generator, out, "-n", "1"))
    assert "asked for otherwise: choose another folder" in refused(
        capsys, sample_entry, *arguments(generator, out, "-n", "1", "-seed", "5")
    )
    (out / "samples.json").unlink()
    assert "do not say what was asked: choose another folder" in refused(
        capsys, sample_entry, *arguments(generator, out, "-n", "1")
    )


def test_records_hold_the_verdict_and_the_nearest_real_case(generator, phantom_dataset, tmp_path):
    sample_entry(arguments(generator, tmp_path / "out", "-n", "1"))
    record = read_json(tmp_path / "out" / "sbldm_00000.json")
    assert record["nearest_real_case"]["case_id"] in phantom_dataset.real_case_ids
    assert record["gate"]["scores"]


def test_what_the_gate_gives_up_is_left_out_and_not_tried_again(generator, tmp_path, capsys, monkeypatch):
    """A generator of two steps draws what no gate accepts."""
    command = [a for a in arguments(generator, tmp_path / "out", "-n", "2", "-steps", "1") if a != "--no_gate"]
    with pytest.raises(SystemExit, match="3"):
        sample_entry(command)
    assert "The quality gate gave up every one of 2 case(s)" in capsys.readouterr().err
    rejected = sorted((tmp_path / "out" / "rejected").glob("*.json"))
    assert rejected
    assert all(read_json(f)["gate"]["rules"] for f in rejected)
    before = hash_tree(tmp_path / "out")
    with pytest.raises(SystemExit, match="3"):
        sample_entry(command)
    assert hash_tree(tmp_path / "out") == before
