"""Runs a table of jobs: some at a time, each once, going on where a job fails.

Every job has a state file, so that an interrupted or extended study is finished by running it again, here or, one job per
task, on a cluster: ``python -m nnunet_sbldm.ablation.runner FOLDER JOB``. A lock keeps two runners from starting one job.
"""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from nnunet_sbldm.ablation.jobs import StudyJob
from nnunet_sbldm.common.commands import run
from nnunet_sbldm.common.files import read_json, write_json
from nnunet_sbldm.common.jobs import clock, find_program
from nnunet_sbldm.common.locks import try_lock, try_shared_lock, try_sole_lock
from nnunet_sbldm.common.processes import end_tree, ending_with_us, is_running, start_of, tree_memory_bytes
from nnunet_sbldm.common.threads import OMP_THREADS, usable_cores
from nnunet_sbldm.types import UserError

POLL_EVERY_S = 0.1
MEMORY_EVERY_S, STATE_EVERY_S = 2.0, 30.0
SILENT_S = 10 * STATE_EVERY_S
"""A runner that has not noted its job for so long is gone, on whatever machine it was."""
TABLE, RUNNERS, CLOCK = "jobs.json", "runners", "clock"
ERROR_MARKS = ("error:", "Error:", "Error(", "Exception", "Killed")
MAX_ERROR_LENGTH = 300
RESULTLESS_OPTIONS = ("-device", "-np", "-npfp")
FORMER_NAMES = {
    "nnunet_sbldm.ablation.steps": "nnunet_sbldm.study_steps",
    "nnunet_sbldm.ablation.surface_distances": "nnunet_sbldm.study_surface",
}
"""Where modules were when studies that are still in progress began: their finished jobs stay finished."""
SIDE_SUFFIX = ".json"
"""Of what lies beside images of some formats, and not beside every prediction."""


# --- state ---------------------------------------------------------------------------------------------------------


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


def state_of(job: StudyJob, folder: Path) -> dict[str, Any]:
    """What is known of a job: ``state`` is ``waiting``, ``running``, ``done`` or ``failed``.

    A job whose command has changed waits, other than in where and how fast it runs, and so does one whose process, or on another
    machine whose runner, is gone without having said how it ended.
    """
    state = _written_state(job, folder)
    if not state:
        return {"state": "waiting"}
    if state["state"] != "running":
        return state
    ours = state["host"] == socket.gethostname()
    is_over = not is_running(state["pid"], state.get("started")) if ours else _silence_s(job, folder) > SILENT_S
    return {"state": "waiting"} if is_over else state


def _written_state(job: StudyJob, folder: Path) -> dict[str, Any]:
    """What was last noted of a job with this command; empty if nothing was."""
    file = folder / "jobs" / f"{job.job_id}.json"
    state = read_json(file) if file.is_file() else {}
    return state if state.get("identity") == _identity(job) else {}


def _silence_s(job: StudyJob, folder: Path) -> float:
    """How long ago the state of a job was noted, by the clock of the folder's file system."""
    try:
        (folder / "jobs" / CLOCK).touch()
        now = (folder / "jobs" / CLOCK).stat().st_mtime
    except OSError:  # not ours to write to
        now = time.time()
    return now - (folder / "jobs" / f"{job.job_id}.json").stat().st_mtime


def _identity(job: StudyJob) -> str:
    """The command without options that change no result."""
    words = [FORMER_NAMES.get(word, word) for word in job.command]
    for option in RESULTLESS_OPTIONS:
        while option in words:
            del words[words.index(option) : words.index(option) + 2]
    return shlex.join(words)


def typed(job: StudyJob) -> str:
    """A job as one would type it into a shell."""
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
    """A job that runs, and its lock; ``earlier_s`` is what attempts took that did not finish it."""

    job: StudyJob
    folder: Path
    process: subprocess.Popen[bytes]
    lock: IO[bytes]
    pid_started: float | None
    started: float
    earlier_s: float
    measured: float = 0.0
    noted: float = 0.0
    peak: int = 0

    @property
    def seconds(self) -> float:
        return round(self.earlier_s + time.monotonic() - self.started, 1)

    def measure(self) -> None:
        if time.monotonic() - self.measured > MEMORY_EVERY_S:
            self.measured = time.monotonic()
            self.peak = max(self.peak, tree_memory_bytes(self.process.pid))
        if time.monotonic() - self.noted > STATE_EVERY_S:
            self.note()

    def note(self) -> None:
        """Say that it runs, and for how long: an attempt that is killed counts, too."""
        self.noted = time.monotonic()
        _write_state(self.job, self.folder, "running",
                     {"pid": self.process.pid, "started": self.pid_started, "seconds": self.seconds})

    def note_interruption(self) -> None:
        """Say that it does not run any more and is to be started again."""
        _write_state(self.job, self.folder, "waiting", {"seconds": self.seconds})


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
    tried: set[str] = set()
    running: list[_Running] = []
    wanted = [j for j in _subset_by_subset(jobs) if only in (None, j.job_id)]
    with _working_on(jobs, folder) if only is None else nullcontext(), ending_with_us(lambda: _end_all(running)):
        while True:
            states = states_of(jobs, folder)
            if only and states[only]["state"] == "running" and states[only]["host"] != socket.gethostname():
                states[only] = {"state": "waiting"}  # its lock says whether that attempt, on another machine, is over
            ready = [j for j in wanted if _is_ready(j, states, tried)]
            for job in ready[: parallel_jobs - len(running)]:
                tried.add(job.job_id)
                started = _start(job, folder, {**threads, **environment})
                running += [started] if started else []
            if running:
                _await_one(running)
            elif not ready:  # else another runner has all that were
                break
    return dict(Counter(s["state"] for s in states_of(jobs, folder).values()))


def _subset_by_subset(jobs: Sequence[StudyJob]) -> list[StudyJob]:
    """One subset after another, and one arm after another within it: a study that is stopped has whole comparisons."""
    subsets, arms = (list(dict.fromkeys(getattr(j, key) for j in jobs)) for key in ("subset", "arm"))
    return sorted(jobs, key=lambda j: (subsets.index(j.subset), arms.index(j.arm)))


def _is_ready(job: StudyJob, states: Mapping[str, Mapping[str, Any]], tried: set[str]) -> bool:
    own = states[job.job_id]["state"] in ("waiting", "failed") and job.job_id not in tried
    return own and all(states[n]["state"] == "done" for n in job.needs)


def _start(job: StudyJob, folder: Path, environment: Mapping[str, str]) -> _Running | None:
    """Start a job, unless another runner has it or has just finished it."""
    lock = try_lock(folder / "jobs" / f"{job.job_id}.lock")
    if lock is None:
        return None
    before = _written_state(job, folder)
    if before.get("state") == "done":
        lock.close()
        return None
    log_file = folder / "logs" / f"{job.job_id}.log"
    log_file.parent.mkdir(parents=True, exist_ok=True)
    print(f"start   {job.job_id}", flush=True)
    with open(log_file, "wb") as log:
        process = subprocess.Popen(
            [find_program(job.command[0]), *job.command[1:]], cwd=folder, env={**os.environ, **environment, **job.environment},
            stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    one = _Running(job, folder, process, lock, start_of(process.pid), time.monotonic(), before.get("seconds", 0.0))
    one.note()
    return one


def _await_one(running: list[_Running]) -> None:
    """Wait until a job ends, and note how."""
    while True:
        for one in running:
            one.measure()
            if one.process.poll() is not None:
                running.remove(one)
                _finish(one)
                return
        time.sleep(POLL_EVERY_S)


def _finish(one: _Running) -> None:
    folder, code, seconds = one.folder, one.process.returncode, one.seconds
    facts: dict[str, Any] = {"seconds": seconds, "peak_memory_mb": round(one.peak / 2**20, 1), "returncode": code}
    error = last_error(folder / "logs" / f"{one.job.job_id}.log", code) if code else _what_is_missing(one.job, folder)
    if error:
        facts["error"] = error
    else:
        for pattern in one.job.deletes:
            for file in folder.glob(pattern):
                file.unlink()
    _write_state(one.job, folder, "failed" if error else "done", facts)
    one.lock.close()
    print(f"{'FAILED ' if error else 'done   '} {one.job.job_id} ({clock(seconds)} min)" + (f": {error}" if error else ""),
          flush=True)


def _what_is_missing(job: StudyJob, folder: Path) -> str:
    """What a job should have left and has not, though it says nothing of an error; empty if it has all."""
    if not job.counterparts:
        return ""
    given, made = (folder / name for name in job.counterparts)
    names = sorted(p.name for p in given.iterdir() if p.suffix != SIDE_SUFFIX)
    missing = [name for name in names if not (made / name).is_file()]
    return f"it ended well and left {len(missing)} of {len(names)} files out, such as {made / missing[0]}" if missing else ""


def _write_state(job: StudyJob, folder: Path, state: str, facts: Mapping[str, Any]) -> None:
    write_json(folder / "jobs" / f"{job.job_id}.json",
               {"state": state, "identity": _identity(job), "command": typed(job), "host": socket.gethostname(), **facts})


def last_error(log_file: Path, returncode: int) -> str:
    """The last line of a log that looks like an error, else its last line."""
    lines = [line.strip() for line in log_file.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    marked = [line for line in lines if any(mark in line for mark in ERROR_MARKS)]
    return f"exit code {returncode}: {(marked or lines or ['no output'])[-1][:MAX_ERROR_LENGTH]}"


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


def _end_all(running: list[_Running]) -> None:
    for one in running:
        end_tree(one.process)
    for one in running:
        one.note_interruption()


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
