"""Expansion: synthetic cases where nnU-Net finds them, in allowed folds alone, the real data untouched."""

import json
import os
import shutil
import socket
import subprocess
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
from expansion_commands import FAST, add_tiny_configuration, expand, refused
from nnunet_fixtures import PLAN, TRAIN, run_nnunet
from phantom_fixtures import hash_tree

from nnunet_sbldm.common.files import read_json, write_json
from nnunet_sbldm.data.cases import load_arrays, read_case
from nnunet_sbldm.data.dataset import open_dataset
from nnunet_sbldm.data.splits import fold_cases, splits_of
from nnunet_sbldm.dataset_conversion import expand_dataset as expand_command
from nnunet_sbldm.dataset_conversion.expand_dataset import expand_entry
from nnunet_sbldm.expansion.prepare import plan_jobs
from nnunet_sbldm.generator.checkpoint import load_generator, training_command
from nnunet_sbldm.generator.records import SyntheticIndex
from nnunet_sbldm.generator.requests import Wish
from nnunet_sbldm.types import UserError

PREPROCESS = "nnunetv2.experiment_planning.plan_and_preprocess_entrypoints:preprocess_entry"


def dead_pid():
    """Number of a process that has ended."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


@pytest.fixture
def pool(phantom, phantom_dataset):
    return phantom_dataset.preprocessed / "sbldm" / phantom_dataset.config.data_identifier / "fold_0"


def test_the_pool_holds_the_ratio_in_nnunets_own_format_with_provenance(phantom_dataset, generator, pool):
    expand("--pool", "-ratio", "0.5")
    index = SyntheticIndex.load(pool)
    assert list(index.cases) == [f"sbldm_f0_{i:04d}" for i in range(4)]  # half of 8 training cases
    assert index.generators == {generator.hash: generator.seen}
    for case_id in index.cases:
        image, label = load_arrays(pool / "cases", case_id)
        assert image.shape == (2, *label.shape)
        assert set(np.unique(label)) <= {-1, 0, 1}
        record = read_json(pool / "provenance" / f"{case_id}.json")
        assert record["generator_hash"] == generator.hash
        assert record["nearest_real_case"]["case_id"] in fold_cases(phantom_dataset, 0)[0]


def test_the_pool_is_finished_by_the_same_command_and_ends_up_the_same(pool):
    expand("--pool", "-n", "3")
    finished = hash_tree(pool)
    os.remove(pool / "provenance" / "sbldm_f0_0001.json")
    os.remove(pool / "cases" / "sbldm_f0_0001.pkl")
    os.remove(pool / "synthetic_cases.json")
    (pool / "cases" / f".sbldm_tmp_{socket.gethostname()}.{dead_pid()}.x").mkdir()
    expand("--pool", "-n", "3")
    assert hash_tree(pool) == finished
    assert not (pool / "cases" / ".sbldm_tmp_dead").exists()


@pytest.mark.parametrize("where", ["--pool", "-o"])
def test_a_case_that_lost_a_file_is_made_again(phantom, pool, where):
    raw, preprocessed = phantom.raw / "Dataset904_PhantomSBLDM", phantom.preprocessed / "Dataset904_PhantomSBLDM"
    lost = {
        "--pool": [pool / "cases" / "sbldm_f0_0001_seg.b2nd"],
        "-o": [
            raw / "synthetic" / "images" / "sbldm_f0_0000_0001.nii.gz",
            preprocessed / "nnUNetPlans_3d_fullres" / "sbldm_f0_0001.pkl",
        ],
    }
    command = ("--pool", "-n", "2") if where == "--pool" else ("-o", "904", "-n", "2")
    expand(*command)
    folders = [pool] if where == "--pool" else [raw, preprocessed]
    finished = [hash_tree(f) for f in folders]
    for file in lost[where]:
        os.remove(file)
    expand(*command)
    assert [hash_tree(f) for f in folders] == finished


@pytest.mark.parametrize("where", [["--pool"], ["-o", "904"], ["--in_place"]])
def test_what_is_written_already_needs_no_more_room(pool, capsys, monkeypatch, where):
    expand(*where, "-n", "1")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 0))
    expand(*where, "-n", "1")
    if where == ["--pool"]:
        assert "0.00 GB free" in refused(capsys, *where, "-n", "2")


def test_another_request_replaces_what_it_does_not_share(pool):
    expand("--pool", "-n", "3")
    first = hash_tree(pool)
    expand("--pool", "-n", "2")
    fewer = hash_tree(pool)
    assert {k for k in first if "_0002" in k}.isdisjoint(fewer)
    assert all(first[k] == fewer[k] for k in fewer if "_0000" in k or "_0001" in k)
    expand("--pool", "-n", "2", "-seed", "5")
    reseeded = hash_tree(pool)
    assert reseeded.keys() == fewer.keys()
    assert all(reseeded[k] != fewer[k] for k in fewer if k.endswith(".b2nd"))


def test_the_real_dataset_is_left_byte_for_byte(phantom, pool):
    def real_files():
        trees = {
            "raw": hash_tree(phantom.raw / "Dataset900_Phantom"),
            "pre": hash_tree(phantom.preprocessed / "Dataset900_Phantom"),
        }
        return {(t, k): v for t, tree in trees.items() for k, v in tree.items() if not k.startswith("sbldm")}

    open_dataset("900")
    before = real_files()
    expand("--pool", "-n", "1")
    expand("-o", "904", "-n", "1")
    assert real_files() == before


def test_a_new_dataset_lists_real_files_where_they_are_and_trains_with_a_stock_trainer(phantom, phantom_dataset, generator):
    expand("-o", "904", "-n", "2")
    new = open_dataset("904")
    synthetic = ["sbldm_f0_0000", "sbldm_f0_0001"]
    assert new.name == "Dataset904_PhantomSBLDM"
    assert new.dataset_json["numTraining"] == 12 == len(new.case_files)
    assert {k: new.dataset_json[k] for k in ("labels", "channel_names", "file_ending")} == {
        k: phantom_dataset.dataset_json[k] for k in ("labels", "channel_names", "file_ending")
    }
    assert new.real_case_ids == phantom_dataset.real_case_ids
    assert [os.path.realpath(f) for f in new.case_files["phantom_000"]["images"]] == [
        os.path.realpath(f) for f in phantom_dataset.case_files["phantom_000"]["images"]
    ]
    for fold, (old_split, split) in enumerate(
        zip(splits_of(phantom_dataset), read_json(new.preprocessed / "splits_final.json"), strict=True)
    ):
        assert split["train"] == old_split["train"] + (synthetic if fold == 0 else [])
        assert split["val"] == old_split["val"]
    assert new.plans_hash() == phantom_dataset.plans_hash()
    assert SyntheticIndex.load(new.preprocessed / "sbldm").seen_by() == dict.fromkeys(synthetic, generator.seen)
    assert read_case(new, synthetic[0]).image.shape[0] == 2

    plans = read_json(new.preprocessed / "nnUNetPlans.json")
    add_tiny_configuration(plans, sbldm={"num_epochs": 1, "num_iterations_per_epoch": 2, "num_val_iterations_per_epoch": 1})
    write_json(new.preprocessed / "nnUNetPlans.json", plans)
    done = run_nnunet(PLAN, "-d", 904, "--verify_dataset_integrity", "-np", 1, "-npfp", 1, "--no_pp", **phantom.environment())
    assert done.returncode == 0, done.stderr[-2000:]
    done = run_nnunet(
        TRAIN,
        "904",
        "3d_nano",
        "0",
        "-tr",
        "nnUNetTrainer_1epoch",
        "-device",
        "cpu",
        nnUNet_n_proc_DA="0",
        **phantom.environment(),
    )
    assert done.returncode == 0, done.stderr[-2000:]
    summary = read_json(
        phantom.results / new.name / "nnUNetTrainer_1epoch__nnUNetPlans__3d_nano" / "fold_0" / "validation" / "summary.json"
    )
    assert len(summary["metric_per_case"]) == len(fold_cases(phantom_dataset, 0)[1])


def test_an_interrupted_new_dataset_is_no_dataset_yet_and_the_same_command_finishes_it(phantom, phantom_dataset):
    expand("-o", "904", "-n", "3")
    raw, preprocessed = phantom.raw / "Dataset904_PhantomSBLDM", phantom.preprocessed / "Dataset904_PhantomSBLDM"
    finished = hash_tree(raw) | hash_tree(preprocessed)
    os.remove(raw / "dataset.json")
    os.remove(raw / "synthetic" / "provenance" / "sbldm_f0_0001.json")
    os.remove(raw / "synthetic" / "labels" / "sbldm_f0_0001.nii.gz")
    shutil.rmtree(preprocessed / "gt_segmentations")
    expand("-o", "904", "-n", "3")
    assert hash_tree(raw) | hash_tree(preprocessed) == finished


@pytest.mark.parametrize("can_link", [True, False])
def test_a_new_dataset_follows_real_cases_that_are_preprocessed_again(phantom, phantom_dataset, monkeypatch, can_link):
    def no_link(*_):
        raise OSError("another file system")

    if not can_link:
        monkeypatch.setattr(os, "link", no_link)
    expand("-o", "904", "-n", "1")
    old, new = (dataset.data_folder / "phantom_000.pkl" for dataset in (phantom_dataset, open_dataset("904")))
    assert new.read_bytes() == old.read_bytes()
    before = new.stat().st_ino, new.stat().st_ctime_ns
    expand("-o", "904", "-n", "1")
    assert (new.stat().st_ino, new.stat().st_ctime_ns) == before  # it is the same file still
    content = old.read_bytes()
    old.unlink()
    old.write_bytes(content[:-1] + b"x")
    expand("-o", "904", "-n", "1")
    assert new.read_bytes() == content[:-1] + b"x"


def test_a_new_dataset_of_an_incomplete_one_is_refused_before_a_case_is_made(phantom, phantom_dataset, generator, capsys):
    (phantom_dataset.preprocessed / "dataset_fingerprint.json").rename(phantom.raw / "away")
    assert "json is missing: run nnUNetv2_extract_fingerprint -d 900" in refused(capsys, "-o", "904", "-n", "1")
    (phantom.raw / "away").rename(phantom_dataset.preprocessed / "dataset_fingerprint.json")
    case_id = fold_cases(phantom_dataset, 0)[0][0]
    label = phantom_dataset.raw / "labelsTr" / f"{case_id}.nii.gz"
    label.rename(phantom.raw / "away")
    assert f"1 real case(s) of Dataset900_Phantom ({case_id}) have no label file" in refused(capsys, "-o", "904", "-n", "1")
    (phantom.raw / "away").rename(label)
    (phantom_dataset.data_folder / f"{case_id}_seg.b2nd").unlink()
    message = refused(capsys, "-o", "904", "-n", "1")
    assert f"1 real case(s) of Dataset900_Phantom ({case_id}) are not preprocessed for 3d_fullres, or by an older" in message
    assert not (phantom.raw / "Dataset904_PhantomSBLDM").exists()


def test_few_real_cases_are_warned_of(phantom_dataset, generator, capsys, monkeypatch):
    expand("--pool", "-n", "1", "--dry_run")
    assert "warning: fold 0 has 8 real training cases" in capsys.readouterr().err
    monkeypatch.setattr(expand_command, "FEW_CASES", 8)
    expand("--pool", "-n", "1", "--dry_run")
    assert "real training cases" not in capsys.readouterr().err


def test_in_place_without_the_preprocessed_dataset_json_is_refused(phantom_dataset, generator, capsys):
    before = hash_tree(phantom_dataset.raw)
    (phantom_dataset.preprocessed / "dataset.json").unlink()
    assert "run nnUNetv2_plan_and_preprocess -d 900 again" in refused(capsys, "--in_place", "-n", "1")
    assert hash_tree(phantom_dataset.raw) == before


@pytest.mark.parametrize("options", [[], ["--dry_run"]])
def test_in_place_is_refused_where_other_configurations_would_lack_the_synthetic_cases(
    phantom_dataset, generator, capsys, options
):
    shutil.copytree(phantom_dataset.data_folder, phantom_dataset.preprocessed / "nnUNetPlans_2d")
    before = hash_tree(phantom_dataset.raw)
    message = refused(capsys, "--in_place", "-n", "1", *options)
    assert "also preprocessed in nnUNetPlans_2d, where --in_place would leave splits" in message
    assert hash_tree(phantom_dataset.raw) == before


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
    (only,) = plan_jobs(phantom_dataset, [0], Wish(num_cases=1))
    assert only.generator.folder == generator.folder
    shutil.copytree(own, own.with_name("SBLDM__nnUNetPlans__small_x2"))
    with pytest.raises(UserError, match=r"Fold 0 of .* has 2 finished SBLDMs \(nano, small_x2\): name one with -m"):
        plan_jobs(phantom_dataset, [0], Wish(num_cases=1))
    (named,) = plan_jobs(phantom_dataset, [0], Wish(num_cases=1), "small_x2")
    assert named.generator.folder.parent.name == "SBLDM__nnUNetPlans__small_x2"
    with pytest.raises(UserError, match=r"no SBLDM for fold 1 in .*Dataset900_Phantom: run sbldm_train -d 900 -f 1, or"):
        plan_jobs(phantom_dataset, [1], Wish(num_cases=1))
    assert training_command("Dataset004_X", "Res", 0, "small_x2") == "sbldm_train -d 4 -f 0 -p Res -preset small -length 2"


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


def test_a_generator_of_other_labels_or_channels_is_refused(phantom_dataset, generator, capsys):
    theirs = read_json(generator.folder / "dataset.json")
    write_json(generator.folder / "dataset.json", {**theirs, "labels": {"background": 0, "lesion": 1}})
    assert "makes the labels {'background': 0, 'lesion': 1}" in refused(capsys, "--pool", "-n", "1")
    plan = read_json(generator.folder / "generator.json")
    write_json(generator.folder / "generator.json", {**plan, "channel_names": ["FLAIR", "T2"]})
    assert "makes the channels FLAIR, T2" in refused(capsys, "--pool", "-n", "1")


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


def test_generators_that_are_equal_have_equal_hashes_and_others_do_not(generator):
    plan = read_json(generator.folder / "generator.json")
    write_json(generator.folder / "generator.json", {**plan, "latent_mean": [0.0] * len(plan["latent_mean"])})
    assert load_generator(generator.folder).hash != generator.hash


def test_every_configuration_gets_its_cases_and_2d_trains_on_them(phantom, phantom_dataset, pool):
    done = run_nnunet(PREPROCESS, "-d", 900, "-plans_name", "nnUNetPlans", "-c", "2d", "-np", 1, **phantom.environment())
    assert done.returncode == 0, done.stderr[-2000:]
    expand("--pool", "-n", "2", "-c", "3d_fullres", "2d")
    flat = pool.parents[1] / "nnUNetPlans_2d" / "fold_0"
    assert hash_tree(pool / "provenance") == hash_tree(flat / "provenance")  # the same cases, sampled once
    assert load_arrays(flat / "cases", "sbldm_f0_0000")[1].ndim == 3
    plans_file = phantom_dataset.preprocessed / "nnUNetPlans.json"
    plans = read_json(plans_file)
    short = {"ratio": 0.5, "num_epochs": 1, "num_iterations_per_epoch": 5, "num_val_iterations_per_epoch": 1}
    plans["configurations"]["2d_short"] = {"inherits_from": "2d", "batch_size": 4, "sbldm": short}
    write_json(plans_file, plans)
    (trainers,) = find_spec("nnunet_sbldm.trainers").submodule_search_locations
    variables = {"nnUNet_n_proc_DA": "0", "nnUNet_extTrainer": trainers}
    arguments = ("900", "2d_short", "0", "-tr", "nnUNetTrainerSBLDM", "-device", "cpu")
    done = run_nnunet(TRAIN, *arguments, **variables, **phantom.environment())
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    output = phantom.results / phantom_dataset.name / "nnUNetTrainerSBLDM__nnUNetPlans__2d_short" / "fold_0"
    assert json.loads((output / "sbldm_audit.jsonl").read_text())["synthetic_draws"] > 0
