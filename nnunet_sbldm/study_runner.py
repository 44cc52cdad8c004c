"""Runs a table of jobs: some at a time, each once, going on where a job fails.

Every job has a state file, so that an interrupted or extended study is finished by running it again, here or, one job per
task, on a cluster: ``python -m nnunet_sbldm.study_runner FOLDER STAGE INDEX``.
"""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

from nnunet_sbldm.files import is_running, read_json, write_json
from nnunet_sbldm.steps import clock, find_program, tree_memory_kb
from nnunet_sbldm.study_jobs import StudyJob
from nnunet_sbldm.threads import OMP_THREADS, usable_cores
from nnunet_sbldm.types import UserError

POLL_EVERY_S = 0.1
MEMORY_EVERY_S = 2.0
TABLE = "jobs.json"
ERROR_MARKS = ("error:", "Error:", "Error(", "Exception", "Killed")
MAX_ERROR_LENGTH = 300
RESULTLESS_OPTIONS = ("-device", "-np", "-npfp")


# --- state ---------------------------------------------------------------------------------------------------------


def save_table(jobs: Sequence[StudyJob], environment: Mapping[str, str], folder: Path) -> None:
    """Write the table for ``status`` and for tasks on a cluster."""
    write_json(folder / TABLE, {"environment": dict(environment), "jobs": [asdict(j) for j in jobs]})


def load_table(folder: Path) -> tuple[list[StudyJob], dict[str, str]]:
    """Jobs and variables of a study's folder.

    Raises:
        UserError: there is no study in the folder.
    """
    if not (folder / TABLE).is_file():
        raise UserError(f"{folder} holds no study: run sbldm_ablation run STUDY.yaml -o {folder}.")
    value = read_json(folder / TABLE)
    sequences = ("command", "needs", "deletes")
    entries: list[dict[str, Any]] = [{k: tuple(v) if k in sequences else v for k, v in j.items()} for j in value["jobs"]]
    return [StudyJob(**entry) for entry in entries], value["environment"]


def state_of(job: StudyJob, folder: Path) -> dict[str, Any]:
    """What is known of a job: ``state`` is ``waiting``, ``running``, ``done`` or ``failed``.

    A job whose command has changed waits, other than in where and how fast it runs, and so does one whose process is gone
    without having said how it ended.
    """
    file = folder / "jobs" / f"{job.job_id}.json"
    state = read_json(file) if file.is_file() else {}
    if state.get("identity") != _identity(job):
        return {"state": "waiting"}
    if state["state"] == "running" and state["host"] == socket.gethostname() and not is_running(state["pid"]):
        return {"state": "waiting"}
    return state


def _identity(job: StudyJob) -> str:
    """The command without options that change no result."""
    words = list(job.command)
    for option in RESULTLESS_OPTIONS:
        while option in words:
            del words[words.index(option) : words.index(option) + 2]
    return shlex.join(words)


def _typed(job: StudyJob) -> str:
    return " ".join([*(f"{k}={v}" for k, v in job.environment.items()), shlex.join(job.command)])


def states_of(jobs: Sequence[StudyJob], folder: Path) -> dict[str, dict[str, Any]]:
    """State of every job; a job that needs a failed one, or one that waits for such, is ``blocked``."""
    states: dict[str, dict[str, Any]] = {}
    for job in jobs:
        state = state_of(job, folder)
        stuck = [n for n in job.needs if states[n]["state"] in ("failed", "blocked")]
        if stuck and state["state"] == "waiting":
            state = {"state": "blocked", "error": f"needs {stuck[0]}"}
        states[job.job_id] = state
    return states


# --- running -------------------------------------------------------------------------------------------------------


@dataclass
class _Running:
    """A job that runs."""

    job: StudyJob
    process: subprocess.Popen[bytes]
    started: float
    measured: float = 0.0
    peak_kb: int = 0

    def measure(self) -> None:
        if time.monotonic() - self.measured > MEMORY_EVERY_S:
            self.measured = time.monotonic()
            self.peak_kb = max(self.peak_kb, tree_memory_kb(self.process.pid))


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
        Number of jobs by state.
    """
    threads = {} if OMP_THREADS in os.environ else {OMP_THREADS: str(max(1, usable_cores() // parallel_jobs))}
    tried: set[str] = set()
    running: list[_Running] = []
    wanted = [j for j in _subset_by_subset(jobs) if only in (None, j.job_id)]
    with _ended_with_us(running):
        while True:
            states = states_of(jobs, folder)
            if only and only not in tried and states[only]["state"] == "running":
                states[only] = {"state": "waiting"}  # a task of a cluster starts when its earlier attempt is over
            ready = [j for j in wanted if _is_ready(j, states, tried)]
            for job in ready[: parallel_jobs - len(running)]:
                tried.add(job.job_id)
                running.append(_start(job, folder, {**threads, **environment}))
            if not running:
                break
            _await_one(running, folder)
    return dict(Counter(s["state"] for s in states_of(jobs, folder).values()))


def _subset_by_subset(jobs: Sequence[StudyJob]) -> list[StudyJob]:
    """One subset after another, and one arm after another within it: a study that is stopped has whole comparisons."""
    subsets, arms = (list(dict.fromkeys(getattr(j, key) for j in jobs)) for key in ("subset", "arm"))
    return sorted(jobs, key=lambda j: (subsets.index(j.subset), arms.index(j.arm)))


def _is_ready(job: StudyJob, states: Mapping[str, Mapping[str, Any]], tried: set[str]) -> bool:
    own = states[job.job_id]["state"] in ("waiting", "failed") and job.job_id not in tried
    return own and all(states[n]["state"] == "done" for n in job.needs)


def _start(job: StudyJob, folder: Path, environment: Mapping[str, str]) -> _Running:
    log_file = folder / "logs" / f"{job.job_id}.log"
    log_file.parent.mkdir(parents=True, exist_ok=True)
    print(f"start   {job.job_id}", flush=True)
    with open(log_file, "wb") as log:
        process = subprocess.Popen(
            [find_program(job.command[0]), *job.command[1:]], cwd=folder, env={**os.environ, **environment, **job.environment},
            stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    _write_state(job, folder, "running", {"pid": process.pid})
    return _Running(job, process, time.monotonic())


def _await_one(running: list[_Running], folder: Path) -> None:
    """Wait until a job ends, and note how."""
    while True:
        for one in running:
            one.measure()
            if one.process.poll() is not None:
                running.remove(one)
                _finish(one, folder)
                return
        time.sleep(POLL_EVERY_S)


def _finish(one: _Running, folder: Path) -> None:
    code, seconds = one.process.returncode, round(time.monotonic() - one.started, 1)
    facts: dict[str, Any] = {"seconds": seconds, "peak_memory_mb": round(one.peak_kb / 1024, 1), "returncode": code}
    if code == 0:
        for pattern in one.job.deletes:
            for file in folder.glob(pattern):
                file.unlink()
    else:
        facts["error"] = last_error(folder / "logs" / f"{one.job.job_id}.log", code)
    _write_state(one.job, folder, "failed" if code else "done", facts)
    print(f"{'FAILED ' if code else 'done   '} {one.job.job_id} ({clock(seconds)} min)"
          + (f": {facts['error']}" if code else ""), flush=True)


def _write_state(job: StudyJob, folder: Path, state: str, facts: Mapping[str, Any]) -> None:
    write_json(folder / "jobs" / f"{job.job_id}.json",
               {"state": state, "identity": _identity(job), "command": _typed(job), "host": socket.gethostname(), **facts})


def last_error(log_file: Path, returncode: int) -> str:
    """The last line of a log that looks like an error, else its last line."""
    lines = [line.strip() for line in log_file.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    marked = [line for line in lines if any(mark in line for mark in ERROR_MARKS)]
    return f"exit code {returncode}: {(marked or lines or ['no output'])[-1][:MAX_ERROR_LENGTH]}"


@contextmanager
def _ended_with_us(running: list[_Running]) -> Iterator[None]:
    """Kill what runs when we are interrupted or terminated."""
    def stop(*_: object) -> NoReturn:
        raise SystemExit(1)

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except BaseException:
        for one in running:
            with suppress(ProcessLookupError):
                os.killpg(one.process.pid, signal.SIGKILL)
            one.process.wait()
        raise
    finally:
        signal.signal(signal.SIGTERM, previous)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one job of a stage; the exit code is 0 only if it is done."""
    folder, stage, index = argv if argv is not None else sys.argv[1:]
    jobs, environment = load_table(Path(folder))
    job = [j for j in jobs if j.stage == stage][int(index)]
    run_table(jobs, Path(folder), environment, 1, only=job.job_id)
    state = states_of(jobs, Path(folder))[job.job_id]
    print(f"{job.job_id}: {state['state']} {state.get('error', '')}")
    return 0 if state["state"] == "done" else 1


if __name__ == "__main__":
    sys.exit(main())
