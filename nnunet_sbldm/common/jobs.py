"""Runs jobs: some at a time, measured, logged, each once, going on where one fails, and ended when we are."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from nnunet_sbldm.common.job_state import NOTED_EVERY_S, Job, JobFolder, last_error
from nnunet_sbldm.common.processes import end_tree, ending_with_us, start_of, tree_memory_bytes
from nnunet_sbldm.common.progress import LiveLine, LogTail, Report
from nnunet_sbldm.types import UserError

POLL_EVERY_S, LOOK_EVERY_S = 0.1, 1.0
"""How soon the end of a job is noticed; how often its memory and its log are looked at."""


def clock(seconds: float) -> str:
    """Minutes and seconds, as in 3:07."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def find_program(name: str) -> str:
    """Path of a command that is installed beside this Python, or on ``PATH``.

    Raises:
        UserError: there is none.
    """
    if name == "python":
        return sys.executable
    beside = Path(sys.executable).parent
    found = shutil.which(name, path=str(beside)) or shutil.which(name)
    if not found:
        raise UserError(f"The command {name} is neither in {beside} nor on PATH: install nnunet-sbldm with pip.")
    return found


class RunningJob:
    """A job that runs, and the lock that keeps others from starting it.

    Attributes:
        job: what runs.
        seconds: how long, with attempts that did not finish it.
        last: what it last said of its progress.
    """

    def __init__(self, job: Job, folder: JobFolder, lock: IO[bytes], environment: Mapping[str, str], earlier_s: float) -> None:
        """Start it; ``earlier_s`` is what attempts took that did not finish it."""
        self.job, self._folder, self._lock, self._earlier_s = job, folder, lock, earlier_s
        self._begin = self._noted = time.monotonic()
        self._looked, self._peak_bytes = 0.0, 0
        self._process = _start(job, folder, environment)
        self._started, self._tail = start_of(self._process.pid), LogTail(folder.log_file(job))
        self._note()

    @property
    def seconds(self) -> float:  # noqa: D102
        return round(self._earlier_s + time.monotonic() - self._begin, 1)

    @property
    def last(self) -> Report | None:  # noqa: D102
        return self._tail.last

    @property
    def is_over(self) -> bool:
        """Whether its process has ended."""
        return self._process.poll() is not None

    def look(self) -> Report | None:
        """Measure its memory and read its log, now and then; what it says of its progress, if that is to be passed on."""
        now = time.monotonic()
        if now - self._noted > NOTED_EVERY_S:
            self._note()
        if now - self._looked < LOOK_EVERY_S:
            return None
        self._looked = now
        self._peak_bytes = max(self._peak_bytes, tree_memory_bytes(self._process.pid))
        return self._tail.refresh()

    def _note(self) -> None:
        """Say that it runs, and for how long: an attempt that is killed counts, too."""
        self._noted = time.monotonic()
        self._folder.write(self.job, "running", {"pid": self._process.pid, "started": self._started, "seconds": self.seconds})

    def finish(self, check: Callable[[Any], str]) -> str:
        """Note how it ended, and let others have it; why it failed, empty if it did not. See :meth:`JobRunner.run`."""
        code = self._process.returncode
        facts: dict[str, Any] = {
            "seconds": self.seconds, "peak_memory_mb": round(self._peak_bytes / 2**20, 1), "returncode": code}
        error = last_error(self._folder.log_file(self.job), code) if code else check(self.job)
        self._folder.write(self.job, "failed" if error else "done", {**facts, "error": error} if error else facts)
        self._lock.close()
        return error

    def end(self) -> None:
        """Kill it, and note that it is to be started again."""
        end_tree(self._process)
        self._folder.write(self.job, "waiting", {"seconds": self.seconds})
        self._lock.close()


def _start(job: Job, folder: JobFolder, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    program = find_program(job.command[0])
    log_file = folder.log_file(job)
    log_file.parent.mkdir(parents=True, exist_ok=True)
    variables = {"PYTHONUNBUFFERED": "1", **os.environ, **environment, **job.environment}  # so that the log is up to date
    with open(log_file, "wb") as log:
        return subprocess.Popen([program, *job.command[1:]], cwd=folder.path, env=variables, stdin=subprocess.DEVNULL,
                                stdout=log, stderr=subprocess.STDOUT, start_new_session=True)


class Reporter:
    """Says on standard output what becomes of jobs: on a terminal with a live line of those that run, else line by line."""

    def __init__(self) -> None:
        self._line = LiveLine(sys.stdout)

    def started(self, job: Job) -> None:
        """A job has been started."""
        self._print(f"start   {job.job_id}")

    def ended(self, one: RunningJob, error: str) -> None:
        """A job has ended; ``error`` is empty if it is done."""
        word, reason = ("FAILED ", f": {error}") if error else ("done   ", "")
        self._print(f"{word} {one.job.job_id} ({clock(one.seconds)} min){reason}")

    def progressed(self, one: RunningJob, report: Report) -> None:
        """A job has said how far it is."""
        if not self._line.is_shown:
            self._print(f"        {one.job.job_id}: {report.text}")

    def running(self, jobs: Sequence[RunningJob]) -> None:
        """These jobs run; called again and again."""
        self._line.show("  |  ".join(f"{one.job.job_id} {_so_far(one)}" for one in jobs))

    def clear(self) -> None:
        """Leave no live line behind."""
        self._line.clear()

    def _print(self, text: str) -> None:
        self.clear()
        print(text, flush=True)


def _so_far(one: RunningJob) -> str:
    return f"({clock(one.seconds)} min)" + (f" {one.last.text}" if one.last else "")


class JobRunner:
    """Runs jobs in a folder, each once."""

    def __init__(self, folder: JobFolder, environment: Mapping[str, str], parallel_jobs: int, reporter: Reporter) -> None:
        """Run at most ``parallel_jobs`` at the same time, with the variables of ``environment``."""
        self._folder, self._environment, self._parallel_jobs = folder, environment, parallel_jobs
        self._reporter, self._running = reporter, list[RunningJob]()

    def run(self, ready: Callable[[], Sequence[Job]], check: Callable[[Any], str] = lambda job: "") -> None:
        """Start what is ready until nothing is and nothing runs.

        Args:
            ready: jobs that can be started; asked again whenever one has ended. None is started twice, nor one that another
                runner has or has finished.
            check: called with a job whose command has ended well; why it has failed nevertheless, else empty.
        """
        tried: set[str] = set()
        with ending_with_us(self._end_all):
            while True:
                jobs = [j for j in ready() if j.job_id not in tried]
                for job in jobs[: self._parallel_jobs - len(self._running)]:
                    tried.add(job.job_id)
                    self._start(job)
                if self._running:
                    self._await_one(check)
                elif not jobs:  # else another runner has all that were
                    break

    def _start(self, job: Job) -> None:
        lock = self._folder.lock(job)
        if lock is None:
            return
        before = self._folder.written(job)
        if before.get("state") == "done":
            lock.close()
            return
        self._reporter.started(job)
        self._running.append(RunningJob(job, self._folder, lock, self._environment, before.get("seconds", 0.0)))

    def _await_one(self, check: Callable[[Any], str]) -> None:
        """Wait until a job ends, and note how."""
        while not (over := [one for one in self._running if one.is_over]):
            for one in self._running:
                report = one.look()
                if report is not None:
                    self._reporter.progressed(one, report)
            self._reporter.running(self._running)
            time.sleep(POLL_EVERY_S)
        for one in over:
            self._running.remove(one)
            self._reporter.ended(one, one.finish(check))

    def _end_all(self) -> None:
        self._reporter.clear()
        for one in self._running:
            one.end()
