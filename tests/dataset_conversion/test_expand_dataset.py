"""The command ``sbldm_expand_dataset``: what it refuses, warns of and says, before a case is made."""

import shutil

import pytest
from expansion_commands import expand, refused
from phantom_fixtures import hash_tree

from nnunet_sbldm.api import expansion
from nnunet_sbldm.common.files import write_json


def test_few_real_cases_are_warned_of(phantom_dataset, generator, capsys, monkeypatch):
    expand("--pool", "-n", "1", "--dry_run")
    assert "warning: fold 0 has 8 real training cases" in capsys.readouterr().err
    monkeypatch.setattr(expansion, "FEW_CASES", 8)
    expand("--pool", "-n", "1", "--dry_run")
    assert "real training cases" not in capsys.readouterr().err


def test_bad_requests_end_with_one_sentence_and_change_nothing(phantom, phantom_dataset, generator, capsys, monkeypatch):
    before = hash_tree(phantom.raw), hash_tree(phantom.results)
    assert "run sbldm_train -d 900 -f 1 -preset nano" in refused(capsys, "--pool", "-f", "1")
    longer = refused(capsys, "--pool", "-f", "1", "-preset", "nano_x1.5")
    assert "run sbldm_train -d 900 -f 1 -preset nano -length 1.5, or name" in longer
    assert "nana_x2 is not one of" in refused(capsys, "--pool", "-preset", "nana_x2")
    assert "is taken by Dataset900_Phantom" in refused(capsys, "-o", "900")
    assert "Fold 9 is not in splits_final.json" in refused(capsys, "--pool", "-f", "9")
    assert "expected a number above 0" in refused(capsys, "--pool", "-ratio", "-1")
    assert "expected a number, got 'much'" in refused(capsys, "--pool", "-ratio", "much")
    assert "no configuration 3d_fulres" in refused(capsys, "--pool", "-c", "3d_fulres")
    assert "not preprocessed for 2d" in refused(capsys, "--pool", "-c", "2d")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 0))
    assert "0.00 GB free" in refused(capsys, "-o", "904", "-n", "1")
    assert (hash_tree(phantom.raw), hash_tree(phantom.results)) == before


def test_a_dry_run_says_what_would_be_written_and_writes_no_case(phantom, phantom_dataset, generator, capsys, tmp_path):
    before = hash_tree(phantom.raw)
    expand("-o", "904", "-ratio", "1", "--dry_run")
    said = capsys.readouterr().out
    assert "fold 0: 8 synthetic cases, sbldm_f0_0000 to sbldm_f0_0007" in said
    assert said.endswith("; no case was written.\n")
    write_json(tmp_path / "groups.json", {c: c for c in phantom_dataset.real_case_ids})
    expand("-o", "904", "-n", "1", "--dry_run", "-groups", tmp_path / "groups.json")
    assert capsys.readouterr().out.endswith("; no case was written, but -groups is remembered.\n")
    assert hash_tree(phantom.raw) == before
    assert not (phantom.preprocessed / "Dataset904_PhantomSBLDM").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--undo"], "is not expanded in place; there is nothing to undo"),
        (["--undo", "--dry_run"], "--undo has no --dry_run"),
        (["--pool", "-n", "2", "-num_parts", "2", "-part_id", "2"], "-part_id goes from 0 to 1"),
        (["--pool", "-f", "0", "0"], "-f names a fold twice"),
        (["--pool", "-balance", "label", "-spec", "none.json"], "none.json"),
        (["--pool", "-size_range", "9", "3"], "0 < LOW <= HIGH"),
    ],
)
def test_bad_requests_end_with_one_sentence(phantom, generator, capsys, arguments, sentence):
    with pytest.raises(SystemExit) as e:
        expand(*arguments)
    assert e.value.code == 2
    assert sentence in capsys.readouterr().err
