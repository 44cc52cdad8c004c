"""Runs the jobs of a study, here or, one job per task, on a cluster.

An interrupted or extended study is finished by running it again. Several runners may share the jobs of one folder; a task of a
cluster is ``python -m nnunet_sbldm.ablation.runner FOLDER JOB``.
"""

from __future__ import annotations

import os
import shlex
import socket
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nnunet_sbldm.ablation.jobs import StudyJob
from nnunet_sbldm.common.commands import run
from nnunet_sbldm.common.files import read_json, write_json
from nnunet_sbldm.common.job_state import Job, JobFolder
from nnunet_sbldm.common.jobs import JobRunner, Reporter
from nnunet_sbldm.common.locks import try_shared_lock, try_sole_lock
from nnunet_sbldm.common.threads import OMP_THREADS, usable_cores
from nnunet_sbldm.types import UserError

TABLE, RUNNERS = "jobs.json", "runners"
RESULTLESS_OPTIONS = ("-device", "-np", "-npfp")
FORMER_NAMES = {
    "nnunet_sbldm.ablation.steps": "nnunet_sbldm.study_steps",
    "nnunet_sbldm.ablation.surface_distances": "nnunet_sbldm.study_surface",
}
"""Where modules were when studies that are still in progress began: their finished jobs stay finished."""
SIDE_SUFFIX = ".json"
"""Of what lies beside images of some formats, and not beside every prediction."""


# --- the table -----------------------------------------------------------------------------------------------------


def save_table(jobs: Sequence[StudyJob], environment: Mapping[str, str], folder: Path) -> None:
    """Write the table for ``status`` and for tasks on a cluster."""
    write_json(folder / TABLE, {"environment": dict(environment), "jobs": [asdict(j) for j in jobs]})


@contextmanager
def setting_up(jobs: Sequence[StudyJob], folder: Path) -> Iterator[None]:
    """What a study's folder is set up in: with other jobs than it has no run may be going on, nor begin meanwhile.

    Raises:
        UserError: one is, and each would wait for jobs that the other has changed.
    """
    lock = None
    if _has_other_jobs(jobs, folder):
        lock = try_sole_lock(folder / RUNNERS)
        if lock is None:
            raise _other_run(folder)
    with lock or nullcontext():
        yield


def _has_other_jobs(jobs: Sequence[StudyJob], folder: Path) -> bool:
    return (folder / TABLE).is_file() and load_table(folder)[0] != list(jobs)


def _other_run(folder: Path) -> UserError:
    return UserError(f"Another run is working on {folder}, with other arms, cases or options: wait for its end, or end it.")


def load_table(folder: Path) -> tuple[list[StudyJob], dict[str, str]]:
    """Jobs and variables of a study's folder.

    Raises:
        UserError: there is no study in the folder.
    """
    if not (folder / TABLE).is_file():
        raise UserError(f"{folder} holds no study: run sbldm_ablation run STUDY.yaml -o {folder}.")
    value = read_json(folder / TABLE)
    sequences = ("command", "needs", "deletes", "counterparts")
    entries: list[dict[str, Any]] = [{k: tuple(v) if k in sequences else v for k, v in j.items()} for j in value["jobs"]]
    return [StudyJob(**entry) for entry in entries], value["environment"]


@contextmanager
def _working_on(jobs: Sequence[StudyJob], folder: Path) -> Iterator[None]:
    """Keep others from changing the table while several runners may share its jobs."""
    lock = try_shared_lock(folder / RUNNERS)
    if lock is None:
        raise _other_run(folder)
    with lock:
        if _has_other_jobs(jobs, folder):
            raise _other_run(folder)
        yield


# --- states --------------------------------------------------------------------------------------------------------


def study_folder(folder: Path) -> JobFolder:
    """Where the jobs of a study are noted: finished ones stay finished wherever and however fast they run."""
    return JobFolder(folder, identity=_identity)


def _identity(job: Job) -> str:
    """The command without options that change no result."""
    words = [FORMER_NAMES.get(word, word) for word in job.command]
    for option in RESULTLESS_OPTIONS:
        while option in words:
            del words[words.index(option) : words.index(option) + 2]
    return shlex.join(words)


def states_of(jobs: Sequence[StudyJob], folder: Path) -> dict[str, dict[str, Any]]:
    """State of every job; a job that needs a failed one, or one that waits for such, is ``blocked``."""
    noted, states = study_folder(folder), dict[str, dict[str, Any]]()
    for job in jobs:
        state = noted.state(job)
        stuck = [n for n in job.needs if states[n]["state"] in ("failed", "blocked")]
        if stuck and state["state"] == "waiting":
            state = {"state": "blocked", "error": f"needs {stuck[0]}"}
        states[job.job_id] = state
    return states


# --- running -------------------------------------------------------------------------------------------------------


def run_table(
    jobs: Sequence[StudyJob], folder: Path, environment: Mapping[str, str], parallel_jobs: int, only: str | None = None
) -> dict[str, int]:
    """Run what is not done yet; failed jobs of earlier calls are tried again.

    Args:
        jobs: every job after those it needs.
        folder: the study's folder; ``jobs/ID.json`` and ``logs/ID.log`` are written.
        environment: variables for all jobs.
        parallel_jobs: how many run at the same time; they share the cores, unless ``OMP_NUM_THREADS`` is set.
        only: run this job alone, if those it needs are done.

    Returns:
        Number of jobs by state; ``running`` are those that another runner has.

    Raises:
        UserError: the folder has been set up with other jobs meanwhile.
    """
    threads = {} if OMP_THREADS in os.environ else {OMP_THREADS: str(max(1, usable_cores() // parallel_jobs))}
    runner = JobRunner(study_folder(folder), {**threads, **environment}, parallel_jobs, Reporter())
    wanted = [j for j in _subset_by_subset(jobs) if only in (None, j.job_id)]
    with _working_on(jobs, folder) if only is None else nullcontext():
        runner.run(lambda: _ready(wanted, jobs, folder, only), lambda job: _what_is_missing(job, folder))
    return dict(Counter(s["state"] for s in states_of(jobs, folder).values()))


def _subset_by_subset(jobs: Sequence[StudyJob]) -> list[StudyJob]:
    """One subset after another, and one arm after another within it: a study that is stopped has whole comparisons."""
    subsets, arms = (list(dict.fromkeys(getattr(j, key) for j in jobs)) for key in ("subset", "arm"))
    return sorted(jobs, key=lambda j: (subsets.index(j.subset), arms.index(j.arm)))


def _ready(wanted: Sequence[StudyJob], jobs: Sequence[StudyJob], folder: Path, only: str | None) -> list[StudyJob]:
    """Jobs that wait or have failed, and need none that is not done."""
    states = states_of(jobs, folder)
    if only and states[only]["state"] == "running" and states[only]["host"] != socket.gethostname():
        states[only] = {"state": "waiting"}  # its lock says whether that attempt, on another machine, is over
    open_jobs = [j for j in wanted if states[j.job_id]["state"] in ("waiting", "failed")]
    return [j for j in open_jobs if all(states[n]["state"] == "done" for n in j.needs)]


def _what_is_missing(job: StudyJob, folder: Path) -> str:
    """What a job should have left and has not, though it says nothing of an error; if it has all, its files are pruned."""
    if job.counterparts:
        given, made = (folder / name for name in job.counterparts)
        names = sorted(p.name for p in given.iterdir() if p.suffix != SIDE_SUFFIX)
        missing = [name for name in names if not (made / name).is_file()]
        if missing:
            return f"it ended well and left {len(missing)} of {len(names)} files out, such as {made / missing[0]}"
    for pattern in job.deletes:
        for file in folder.glob(pattern):
            file.unlink()
    return ""


def main(argv: Sequence[str] | None = None) -> None:
    """Run one job; the exit code is 0 only if it is done."""
    run(lambda: _run_one(*(argv if argv is not None else sys.argv[1:])))


def _run_one(folder: str, name: str) -> None:
    jobs, environment = load_table(Path(folder))
    if name not in {j.job_id for j in jobs}:
        raise UserError(f"{folder} has no job {name} any more: its study was changed after the job was submitted.")
    run_table(jobs, Path(folder), environment, 1, only=name)
    state = states_of(jobs, Path(folder))[name]
    print(f"{name}: {state['state']} {state.get('error', '')}")
    sys.exit(0 if state["state"] == "done" else 1)


if __name__ == "__main__":
    main()
