"""What is known of a job: its state file, its log, its lock, and why it failed.

A state file is JSON: ``state`` (``waiting``, ``running``, ``done`` or ``failed``), ``identity``, ``command`` and ``host``; then,
as far as they are known, ``pid`` and ``started`` of its process, ``seconds``, ``peak_memory_mb``, ``returncode`` and ``error``.
"""

from __future__ import annotations

import shlex
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

from nnunet_sbldm.common.files import read_json, write_json
from nnunet_sbldm.common.locks import try_lock
from nnunet_sbldm.common.processes import is_running

NOTED_EVERY_S = 30.0
SILENT_S = 10 * NOTED_EVERY_S
"""A runner that has not noted its job for so long is gone, on whatever machine it was."""
LOGS, CLOCK = "logs", "clock"
ERROR_MARKS = ("error:", "Error:", "Error(", "Exception", "Killed")
MAX_ERROR_LENGTH = 300


class Job(Protocol):
    """One command; what runs it needs to know no more.

    Attributes:
        job_id: name, also of its state and log files.
        command: program and arguments.
        environment: variables for this command alone.
    """

    @property
    def job_id(self) -> str: ...  # noqa: D102
    @property
    def command(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def environment(self) -> Mapping[str, str]: ...  # noqa: D102


def typed(job: Job) -> str:
    """A job as one would type it into a shell, with its own variables in front."""
    return " ".join([*(f"{k}={shlex.quote(v)}" for k, v in job.environment.items()), shlex.join(job.command)])


@dataclass(frozen=True)
class JobFolder:
    """The folder that jobs run in, with their state files and logs.

    Attributes:
        path: the folder.
        states: name of the folder in it that holds a state file for each job.
        identity: what has to stay the same of a job for its state to count.
    """

    path: Path
    states: str = "jobs"
    identity: Callable[[Job], str] = typed

    def log_file(self, job: Job) -> Path:
        """The file that gets all that the job prints."""
        return self.path / LOGS / f"{job.job_id}.log"

    def state_file(self, job: Job) -> Path:
        """The file that :meth:`write` writes."""
        return self.path / self.states / f"{job.job_id}.json"

    def lock(self, job: Job) -> IO[bytes] | None:
        """The right to run a job, until it is closed; None if another runner has it."""
        return try_lock(self.path / self.states / f"{job.job_id}.lock")

    def write(self, job: Job, state: str, facts: Mapping[str, Any]) -> None:
        """Note the state of a job, with what else is known of it."""
        write_json(self.state_file(job), {
            "state": state, "identity": self.identity(job), "command": typed(job), "host": socket.gethostname(), **facts})

    def written(self, job: Job) -> dict[str, Any]:
        """What was last noted of a job with this identity; empty if nothing was."""
        file = self.state_file(job)
        state = read_json(file) if file.is_file() else {}
        return state if state.get("identity") == self.identity(job) else {}

    def state(self, job: Job) -> dict[str, Any]:
        """The state of a job, with what else is known of it.

        A job that is noted as running waits if its process, or on another machine its runner, is gone.
        """
        state = self.written(job)
        if not state:
            return {"state": "waiting"}
        if state["state"] != "running":
            return state
        ours = state["host"] == socket.gethostname()
        is_over = not is_running(state["pid"], state.get("started")) if ours else self._silence_s(job) > SILENT_S
        return {"state": "waiting"} if is_over else state

    def _silence_s(self, job: Job) -> float:
        """How long ago the state of a job was noted, by the clock of the folder's file system."""
        clock = self.path / self.states / CLOCK
        try:
            clock.touch()
            now = clock.stat().st_mtime
        except OSError:  # not ours to write to
            now = time.time()
        return now - self.state_file(job).stat().st_mtime


def lines_of(log_file: Path) -> list[str]:
    """The lines of a log that say something."""
    text = log_file.read_text(encoding="utf-8", errors="replace")
    return [line.strip() for line in text.splitlines() if line.strip()]


def last_error(log_file: Path, returncode: int) -> str:
    """The last line of a log that looks like an error, else its last line."""
    lines = lines_of(log_file)
    marked = [line for line in lines if any(mark in line for mark in ERROR_MARKS)]
    return f"exit code {returncode}: {(marked or lines or ['no output'])[-1][:MAX_ERROR_LENGTH]}"
