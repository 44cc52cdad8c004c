import errno
import json
import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from nnunet_sbldm.cli.regenerate import regenerate_entry
from nnunet_sbldm.common.files import TEMPORARY_PREFIX, read_json, write_json
from nnunet_sbldm.common.locks import hold, is_held
from nnunet_sbldm.common.processes import is_running
from nnunet_sbldm.data.cases import load_arrays, read_case
from nnunet_sbldm.data.dataset import open_dataset
from nnunet_sbldm.data.splits import fold_cases
from nnunet_sbldm.expansion.regenerate import regenerate
from nnunet_sbldm.generator.records import TRACE_NAME, SyntheticRecord, add_to_trace, next_number, read_trace
from nnunet_sbldm.generator.requests import is_case_id
from nnunet_sbldm.ldm.config import EDIT_SAMPLER, SamplerConfig
from nnunet_sbldm.mixing.fold import TrainingFold, TrainingRun
from nnunet_sbldm.mixing.on_the_fly import choice as generator_choice
from nnunet_sbldm.mixing.on_the_fly import process as generator_process
from nnunet_sbldm.mixing.on_the_fly.finding import find_generator
from nnunet_sbldm.mixing.on_the_fly.job import GeneratorJob
from nnunet_sbldm.mixing.on_the_fly.online_sampler import OnlineSampler
from nnunet_sbldm.mixing.on_the_fly.opening import open_on_the_fly
from nnunet_sbldm.mixing.on_the_fly.process import FAILED, PAUSED, RESUMED, _persist, _reason
from nnunet_sbldm.mixing.on_the_fly.ring import RingReader
from nnunet_sbldm.mixing.on_the_fly.source import FirstCases
from nnunet_sbldm.mixing.settings import MixingSettings
from nnunet_sbldm.types import UnfitGeneratorError, UserError

PATIENCE_S = 600
"""The process has a low priority: on a machine that is busy it gets little time."""
posix = pytest.mark.skipif(sys.platform == "win32", reason="sends signals of POSIX")


@pytest.fixture
def model(phantom, phantom_dataset):
    return phantom.results / phantom_dataset.name / "SBLDM__nnUNetPlans__nano" / "fold_0"


def run_of(dataset, output_folder, fold=0, log=None, **changes):
    split = fold_cases(dataset, fold)
    this = TrainingFold(dataset.preprocessed, fold, dataset.plans, dataset.config, dataset.dataset_json)
    run = TrainingRun(this, tuple(split[0]), tuple(split[1]), output_folder, torch.device("cpu"), 0, log or (lambda line: None))
    return replace(run, **changes)


@pytest.fixture
def run(phantom_dataset, tmp_path, model):
    return run_of(phantom_dataset, tmp_path / "results" / "fold_0")


@pytest.fixture
def opened(run):
    """Opens sources that are stopped at the end of the test."""
    sources = []

    def open_(run=run, use_gate=False, **settings):
        sources.append(open_on_the_fly(run, MixingSettings(source="on_the_fly", **settings), use_gate=use_gate))
        return sources[-1]

    yield open_
    for source in sources:
        source.stop()


def wait_for(condition):
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def generator_pid(source):
    return source._supervisor._process.pid


# --- making cases --------------------------------------------------------------------------------------------------


def test_cases_appear_are_replaced_and_are_those_of_the_seed(opened, run, tmp_path):
    lines = []
    source = opened(replace(run, log=lines.append), pool_size=2, max_reuse=2)
    assert source.identifiers == ()
    source.start()
    wait_for(lambda: len(source.identifiers) == 2 and source._supervisor.progress.made == 2)
    first = source.identifiers[0]
    data, seg, previous, properties = source.load_case(first)
    assert (data.ndim, seg.shape[0], previous) == (4, 1, None)
    assert "class_locations" in properties
    report = source.epoch_report()
    assert (report["made"], report["drawn"], report["ready"], report["reason"], report["corrupt"]) == (2, 1, 2, "", 0)
    assert report["ms_per_case"] > 0
    source.load_case(first)
    wait_for(lambda: first not in source.identifiers)
    report = source.epoch_report()
    assert (report["drawn"], report["reused"], report["restarts"]) == (1, 1, 0)
    assert sum("ready and drawn" in line for line in lines) == 1
    _assert_numbers_decide(source, run)
    ring, pid = source._ring, generator_pid(source)
    source.stop()
    assert not ring.exists()
    assert source.identifiers == ()
    assert not is_running(pid)


def _assert_numbers_decide(source, run):
    """Another maker, started at another number, makes the same case; the trace says how."""
    job = GeneratorJob.load(source._ring / "job.json")
    maker, case_id = OnlineSampler(job), source.identifiers[-1]
    (line,) = [line for line in read_trace(run.output_folder / TRACE_NAME) if line["case_id"] == case_id]
    case, record = maker.make(line["number"])
    assert (record.seed, record.attempt) == (line["seed"], line["attempt"])
    folder = run.output_folder / "again"
    folder.mkdir()
    maker.writer(case, record)(folder)
    published = source._ring / "cases" / case_id
    for mine, theirs in zip(load_arrays(folder, case_id), load_arrays(published, case_id), strict=True):
        assert np.array_equal(mine, theirs)
    assert read_json(published / f"{case_id}.json")["seed"] == line["seed"]
    assert is_case_id(case_id, 0)


def test_a_training_waits_for_its_first_cases_if_asked_and_never_longer_than_asked(opened, run):
    lines = []
    source = opened(replace(run, log=lines.append), pool_size=2, wait_s=PATIENCE_S)
    source.start()
    assert len(source.identifiers) == 2
    assert "2 of 2 are ready" in lines[-1]
    source.stop()
    for wait_s, said in ((0.5, "0 of 2 are ready"), (None, "the generator process starts")):
        other = opened(replace(run, log=lines.append), pool_size=2, wait_s=wait_s)
        other._supervisor._command[2:] = ["-c", "import time; time.sleep(60)"]
        begin = time.monotonic()
        other.start()
        assert (wait_s or 0) <= time.monotonic() - begin < (wait_s or 0) + 10
        assert said in lines[-1]
        other.stop()


def test_the_first_of_several_processes_makes_the_others_wait_no_longer_than_they_can(opened, run, monkeypatch):
    monkeypatch.setattr("nnunet_sbldm.mixing.on_the_fly.source.num_ranks", lambda: 2)
    monkeypatch.setattr("nnunet_sbldm.mixing.on_the_fly.opening.share_ring", lambda ring: ring)
    monkeypatch.setattr("nnunet_sbldm.mixing.on_the_fly.source.MAX_WAIT_OF_RANKS_S", 0.5)
    source = opened(run, pool_size=2, wait_s=PATIENCE_S)
    source._supervisor._command[2:] = ["-c", "import time; time.sleep(600)"]
    begin = time.monotonic()
    source.start()
    assert time.monotonic() - begin < PATIENCE_S


def test_a_process_forked_from_a_training_does_not_hold_its_ring(tmp_path):
    held = hold(tmp_path)
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    child.start()
    assert is_held(tmp_path)
    held.close()
    wait_for(lambda: not is_held(tmp_path))
    assert child.is_alive()
    child.kill()
    child.join()


def test_a_ring_in_use_is_kept_by_trainings_that_cannot_see_its_process(opened, run):
    source = opened()
    _, pid, rest = source._ring.name.rsplit(".", 2)
    elsewhere = source._ring.with_name(source._ring.name.replace(f".{pid}.", ".4194305."))  # more than any process id
    source._ring.rename(elsewhere)
    source._ring = elsewhere
    opened()
    assert elsewhere.is_dir()
    source._held.close()
    opened()
    assert not elsewhere.exists()


def test_a_copy_for_a_worker_reads_and_nothing_else(opened):
    copy = pickle.loads(pickle.dumps(opened()))
    assert isinstance(copy, RingReader)
    assert copy.identifiers == ()


def test_ranks_that_only_read_have_no_process(opened, run):
    source = opened()
    reading = replace(run, local_rank=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nnunet_sbldm.mixing.on_the_fly.opening.share_ring", lambda ring: source._ring)
        other = opened(reading)
    other.start()
    other.stop()
    assert other.epoch_report() == {}
    assert source._ring.is_dir()


def test_a_case_made_on_the_fly_can_be_made_again_from_the_trace(opened, run, phantom_dataset, tmp_path, capsys):
    source = opened()
    maker, trace = OnlineSampler(GeneratorJob.load(source._ring / "job.json")), run.output_folder / TRACE_NAME
    case, record = maker.make(3)
    add_to_trace(trace, 3, record)
    arguments = [str(run.output_folder), case.case_id, "-device", "cpu"]
    regenerate_entry([*arguments, "-o", str(tmp_path / "again")])
    assert "sizes, places and shapes are exactly the recorded ones" in capsys.readouterr().out
    files = [str(tmp_path / "again" / f"{case.case_id}_000{c}.nii.gz") for c in range(2)]
    np.testing.assert_array_equal(phantom_dataset.reader().read_images(files)[0], case.image)
    add_to_trace(trace, 3, replace(record, condition_obtained={**record.condition_obtained, "tumour/volume_ml": 0.5}))
    regenerate_entry(arguments)
    assert "tumour/volume_ml" in capsys.readouterr().out
    for folder, sentence in ((run.output_folder, "has no case none; it has 1 case"), (tmp_path, "no results folder")):
        with pytest.raises(UserError, match=sentence):
            regenerate(str(folder), "none", "cpu")


def test_edits_on_the_fly_have_hosts_of_the_fold_and_can_be_made_again(opened, run, model, monkeypatch):
    source = opened(mode="edit")
    job = GeneratorJob.load(source._ring / "job.json")
    assert sorted(job.hosts) == sorted(run.train)
    case, record = OnlineSampler(job).make(0)
    assert record.edit["host"] in run.train
    assert record.sampler["name"] == EDIT_SAMPLER.name
    assert case.image.shape == read_case(open_dataset("900"), record.edit["host"]).image.shape
    add_to_trace(run.output_folder / TRACE_NAME, 0, record)
    assert "exactly the recorded ones" in regenerate(str(run.output_folder), case.case_id, "cpu")
    source.stop()
    strangers = [{"case_id": f"elsewhere_{i}", "image_hashes": [f"{i:064x}"], "label_hash": ""} for i in range(8)]
    write_json(model / "training_cases.json", strangers)  # it has seen none of ours; its hosts are training cases
    other = replace(run, val=(*run.val, run.train[0]))
    assert run.train[0] in refusal(other, mode="edit")
    monkeypatch.delenv("nnUNet_raw")
    assert "mode edit needs the raw files" in refusal(run, mode="edit")


def test_a_new_training_in_an_old_folder_starts_a_fresh_trace_and_a_continued_one_goes_on(opened, run):
    trace = run.output_folder / TRACE_NAME
    run.output_folder.mkdir(parents=True)
    add_to_trace(trace, 4, SyntheticRecord("sbldm_f0_000004", "hash", "folder", 1, 0, 0, {}, {}, {}, {}))
    opened(replace(run, first_epoch=1))
    assert next_number(trace) == 5
    opened(run)
    assert next_number(trace) == 0


# --- when the generator ends ---------------------------------------------------------------------------------------


@posix
def test_a_killed_generator_is_started_again_and_goes_on_with_the_next_case(opened, run):
    lines = []
    source = opened(replace(run, log=lines.append), pool_size=1, max_reuse=1)
    source.start()
    wait_for(lambda: source.identifiers)
    first, pid = source.identifiers[0], generator_pid(source)
    os.kill(pid, signal.SIGINT)
    time.sleep(0.3)
    assert is_running(pid), "Ctrl-C is the trainer's"
    os.kill(pid, signal.SIGKILL)
    source.load_case(first)
    wait_for(lambda: source.identifiers != (first,))
    assert source.identifiers == (first.replace("000000", "000001"),)
    assert source.epoch_report()["restarts"] == 1
    assert sum("SIGKILL" in line for line in lines) == 1


def test_an_unfit_generator_is_found_out(opened):
    source = opened(use_gate=True)
    maker = OnlineSampler(GeneratorJob.load(source._ring / "job.json"))
    maker._settings = replace(maker._settings, sampler=SamplerConfig(num_steps=2), max_attempts=1)
    with pytest.raises(UnfitGeneratorError, match="quality gate gave up"):  # noqa: PT012  after some cases
        for number in range(20):
            case, _ = maker.make(number)
            assert case is None
            maker.refuse_unfit()


def test_a_generator_that_always_fails_is_started_a_bounded_number_of_times(opened, run):
    lines = []
    source = opened(replace(run, log=lines.append))
    source._supervisor._command[2:] = ["-c", "raise SystemExit(7)"]
    source.start()
    wait_for(lambda: source._supervisor.is_over)
    report = source.epoch_report()
    assert (report["restarts"], report["reason"], report["ready"]) == (3, "it ended with exit code 7", 0)
    assert [("again" in line, "for good" in line) for line in lines[1:]] == [(True, False), (False, True)]


def test_the_end_of_the_process_is_noticed_although_another_one_holds_its_pipe(opened, run):
    source = opened()
    sleeper = "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])"
    holder = f"import subprocess, sys; {sleeper}; raise SystemExit(7)"
    source._supervisor._command[2:] = ["-c", holder]
    source.start()
    wait_for(lambda: source._supervisor.progress.restarts > 0)
    source.stop()


@pytest.mark.parametrize("first", [FirstCases(1, need_memory=True), FirstCases(1, wait_s=PATIENCE_S)], ids=["GPU", "wait"])
def test_what_cannot_get_better_ends_it_for_good_with_the_reason(opened, run, first):
    lines = []
    source = opened(replace(run, log=lines.append))
    job = replace(GeneratorJob.load(source._ring / "job.json"), plans_hash="another")
    with pytest.raises(UserError) as refusal:
        OnlineSampler(job)
    reason, is_final = _reason(refusal.value, job, has_sampled=False)
    failed = json.dumps({"event": FAILED, "reason": reason, "final": is_final})
    source._supervisor._command[2:] = ["-c", f"print({failed!r}); raise SystemExit(1)"]
    source._first = first
    with pytest.raises(UserError, match="changed during the training"):
        source.start()
    assert not source._ring.exists()
    report = source.epoch_report()
    assert (report["restarts"], report["made"]) == (0, 0)
    assert sum("ended for good" in line and report["reason"] in line for line in lines) == 1


def test_missing_memory_ends_it_for_good_only_before_the_first_case(opened):
    job = GeneratorJob.load(opened()._ring / "job.json")
    with pytest.raises(RuntimeError) as cpu_memory:
        torch.empty(2**60)
    for error in (MemoryError(), torch.cuda.OutOfMemoryError("CUDA out of memory."), cpu_memory.value):
        reason, is_final = _reason(error, job, has_sampled=False)
        assert is_final
        assert "set sbldm_device to another device" in reason
        assert _reason(error, job, has_sampled=True) == ("out of memory on cpu", False)
    assert _reason(KeyError("a"), job, has_sampled=False) == ("KeyError: 'a'", False)


@posix
@pytest.mark.parametrize("end", ["kill", "exit"])
def test_the_generator_never_outlives_the_trainer(end, phantom_dataset, tmp_path, model):
    code = (
        "import os, sys, time, test_source as t; from pathlib import Path\n"
        "from nnunet_sbldm.data.dataset import open_dataset\n"
        "run = t.run_of(open_dataset('900'), Path(sys.argv[1]))\n"
        "source = t.open_on_the_fly(run, t.MixingSettings(source='on_the_fly'), use_gate=False)\n"
        "source.start(); t.wait_for(lambda: source._supervisor._process)\n"
        "if os.fork() == 0: time.sleep(600)\n"  # a worker, which holds copies of the trainer's pipes
        "print(t.generator_pid(source), source._ring, flush=True); sys.stdin.readline(); sys.exit(3)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([os.path.dirname(__file__), *sys.path])}
    trainer = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "out")], env=environment, stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, start_new_session=True, text=True)
    pid, ring = trainer.stdout.readline().split()
    pid = int(pid)
    assert is_running(pid)
    if end == "kill":
        trainer.kill()
        assert trainer.wait() == -signal.SIGKILL
    else:
        trainer.stdin.write("\n")
        trainer.stdin.flush()
        assert trainer.wait() == 3
    wait_for(lambda: not is_running(pid))
    os.killpg(trainer.pid, signal.SIGKILL)  # the worker of this test
    trainer.stdin.close()
    trainer.stdout.close()
    assert Path(ring).exists() == (end == "kill")
    source = open_on_the_fly(run_of(phantom_dataset, tmp_path / "out"), MixingSettings(source="on_the_fly"))
    source._supervisor.stop()
    assert not Path(ring).exists()
    shutil.rmtree(source._ring)


# --- refusals ------------------------------------------------------------------------------------------------------


def refusal(run, **settings):
    with pytest.raises(UserError) as caught:
        open_on_the_fly(run, MixingSettings(source="on_the_fly", **settings))
    assert not list((run.fold.preprocessed / "sbldm").glob(f"on_the_fly/{TEMPORARY_PREFIX}*"))
    return str(caught.value)


def test_without_a_generator_it_says_how_to_train_one(phantom_dataset, tmp_path):
    run = run_of(phantom_dataset, tmp_path / "out", fold=1)
    assert "run sbldm_train -d 900 -f 1" in refusal(run)
    assert "run sbldm_train -d 900 -f 1" in refusal(run, model="nowhere")


def test_a_generator_of_another_fold_leaks(phantom_dataset, tmp_path, model):
    message = refusal(run_of(phantom_dataset, tmp_path / "out", fold=1), model=str(model))
    assert "validation cases" in message
    assert "sbldm_train -f 1" in message


def test_a_validation_case_under_another_name_leaks(run, model):
    cases = read_json(model / "training_cases.json")
    held_out = run.fold.fingerprints(run.val)[run.val[0]]
    write_json(model / "training_cases.json", [*cases, replace(held_out, case_id="renamed").to_json()])
    assert f"{run.val[0]} (same" in refusal(run)


def test_several_generators_must_be_told_apart(run, model):
    other = model.parents[1] / "SBLDM__nnUNetPlans__small" / "fold_0"
    shutil.copytree(model, other)
    assert "SBLDM__nnUNetPlans__nano, SBLDM__nnUNetPlans__small" in refusal(run)
    names = ("nano", "SBLDM__nnUNetPlans__nano", str(model), str(model.parent), "Dataset900_Phantom/SBLDM__nnUNetPlans__nano")
    assert {find_generator(run.fold, name) for name in names} == {model.resolve()}


def test_a_generator_of_other_plans_is_refused(run, model):
    plans_file = run.fold.preprocessed / "nnUNetPlans.json"
    plans = read_json(plans_file)
    plans["configurations"]["3d_fullres"]["spacing"][0] *= 2
    write_json(plans_file, plans)
    message = refusal(run)
    assert "other plans" in message
    assert "sbldm_train -d 900 -f 0 -preset nano" in message


def test_other_channels_and_labels_are_refused(run, model):
    for key, value in (("channel_names", {"0": "T1"}), ("labels", {"background": 0, "another": 1})):
        fold = replace(run.fold, dataset_json={**run.fold.dataset_json, key: value})
        assert "run sbldm_train" in refusal(replace(run, fold=fold))


def test_a_damaged_generator_is_refused(run, model):
    (model / "denoiser.safetensors").write_bytes(b"")
    assert "damaged" in refusal(run)


def test_real_cases_with_such_names_are_refused(run, model):
    assert "rename" in refusal(replace(run, train=(*run.train, "sbldm_f0_000012")))


def test_a_number_of_threads_that_is_none_is_refused(run, model, monkeypatch):
    monkeypatch.setenv("SBLDM_GENERATOR_THREADS", "many")
    assert "SBLDM_GENERATOR_THREADS is a number of threads from 1; got 'many'" in refusal(run)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_refused(run):
    assert "sbldm_device" in refusal(run, sbldm_device="cuda:1")


def test_a_place_that_cannot_be_written_is_refused(run, model):
    (run.fold.preprocessed / "sbldm").mkdir(exist_ok=True)
    (run.fold.preprocessed / "sbldm" / "on_the_fly").write_text("")
    assert "cannot be written" in refusal(run)


def test_raw_files_may_be_away(run, model, monkeypatch, opened):
    run.fold.fingerprints(run.val)
    monkeypatch.delenv("nnUNet_raw")
    maker = OnlineSampler(GeneratorJob.load(opened()._ring / "job.json"))
    assert sorted(maker._reference.latents) == sorted(run.train)


# --- the trace -----------------------------------------------------------------------------------------------------


def test_the_next_number_follows_the_trace_even_if_it_was_cut(tmp_path):
    path = tmp_path / "trace.jsonl"
    record = SyntheticRecord("sbldm_f0_000000", "hash", "folder", 1, 0, 0, {}, {}, {}, {})
    assert next_number(path) == 0
    add_to_trace(path, 0, record)
    add_to_trace(path, 1, record)
    assert next_number(path) == 2
    path.write_text(path.read_text()[:-5])
    assert next_number(path) == 1
    add_to_trace(path, 1, record)
    assert next_number(path) == 2
    assert path.read_text().endswith("\n")


def test_a_full_disk_is_waited_for(monkeypatch):
    monkeypatch.setattr(generator_process, "PAUSE_S", 0.01)
    full, events = [OSError(errno.ENOSPC, "full"), OSError(errno.EDQUOT, "full")], []

    def write():
        if full:
            raise full.pop()

    _persist(write, lambda event, **details: events.append(event))
    assert events == [PAUSED, RESUMED]
    full.append(OSError(errno.EACCES, "not allowed"))
    with pytest.raises(OSError, match="not allowed"):
        _persist(write, lambda event, **details: None)


@pytest.mark.parametrize(
    ("preset", "initial", "options"),
    [("small", "", "-preset small"), ("small_x2", "", "-preset small -length 2"),
     ("small_from_a_x_model", "a_x_model", "-init a_x_model"), ("tiny_from_b_x0.5", "b", "-init b -length 0.5")],
)
def test_a_generator_names_the_options_it_was_trained_with(preset, initial, options):
    plan = SimpleNamespace(preset=SimpleNamespace(name=preset), initial=SimpleNamespace(name=initial))
    assert generator_choice._training_options(plan) == options
