"""Making many cases: judged, drawn again, in parts, in place and back, and made again from their records."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from expansion_commands import FAST, expand, refused
from nnunet_fixtures import make_trainer
from phantom_fixtures import hash_tree

from nnunet_sbldm.cli.regenerate import regenerate_entry
from nnunet_sbldm.common.files import read_json, write_json
from nnunet_sbldm.data.dataset import open_dataset
from nnunet_sbldm.data.splits import fold_cases
from nnunet_sbldm.dataset_conversion.expand_dataset import expand_entry
from nnunet_sbldm.editing.choices import EditSettings
from nnunet_sbldm.expansion import destinations, production
from nnunet_sbldm.expansion import in_place as installation
from nnunet_sbldm.expansion import parts as expand_dataset
from nnunet_sbldm.expansion.destinations import PoolDestination, views_of
from nnunet_sbldm.expansion.ledger import Job, ProductionSettings
from nnunet_sbldm.expansion.pool import fill_pool
from nnunet_sbldm.expansion.prepare import edit_job
from nnunet_sbldm.expansion.production import produce
from nnunet_sbldm.generator.records import SyntheticIndex
from nnunet_sbldm.generator.requests import Request, Wish, plan_requests
from nnunet_sbldm.ldm.config import EDIT_SAMPLER, SamplerConfig
from nnunet_sbldm.quality.gate import Verdict
from nnunet_sbldm.trainers.nnUNetTrainerSBLDM import nnUNetTrainerSBLDM
from nnunet_sbldm.types import UnfitGeneratorError, UserError

QUICK = ProductionSettings(SamplerConfig(num_steps=3))


@pytest.fixture
def job(generator, phantom_dataset):
    return Job(0, generator, tuple(plan_requests(generator.plan, 0, 8, Wish(num_cases=6, seed=3), set())))


@pytest.fixture
def pool(phantom_dataset):
    return PoolDestination(views_of(phantom_dataset, ["3d_fullres"]), 0)


def judge_by_seed(is_good):
    """A gate that accepts what ``is_good(nearest distance)`` accepts; draws differ in it, so it stands for any rule."""
    return lambda reference, asked, obtained, appearance, distance, real: Verdict(
        {"distance": distance}, () if is_good(distance) else ("distance too bad",)
    )


@pytest.fixture
def in_place(phantom, phantom_dataset, generator):
    """The dataset before it is expanded in place; hashes of its real cases are remembered already."""
    fold_cases(phantom_dataset, 0)
    expand("--pool", "-n", "1")
    return phantom_dataset


def tree_of(dataset):
    return hash_tree(dataset.raw), hash_tree(dataset.preprocessed)


def undo():
    expand_entry(["-d", "900", "--undo"])


def die(*_):
    raise RuntimeError("killed")


def records(destination, folder="provenance"):
    return {p.stem: read_json(p) for p in sorted(destination.record_folders[0].parent.glob(f"{folder}/*.json"))}


def test_rejected_draws_are_drawn_again_with_another_seed_until_one_is_accepted(job, phantom_dataset, pool, monkeypatch):
    seen = []
    monkeypatch.setattr(production, "judge", judge_by_seed(lambda d: seen.append(d) or len(seen) > 3))
    tally = produce(job, phantom_dataset, QUICK, pool)
    assert (tally.accepted, tally.rejected, tally.attempts) == (6, 0, 9)
    assert sorted(r["attempt"] for r in records(pool).values()) == [0, 0, 0, 1, 1, 1]
    assert all(r["gate"]["scores"] for r in records(pool).values())


def test_given_up_requests_are_remembered_and_left_out(job, phantom_dataset, pool, monkeypatch):
    first = {}

    def judge(reference, asked, obtained, appearance, distance, real):
        bad = first.setdefault("asked", asked) == asked and first.setdefault("n", 0) == 0
        return Verdict({}, ("mask too bad",) if bad else ())

    monkeypatch.setattr(production, "judge", judge)
    settings = replace(QUICK, max_attempts=1)
    tally = produce(job, phantom_dataset, settings, pool)
    assert (tally.accepted, tally.rejected) == (5, 1)
    assert list(records(pool, "rejected")) == ["sbldm_f0_0000"]
    assert "sbldm_f0_0000" not in records(pool)
    assert produce(job, phantom_dataset, settings, pool).attempts == 0  # nothing is open any more


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
        return Verdict({}, ("mask too bad",))

    monkeypatch.setattr(production, "judge", judge)
    with pytest.raises(UnfitGeneratorError, match="gave up 6 of 6 cases"):
        fill_pool(phantom_dataset, [job], ["3d_fullres"], settings)
    assert made[0].num_open == 3


@pytest.mark.parametrize("middle", ["ungated", "another generator"])
def test_a_pool_holds_nothing_that_another_command_made(phantom, generator, pool, tmp_path, monkeypatch, middle):
    def make(*options, rejected=()):
        numbers = iter(range(4))
        monkeypatch.setattr(production, "judge", judge_by_seed(lambda _: next(numbers) not in rejected))
        expand_entry(["-d", "900", "-f", "0", *FAST[:-1], "--pool", "-n", "4", "-attempts", "1", *options])

    other = tmp_path / "other"
    shutil.copytree(generator.folder, other)
    write_json(other / "generator.json", {**read_json(other / "generator.json"), "seed": 5})
    make(rejected=(0, 2))
    make(*(["--no_gate"] if middle == "ungated" else ["-m", str(other)]))
    make(rejected=(1, 2))  # the first one passes now
    index = SyntheticIndex.load(pool.folder(pool.views[0]))
    assert index.cases == dict.fromkeys(("sbldm_f0_0000", "sbldm_f0_0003"), generator.hash)
    assert {c: (r["generator_hash"], r["sampler"]["gate"]) for c, r in records(pool).items()} == dict.fromkeys(
        index.cases, (generator.hash, True)
    )
    assert list(records(pool, "rejected")) == ["sbldm_f0_0001", "sbldm_f0_0002"]


def test_parts_of_a_pool_may_run_on_machines_of_other_batch_size_and_precision(job, phantom_dataset, pool):
    one = replace(QUICK, use_gate=False, num_parts=2)
    other = replace(one, sampler=replace(one.sampler, batch_size=2, precision="bf16"), part_id=1)
    assert fill_pool(phantom_dataset, [job], ["3d_fullres"], one).num_open == 3
    assert fill_pool(phantom_dataset, [job], ["3d_fullres"], other).installed == {0: 6}
    samplers = [r["sampler"] for r in records(pool).values()]
    assert [(s["batch_size"], s["precision"]) for s in samplers] == [(1, "fp32"), (2, "bf16")] * 3
    before = hash_tree(pool.folder(phantom_dataset))
    fill_pool(phantom_dataset, [job], ["3d_fullres"], replace(other, num_parts=1, part_id=0))
    assert hash_tree(pool.folder(phantom_dataset)) == before


@pytest.mark.parametrize("killed", ["before the first index", "while stale cases are removed"])
def test_a_pool_never_keeps_cases_of_other_plans_however_it_was_interrupted(job, phantom_dataset, pool, monkeypatch, killed):
    ungated = replace(QUICK, use_gate=False)
    if killed == "before the first index":
        with monkeypatch.context() as m:
            m.setattr(expand_dataset, "install_pool", die)
            with pytest.raises(RuntimeError):
                fill_pool(phantom_dataset, [job], ["3d_fullres"], ungated)
    else:
        fill_pool(phantom_dataset, [job], ["3d_fullres"], ungated)
    plans = read_json(phantom_dataset.preprocessed / "nnUNetPlans.json")
    plans["configurations"]["3d_fullres"]["normalization_schemes"] = ["RescaleTo01Normalization", "NoNormalization"]
    write_json(phantom_dataset.preprocessed / "nnUNetPlans.json", plans)
    dataset = open_dataset("900")
    if killed == "while stale cases are removed":
        remove = PoolDestination.remove
        with monkeypatch.context() as m:
            m.setattr(PoolDestination, "remove", lambda self, c: die() if c.endswith("3") else remove(self, c))
            with pytest.raises(RuntimeError):
                fill_pool(dataset, [job], ["3d_fullres"], ungated)
    made, store = [], PoolDestination.store
    monkeypatch.setattr(PoolDestination, "store", lambda self, case, rec: (made.append(case.case_id), store(self, case, rec)))
    fill_pool(dataset, [job], ["3d_fullres"], ungated)
    assert made == [r.case_id for r in job.requests]
    assert SyntheticIndex.load(pool.folder(pool.views[0])).plans_hash == dataset.plans_hash()


def test_a_lesion_for_which_no_host_has_room_is_given_up_and_the_others_are_made(generator, phantom_dataset, pool):
    requests = [Request(f"sbldm_f0_{i:04d}", i, {"tumour/volume_ml": 9000.0} if i == 1 else {}) for i in range(3)]
    job = edit_job(phantom_dataset, 0, generator, tuple(requests), EditSettings((), ("add",)))
    settings = replace(QUICK, sampler=replace(EDIT_SAMPLER, num_steps=2, max_corrections=0), use_gate=False)
    tally = produce(job, phantom_dataset, settings, pool)
    assert (tally.accepted, tally.rejected, tally.reasons) == (2, 1, {"no_room": 1})
    (given_up,) = records(pool, "rejected").values()
    assert "has no place for tumour/volume_ml = 9e+03" in given_up["gate"]["reasons"][0]
    again = produce(job, phantom_dataset, settings, pool)
    assert (again.attempts, again.accepted, again.reasons) == (0, 2, {"no_room": 1})
    with pytest.raises(UnfitGeneratorError, match="1 of 1 cases were given up, most because no host has room .* Ask for smaller"):
        produce(replace(job, requests=job.requests[1:2]), phantom_dataset, settings, pool)


def test_the_real_gate_runs_on_real_draws(job, phantom_dataset, pool):
    """A generator of sixty steps makes poor cases: the gate says so, with reasons that name the rule."""
    with pytest.raises(UnfitGeneratorError, match="gave up"):
        produce(job, phantom_dataset, replace(QUICK, max_attempts=1), pool)
    assert all(r["gate"]["reasons"] for r in records(pool, "rejected").values())


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


def test_in_place_trains_where_it_may_and_is_undone_byte_for_byte(phantom, phantom_dataset):
    raw, preprocessed = phantom_dataset.raw, phantom_dataset.preprocessed
    fold_cases(phantom_dataset, 0)
    expand("--pool", "-n", "1")  # so that hashes of the real cases are remembered before
    before = hash_tree(raw), hash_tree(preprocessed)
    expand("--in_place", "-n", "2")
    expanded = open_dataset("900")
    synthetic = ["sbldm_f0_0000", "sbldm_f0_0001"]
    assert expanded.real_case_ids == phantom_dataset.real_case_ids
    assert set(expanded.case_files) == {*phantom_dataset.case_files, *synthetic}
    splits = read_json(preprocessed / "splits_final.json")
    assert [[c for c in synthetic if c in s["train"]] for s in splits] == [synthetic, [], [], [], []]
    assert not any(set(synthetic) & set(s["val"]) for s in splits)
    assert read_json(preprocessed / "dataset.json")["numTraining"] == 12
    for case_id in synthetic:
        assert (preprocessed / "gt_segmentations" / f"{case_id}.nii.gz").is_file()
    expand("--in_place", "-n", "2")  # again: nothing changes
    expand_entry(["-d", "900", "--undo"])
    assert (hash_tree(raw), hash_tree(preprocessed)) == before


def test_an_interrupted_in_place_expansion_never_validates_and_can_be_finished_or_undone(in_place, monkeypatch):
    from nnunet_sbldm.expansion import parts as expand_dataset

    before = tree_of(in_place)
    with monkeypatch.context() as m:
        m.setattr(expand_dataset, "install_in_place", die)
        with pytest.raises(RuntimeError):
            expand("--in_place", "-n", "2")
    assert open_dataset("900").real_case_ids == in_place.real_case_ids
    for fold in ("all", 7):
        with pytest.raises(UserError, match="in-place expansion of Dataset900_Phantom is not finished"):
            make_trainer(nnUNetTrainerSBLDM, in_place, fold, "3d_fullres").do_split()
    expand("--in_place", "-n", "2")
    assert open_dataset("900").dataset_json["numTraining"] == 12
    assert not [c for c in make_trainer(nnUNetTrainerSBLDM, in_place, "all", "3d_fullres").do_split()[1] if "sbldm" in c]
    undo()
    with monkeypatch.context() as m:
        m.setattr(expand_dataset, "install_in_place", die)
        with pytest.raises(RuntimeError):
            expand("--in_place", "-n", "2")
    undo()
    assert tree_of(in_place) == before


def test_beginning_in_place_may_be_interrupted_anywhere(in_place, monkeypatch):
    from nnunet_sbldm.expansion import parts as expand_dataset

    before, write = tree_of(in_place), installation.write_json
    monkeypatch.setattr(expand_dataset, "install_in_place", die)
    for forbidden in ("manifest.json", in_place.raw / "dataset.json", in_place.preprocessed / "dataset.json"):
        with monkeypatch.context() as m:
            m.setattr(installation, "write_json", lambda p, v, f=forbidden: die() if f in (p, p.name) else write(p, v))
            with pytest.raises(RuntimeError):
                expand("--in_place", "-n", "1")
    with pytest.raises(RuntimeError):
        expand("--in_place", "-n", "1")
    assert open_dataset("900").real_case_ids == in_place.real_case_ids
    assert all("sbldm" in read_json(folder / "dataset.json") for folder in (in_place.raw, in_place.preprocessed))
    undo()
    assert tree_of(in_place) == before


def test_parts_that_begin_together_keep_one_backup_of_the_untouched_dataset(in_place, monkeypatch):
    before, copy, parts = tree_of(in_place), installation.copy_file, ["1"]

    def copy_late(source, target):
        if parts:  # the other part begins and makes its cases meanwhile
            expand("--in_place", "-n", "2", "-num_parts", "2", "-part_id", parts.pop())
        copy(source, target)

    monkeypatch.setattr(installation, "copy_file", copy_late)
    expand("--in_place", "-n", "2", "-num_parts", "2", "-part_id", "0")
    assert open_dataset("900").dataset_json["numTraining"] == 12
    undo()
    assert tree_of(in_place) == before


def test_undo_works_where_the_folders_were_moved(in_place, phantom, tmp_path, monkeypatch):
    before = hash_tree(phantom.raw), hash_tree(phantom.preprocessed)
    expand("--in_place", "-n", "1")
    for name in ("raw", "preprocessed"):
        (tmp_path / name).rename(tmp_path / f"moved_{name}")
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / f"moved_{name}"))
    undo()
    assert (hash_tree(tmp_path / "moved_raw"), hash_tree(tmp_path / "moved_preprocessed")) == before
    assert not (tmp_path / "raw").exists()


def test_undo_changes_nothing_where_it_cannot_restore_everything(in_place, phantom, capsys):
    expand("--in_place", "-n", "1")
    expanded = hash_tree(in_place.raw)
    in_place.preprocessed.rename(phantom.preprocessed / "elsewhere")
    assert "set nnUNet_preprocessed to where it is" in refused(capsys, "--undo")
    (phantom.preprocessed / "elsewhere").rename(in_place.preprocessed)
    manifest = in_place.raw / "sbldm_in_place" / "manifest.json"
    content = read_json(manifest)
    for name in (str(in_place.raw / "dataset.json"), "raw/../dataset.json"):
        write_json(manifest, content | {"changed": [name]})
        assert "which is not in the folders of Dataset900_Phantom" in refused(capsys, "--undo")
    write_json(manifest, content)
    assert hash_tree(in_place.raw) == expanded
    shutil.rmtree(manifest.parent / "backup" / "preprocessed")
    assert "is gone; nothing was undone" in refused(capsys, "--undo")
    assert (in_place.raw / "labelsTr" / "sbldm_f0_0000.nii.gz").is_file()


def test_an_interrupted_undo_is_finished_before_anything_else(in_place, monkeypatch, capsys):
    before = tree_of(in_place)
    expand("--in_place", "-n", "2")
    with monkeypatch.context() as m:
        m.setattr(installation, "copy_file", die)
        with pytest.raises(RuntimeError):
            undo()
    assert "run sbldm_expand_dataset -d 900 --undo again first" in refused(capsys, "--in_place", "-n", "2")
    undo()
    assert tree_of(in_place) == before
    expand("--in_place", "-n", "2")
    assert open_dataset("900").dataset_json["numTraining"] == 12


def test_undo_leaves_a_folder_that_others_use_by_now(in_place, capsys):
    """Real files lie elsewhere, so that the expansion has to create the folders of raw files."""
    listed = {c: {"images": files["images"], "label": files["label"]} for c, files in in_place.case_files.items()}
    text = json.dumps({**in_place.dataset_json, "dataset": listed}).replace("imagesTr", "images").replace("labelsTr", "labels")
    (in_place.raw / "imagesTr").rename(in_place.raw / "images")
    (in_place.raw / "labelsTr").rename(in_place.raw / "labels")
    (in_place.raw / "dataset.json").write_text(text)
    before = tree_of(in_place)
    expand("--in_place", "-n", "1")
    (in_place.raw / "imagesTr" / "notes.txt").write_text("mine")
    capsys.readouterr()
    undo()
    assert f"{in_place.raw / 'imagesTr'} was made for synthetic cases, but stays" in capsys.readouterr().err
    assert not (in_place.raw / "labelsTr").exists()
    (in_place.raw / "imagesTr" / "notes.txt").unlink()
    assert tree_of(in_place) == before


def test_a_part_stops_when_its_expansion_is_taken_back_and_leaves_nothing(in_place, monkeypatch, capsys):
    before, write, written = tree_of(in_place), destinations.write_case, []

    def write_late(case, *arguments):
        written.append(case.case_id)
        if len(written) == 2:
            undo()
        write(case, *arguments)

    monkeypatch.setattr(destinations, "write_case", write_late)
    assert "the expansion was taken back while this part of it was running" in refused(capsys, "--in_place", "-n", "3")
    assert written == ["sbldm_f0_0000", "sbldm_f0_0001"]
    assert tree_of(in_place) == before


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


def test_a_second_in_place_request_and_fold_all_are_refused(phantom, generator, capsys):
    expand("--in_place", "-n", "1")
    with pytest.raises(SystemExit):
        expand("--in_place", "-n", "2")
    assert "already expanded in place by another request" in capsys.readouterr().err
    expand_entry(["-d", "900", "--undo"])
    with pytest.raises(SystemExit):
        expand("--in_place", "-n", "1", "-f", "all", "-m", str(generator.folder))
    assert "--in_place cannot serve fold all" in capsys.readouterr().err


def test_a_dataset_with_synthetic_cases_of_its_own_is_not_expanded_in_place(phantom, generator, capsys):
    expand("-o", "904", "-n", "1")
    folders = [home / "Dataset904_PhantomSBLDM" for home in (phantom.raw, phantom.preprocessed)]
    before = [{k for k in hash_tree(folder) if "content_hashes" not in k} for folder in folders]
    with pytest.raises(SystemExit):
        expand_entry(["-d", "904", "-f", "0", *FAST, "-m", str(generator.folder), "--in_place", "-n", "2"])
    assert "Dataset904_PhantomSBLDM already holds synthetic cases" in capsys.readouterr().err
    assert [{k for k in hash_tree(folder) if "content_hashes" not in k} for folder in folders] == before


@pytest.mark.parametrize("where", [["--pool"], ["-o", "904"], ["--in_place"]])
def test_a_case_is_made_again_voxel_for_voxel(phantom, generator, capsys, tmp_path, where):
    expand(*where, "-n", "2", "-seed", "11")
    capsys.readouterr()
    dataset = "904" if "-o" in where else "900"
    regenerate_entry([dataset, "sbldm_f0_0001", "-device", "cpu", "-o", str(tmp_path / "again")])
    assert "identical, voxel for voxel" in capsys.readouterr().out
    assert (tmp_path / "again" / "sbldm_f0_0001_0001.nii.gz").is_file()


def test_a_case_made_with_other_plans_is_made_again_with_them(phantom, generator, phantom_dataset, capsys):
    """Beside the usual plans, and without them."""
    usual = phantom_dataset.preprocessed / "nnUNetPlans.json"
    write_json(usual.with_name("MyPlans.json"), json.loads(usual.read_text().replace("nnUNetPlans", "MyPlans")))
    phantom_dataset.data_folder.rename(phantom_dataset.preprocessed / "MyPlans_3d_fullres")
    options = ["-d", "900", "-f", "0", "-p", "MyPlans", "-m", str(generator.folder), *FAST[4:], "-n", "1"]
    expand_entry([*options, "--pool"])
    expand_entry([*options, "-o", "904"])
    expand_entry([*options, "-o", "905", "-mode", "edit", "-kind", "remove"])
    capsys.readouterr()
    for keep_usual in (True, False):
        if not keep_usual:
            usual.unlink()
        for dataset in ("900", "904", "905"):
            regenerate_entry([dataset, "sbldm_f0_0000", "-device", "cpu"])
            assert "identical, voxel for voxel" in capsys.readouterr().out
    usual.with_name("MyPlans.json").unlink()
    with pytest.raises(SystemExit) as e:
        regenerate_entry(["900", "sbldm_f0_0000", "-device", "cpu"])
    assert e.value.code == 2
    assert "Dataset900_Phantom has no plans nnUNetPlans" in capsys.readouterr().err


def test_regeneration_finds_a_moved_generator_and_says_when_it_is_gone(phantom, generator, capsys):
    expand("--pool", "-n", "1")
    generator.folder.rename(generator.folder.with_name("fold_9"))
    regenerate_entry(["900", "sbldm_f0_0000", "-device", "cpu"])
    assert "identical" in capsys.readouterr().out
    shutil.rmtree(generator.folder.with_name("fold_9"))
    with pytest.raises(SystemExit):
        regenerate_entry(["900", "sbldm_f0_0000", "-device", "cpu"])
    assert f"The SBLDM {generator.hash} that made this case is neither" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        regenerate_entry(["900", "sbldm_f0_0007", "-device", "cpu"])
    assert "has no synthetic case sbldm_f0_0007" in capsys.readouterr().err


def test_a_spec_makes_what_it_lists(phantom, generator, phantom_dataset, tmp_path):
    spec = tmp_path / "spec.json"
    write_json(spec, [{"count": 2, "volume_ml": 12}, {"count": 1, "volume_ml": [20, 25], "centroid": [0.5, 0.4, 0.6]}])
    expand("--pool", "-spec", spec)
    folder = phantom_dataset.preprocessed / "sbldm" / phantom_dataset.config.data_identifier / "fold_0" / "provenance"
    asked = [read_json(f)["condition_asked"] for f in sorted(folder.iterdir())]
    assert [round(a["tumour/volume_ml"], 6) for a in asked[:2]] == [12, 12]
    assert 20 <= asked[2]["tumour/volume_ml"] <= 25
    assert [asked[2][f"tumour/centroid_{a}"] for a in "dhw"] == pytest.approx([0.6, 0.4, 0.5])


def test_one_foreign_generator_serves_every_fold_whose_validation_cases_it_never_saw(phantom, generator, phantom_dataset):
    """The generator's cases are renamed to strangers with strange content, as if it came from another hospital."""
    strangers = [{"case_id": f"elsewhere_{i}", "image_hashes": [f"{i:064x}"], "label_hash": ""} for i in range(8)]
    write_json(generator.folder / "training_cases.json", strangers)
    model = str(generator.folder)
    expand_entry(["-d", "900", "-f", "0", "1", "2", "3", "4", "-m", model, *FAST, "-o", "904", "-n", "1"])
    splits = read_json(phantom.preprocessed / "Dataset904_PhantomSBLDM" / "splits_final.json")
    assert [[c for c in s["train"] if c.startswith("sbldm")] for s in splits] == [[f"sbldm_f{i}_0000"] for i in range(5)]


def test_a_killed_expansion_is_finished_without_a_trace_of_the_kill(phantom, phantom_dataset, generator):
    expand("--pool", "-n", "4")
    pool = phantom_dataset.preprocessed / "sbldm" / phantom_dataset.config.data_identifier / "fold_0"
    finished = hash_tree(pool)
    shutil.rmtree(pool)
    code = (
        "from phantom_fixtures import NANO; from nnunet_sbldm.generator.presets import PRESETS; PRESETS['nano'] = NANO; "
        "from nnunet_sbldm.dataset_conversion.expand_dataset import expand_entry; "
        f"expand_entry({['-d', '900', '-f', '0', *FAST, '--pool', '-n', '4']!r})"
    )
    process = subprocess.Popen([sys.executable, "-P", "-c", code], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    deadline = time.monotonic() + 120
    while not list(pool.glob("provenance/*.json")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    expand("--pool", "-n", "4")
    assert hash_tree(pool) == finished


def test_records_are_complete(phantom, phantom_dataset, generator):
    expand("--pool", "-n", "1")
    folder = phantom_dataset.preprocessed / "sbldm" / phantom_dataset.config.data_identifier / "fold_0" / "provenance"
    record = json.loads((folder / "sbldm_f0_0000.json").read_text())
    assert set(record) >= {
        "case_id",
        "generator_hash",
        "seed",
        "attempt",
        "fold",
        "condition_asked",
        "condition_obtained",
        "sampler",
        "nearest_real_case",
        "gate",
        "versions",
    }
    assert record["versions"]["device"] == "cpu"
    assert np.isfinite(record["nearest_real_case"]["latent_distance"])
