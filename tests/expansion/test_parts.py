"""Parts of an expansion: together they make what one run makes, and are judged together."""

import shutil
from dataclasses import replace

import pytest
from expansion_commands import FAST, QUICK, expand, judge_by_seed, undo
from phantom_fixtures import hash_tree

from nnunet_sbldm.dataset_conversion.expand_dataset import expand_entry
from nnunet_sbldm.expansion import production
from nnunet_sbldm.expansion.pool import fill_pool
from nnunet_sbldm.generator.records import SyntheticIndex
from nnunet_sbldm.quality.gate import Reason, Verdict
from nnunet_sbldm.types import UnfitGeneratorError


def test_a_generator_that_mostly_fails_is_reported_and_nothing_is_installed(phantom, generator, capsys, monkeypatch):
    monkeypatch.setattr(production, "judge", judge_by_seed(lambda _: False))
    arguments = ["-d", "900", "-f", "0", *FAST[:-1], "-n", "3", "-attempts", "2"]
    before = hash_tree(phantom.raw), {k for k in hash_tree(phantom.preprocessed) if "content_hashes" not in k}
    for where in (["-o", "904"], ["--in_place"]):
        with pytest.raises(SystemExit) as e:
            expand_entry([*arguments, *where])
        assert e.value.code == 3
        assert "the quality gate gave up 3 of 3 cases" in capsys.readouterr().err
        assert (hash_tree(phantom.raw), {k for k in hash_tree(phantom.preprocessed) if "content_hashes" not in k}) == before


def test_the_verdict_is_the_same_whenever_the_command_is_run_again_and_in_whatever_parts(phantom, generator, capsys, monkeypatch):
    monkeypatch.setattr(production, "judge", judge_by_seed(lambda _: False))
    arguments = ["-d", "900", "-f", "0", *FAST[:-1], "-n", "12", "-attempts", "1"]
    parts = [[*arguments, "-o", "904", "-num_parts", "2", "-part_id", part] for part in "01"]
    expand_entry(parts[0])  # six failures of twelve are no verdict yet
    for command in (parts[1], [*arguments, "--pool"], [*arguments, "--pool"]):
        with pytest.raises(SystemExit) as e:
            expand_entry(command)
        assert e.value.code == 3
        assert "the quality gate gave up 10 of 10 cases" in capsys.readouterr().err
    assert not any(SyntheticIndex.load(f.parent).cases for f in phantom.preprocessed.rglob("synthetic_cases.json"))
    assert not (phantom.raw / "Dataset904_PhantomSBLDM" / "dataset.json").exists()


def test_parts_that_run_at_the_same_time_are_judged_together(job, phantom_dataset, monkeypatch):
    settings, others = replace(QUICK, max_attempts=1, num_parts=2, part_id=1), [replace(QUICK, max_attempts=1, num_parts=2)]
    made = []

    def judge(*_):
        if others:  # the other part begins and ends while this one is at its first case
            made.append(fill_pool(phantom_dataset, [job], ["3d_fullres"], others.pop()))
        return Verdict({}, (Reason("mask", "the mask is bad"),))

    monkeypatch.setattr(production, "judge", judge)
    with pytest.raises(UnfitGeneratorError, match="gave up 6 of 6 cases"):
        fill_pool(phantom_dataset, [job], ["3d_fullres"], settings)
    assert made[0].num_open == 3


def test_parts_together_make_what_one_run_makes(phantom, phantom_dataset):
    def tree():
        raw, preprocessed = phantom.raw / "Dataset904_PhantomSBLDM", phantom.preprocessed / "Dataset904_PhantomSBLDM"
        return hash_tree(raw) | hash_tree(preprocessed)

    expand("-o", "904", "-n", "5")
    whole = tree()
    for folder in (phantom.raw, phantom.preprocessed):
        shutil.rmtree(folder / "Dataset904_PhantomSBLDM")
    for part in (2, 0):
        expand("-o", "904", "-n", "5", "-num_parts", "3", "-part_id", part)
        assert not (phantom.raw / "Dataset904_PhantomSBLDM" / "dataset.json").exists()
    expand("-o", "904", "-n", "5", "-num_parts", "3", "-part_id", "1", "-np", "1")  # with a writer process
    assert tree() == whole


@pytest.mark.parametrize("where", [["--in_place"], ["-o", "904"]])
def test_an_unfit_part_stops_the_others_and_what_they_made_can_be_taken_back(phantom, in_place, monkeypatch, capsys, where):
    before, judged = (hash_tree(phantom.raw), hash_tree(phantom.preprocessed)), []

    def run_part(part, *, is_good):
        monkeypatch.setattr(production, "judge", judge_by_seed(is_good))
        with pytest.raises(SystemExit) as e:
            expand_entry(["-d", "900", "-f", "0", *FAST[:-1], *where, "-n", "20", "-attempts", "1",
                              "-num_parts", "2", "-part_id", part])
        assert e.value.code == 3
        return capsys.readouterr().err.strip().splitlines()[-1]

    def let_the_other_part_fail(distance):
        judged.append(distance)
        if len(judged) == 2:
            run_part("1", is_good=lambda _: False)
        return True

    message = run_part("0", is_good=let_the_other_part_fail)
    new = "Dataset904_PhantomSBLDM"
    remedy = "run sbldm_expand_dataset -d 900 --undo" if where == ["--in_place"] else f"delete {phantom.raw / new} and"
    assert "gave up 9 of 10 cases" in message  # one of the other part was accepted
    assert f"When all parts have ended, {remedy}" in message
    assert len(judged) == 2
    assert run_part("0", is_good=lambda _: True) == message
    if where == ["--in_place"]:
        undo()
        assert (hash_tree(phantom.raw), hash_tree(phantom.preprocessed)) == before
    else:
        assert not (phantom.raw / new / "dataset.json").exists()
