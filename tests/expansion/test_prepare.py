"""Before a case is made: generators found, leaks refused by id and content, data and disk checked."""

import shutil
from dataclasses import replace

import pytest
from expansion_commands import FAST, expand, refused
from phantom_fixtures import hash_tree

from nnunet_sbldm.common.files import read_json, write_json
from nnunet_sbldm.data.splits import fold_cases
from nnunet_sbldm.dataset_conversion.expand_dataset import expand_entry
from nnunet_sbldm.expansion.prepare import plan_jobs
from nnunet_sbldm.generator.checkpoint import training_command
from nnunet_sbldm.generator.requests import ExpansionRequest
from nnunet_sbldm.types import UserError

pytestmark = pytest.mark.quick


@pytest.mark.parametrize("where", [["--pool"], ["-o", "904"], ["--in_place"]])
def test_what_is_written_already_needs_no_more_room(pool, capsys, monkeypatch, where):
    expand(*where, "-n", "1")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 0))
    expand(*where, "-n", "1")
    if where == ["--pool"]:
        assert "0.00 GB free" in refused(capsys, *where, "-n", "2")


def test_a_generator_of_plans_that_have_changed_makes_no_whole_cases(phantom_dataset, generator, capsys):
    plans = read_json(phantom_dataset.preprocessed / "nnUNetPlans.json")
    plans["configurations"]["3d_fullres"]["normalization_schemes"] = ["RescaleTo01Normalization", "NoNormalization"]
    write_json(phantom_dataset.preprocessed / "nnUNetPlans.json", plans)
    assert "its plans nnUNetPlans have changed since: move that folder away" in refused(capsys, "--pool", "-n", "1")


def test_a_leaking_generator_is_refused_with_the_cases_named_and_nothing_is_written(phantom, phantom_dataset, generator, capsys):
    _, val = fold_cases(phantom_dataset, 1)
    before = hash_tree(phantom.preprocessed), hash_tree(phantom.raw)
    with pytest.raises(SystemExit) as e:
        expand_entry(["-d", "900", "-f", "1", *FAST, "-o", "904", "-n", "1", "-m", str(generator.folder)])
    message = capsys.readouterr().err
    assert e.value.code == 2
    assert all(f"{c} (same case id)" in message for c in val)
    trees = hash_tree(phantom.preprocessed), hash_tree(phantom.raw)
    assert {k: v for k, v in trees[0].items() if "content_hashes" not in k} == {
        k: v for k, v in before[0].items() if "content_hashes" not in k
    }
    assert trees[1] == before[1]


def test_a_renamed_copy_of_a_validation_case_is_caught_by_its_content(phantom_dataset, generator, capsys):
    """The generator's list names the case differently; its voxels give it away."""
    _, val = fold_cases(phantom_dataset, 0)
    from nnunet_sbldm.data.fingerprints import fingerprints_of

    (copy,) = fingerprints_of(phantom_dataset, val[:1]).values()
    listed = [*generator.seen, replace(copy, case_id="someone_else", label_hash="")]
    write_json(generator.folder / "training_cases.json", [c.to_json() for c in listed])
    assert f"{val[0]} (same image content as someone_else)" in refused(capsys, "--pool", "-n", "1")


def test_files_that_are_missing_or_damaged_are_named(phantom_dataset, capsys):
    _, val = fold_cases(phantom_dataset, 0)
    label = phantom_dataset.raw / "labelsTr" / f"{val[0]}.nii.gz"
    label.rename(label.with_suffix(".away"))
    assert f"Case {val[0]} of Dataset900_Phantom has no {label}" in refused(capsys, "--pool", "-n", "1")
    label.with_suffix(".away").rename(label)
    splits = phantom_dataset.preprocessed / "splits_final.json"
    for file in (phantom_dataset.raw / "dataset.json", phantom_dataset.preprocessed / "nnUNetPlans.json", splits):
        text = file.read_text()
        file.write_text(text[: len(text) // 2])
        assert f"{file} is not valid JSON: " in refused(capsys, "--pool", "-n", "1")
        file.write_text(text)
    for content in ({"train": []}, [{"train": [], "validation": []}], 5):
        write_json(splits, content)
        assert f"{splits} is no list of splits" in refused(capsys, "--pool", "-n", "1")


@pytest.mark.parametrize("where", [["--pool"], ["-o", "904"]])
def test_data_that_an_older_nnunet_preprocessed_are_not_read(phantom_dataset, capsys, where):
    for file in phantom_dataset.data_folder.glob("*.b2nd"):
        file.rename(file.with_suffix(".npz"))
    message = refused(capsys, *where, "-n", "1")
    assert "or by an older nnU-Net: run nnUNetv2_preprocess -d 900" in message


def test_without_a_preset_the_only_generator_of_the_fold_is_taken(phantom_dataset, generator):
    own = generator.folder.parent
    (only,) = plan_jobs(phantom_dataset, [0], ExpansionRequest(num_cases=1))
    assert only.model.folder == generator.folder
    shutil.copytree(own, own.with_name("SBLDM__nnUNetPlans__small_x2"))
    with pytest.raises(UserError, match=r"Fold 0 of .* has 2 finished SBLDMs \(nano, small_x2\): name one with -m"):
        plan_jobs(phantom_dataset, [0], ExpansionRequest(num_cases=1))
    (named,) = plan_jobs(phantom_dataset, [0], ExpansionRequest(num_cases=1), "small_x2")
    assert named.model.folder.parent.name == "SBLDM__nnUNetPlans__small_x2"
    with pytest.raises(UserError, match=r"no SBLDM for fold 1 in .*Dataset900_Phantom: run sbldm_train -d 900 -f 1, or"):
        plan_jobs(phantom_dataset, [1], ExpansionRequest(num_cases=1))
    assert training_command("Dataset004_X", "Res", 0, "small_x2") == "sbldm_train -d 4 -f 0 -p Res -preset small -length 2"


def test_a_generator_of_other_labels_or_channels_is_refused(phantom_dataset, generator, capsys):
    theirs = read_json(generator.folder / "dataset.json")
    write_json(generator.folder / "dataset.json", {**theirs, "labels": {"background": 0, "lesion": 1}})
    assert "makes the labels {'background': 0, 'lesion': 1}" in refused(capsys, "--pool", "-n", "1")
    plan = read_json(generator.folder / "generator.json")
    write_json(generator.folder / "generator.json", {**plan, "channel_names": ["FLAIR", "T2"]})
    assert "makes the channels FLAIR, T2" in refused(capsys, "--pool", "-n", "1")
