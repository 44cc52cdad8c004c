"""The pool: cases of one command, for one generator and one set of plans, however it was interrupted."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from expansion_commands import FAST, QUICK, dead_pid, die, expand, judge_by_seed, records
from phantom_fixtures import hash_tree

from nnunet_sbldm.common.files import read_json, write_json
from nnunet_sbldm.data.cases import load_arrays
from nnunet_sbldm.data.dataset import open_dataset
from nnunet_sbldm.data.splits import fold_cases
from nnunet_sbldm.dataset_conversion.expand_dataset import expand_entry
from nnunet_sbldm.expansion import pool as pool_door
from nnunet_sbldm.expansion import production
from nnunet_sbldm.expansion.destinations import PoolDestination
from nnunet_sbldm.expansion.pool import fill_pool
from nnunet_sbldm.generator.records import SyntheticIndex


@pytest.mark.quick
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


@pytest.mark.quick
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


@pytest.mark.parametrize("middle", ["ungated", "another generator"])
def test_a_pool_holds_nothing_that_another_command_made(phantom, generator, destination, tmp_path, monkeypatch, middle):
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
    index = SyntheticIndex.load(destination.folder(destination.views[0]))
    assert index.cases == dict.fromkeys(("sbldm_f0_0000", "sbldm_f0_0003"), generator.hash)
    assert {c: (r["generator_hash"], r["sampler"]["gate"]) for c, r in records(destination).items()} == dict.fromkeys(
        index.cases, (generator.hash, True)
    )
    assert list(records(destination, "rejected")) == ["sbldm_f0_0001", "sbldm_f0_0002"]


def test_parts_of_a_pool_may_run_on_machines_of_other_batch_size_and_precision(job, phantom_dataset, destination):
    one = replace(QUICK, use_gate=False, num_parts=2)
    other = replace(one, sampler=replace(one.sampler, batch_size=2, precision="bf16"), part_id=1)
    assert fill_pool(phantom_dataset, [job], ["3d_fullres"], one).num_open == 3
    assert fill_pool(phantom_dataset, [job], ["3d_fullres"], other).installed == {0: 6}
    samplers = [r["sampler"] for r in records(destination).values()]
    assert [(s["batch_size"], s["precision"]) for s in samplers] == [(1, "fp32"), (2, "bf16")] * 3
    before = hash_tree(destination.folder(phantom_dataset))
    fill_pool(phantom_dataset, [job], ["3d_fullres"], replace(other, num_parts=1, part_id=0))
    assert hash_tree(destination.folder(phantom_dataset)) == before


@pytest.mark.parametrize("killed", ["before the first index", "while stale cases are removed"])
def test_a_pool_never_keeps_cases_of_other_plans_however_it_was_interrupted(
    job, phantom_dataset, destination, monkeypatch, killed
):
    ungated = replace(QUICK, use_gate=False)
    if killed == "before the first index":
        with monkeypatch.context() as m:
            m.setattr(pool_door, "install_pool", die)
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
    assert SyntheticIndex.load(destination.folder(destination.views[0])).plans_hash == dataset.plans_hash()


def test_a_killed_expansion_is_finished_without_a_trace_of_the_kill(pool, generator):
    expand("--pool", "-n", "4")
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
