"""The trainer's side of the generator process: start it, hear what it reports, start it again if it ends, end it.

A thread waits for the process, so that the trainer never does. What it has to say is kept until the trainer asks.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_sbldm.mixing.on_the_fly.process import CASE, FAILED, PAUSED, RESUMED, SAMPLED

MAX_RESTARTS = 3
RESTART_DELAY_S = 1.0
READ_BYTES, POLL_S = 65536, 0.2
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass
class SupervisorProgress:
    """What the generator process has done so far.

    Attributes:
        made: cases published.
        rejected: cases that the quality gate gave up.
        seconds: time that both took.
        restarts: how often the process was started again.
        reason: why no cases are made at the moment; empty if they are, or could be.
    """

    made: int = 0
    rejected: int = 0
    seconds: float = 0.0
    restarts: int = 0
    reason: str = "starting"


class GeneratorSupervisor:
    """One generator process, kept alive.

    Attributes:
        progress: what it has done.
        is_over: whether the process ended for good.
    """

    def __init__(self, job_file: Path, log_file: Path, num_threads: int) -> None:
        """Supervise a process for the job in ``job_file``; what it prints goes to ``log_file``."""
        self._command = [sys.executable, "-P", "-m", "nnunet_sbldm.mixing.on_the_fly.process", str(job_file)]
        self._environment = {name: str(num_threads) for name in THREAD_VARIABLES}
        self._log_file, self._owner = log_file, os.getpid()
        self._lock, self._stopping, self._settled = threading.Lock(), threading.Event(), threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._supervise, name="sbldm generator supervisor", daemon=True)
        self._failure: tuple[str, bool] | None = None
        self._notices: list[str] = []
        self._said: set[str] = set()
        self.progress, self.is_over = SupervisorProgress(), False

    @property
    def has_started(self) -> bool:
        """Whether :meth:`start` was called."""
        return self._thread.ident is not None

    def start(self) -> None:
        """Start the process, without waiting for it."""
        self._thread.start()

    def wait_until_settled(self, timeout_s: float) -> None:
        """Wait until the first case is sampled, or the process ended for good."""
        self._settled.wait(timeout_s)

    def stop(self) -> bool:
        """End the process at once; it has nothing to save. Returns False in forked copies, which have none to end."""
        if os.getpid() != self._owner:
            return False
        with self._lock:
            self._stopping.set()
            if self._process is not None:
                self._process.kill()
        if self._thread.is_alive():
            self._thread.join()
        return True

    def take_notices(self) -> list[str]:
        """What happened since the last call and should be said, each reason once."""
        taken = list(self._notices)
        del self._notices[: len(taken)]
        return taken

    # --- the thread ------------------------------------------------------------------------------------------------

    def _supervise(self) -> None:
        goes_on = True
        while goes_on:
            try:
                exit_code = self._run()
            except OSError as e:  # the system could not start it
                self._failure, exit_code = (str(e), False), 1
            goes_on = not self._stopping.is_set() and self._goes_on(exit_code)

    def _run(self) -> int:
        """Start the process and hear it until it ends."""
        with self._lock, open(self._log_file, "ab") as log:
            if self._stopping.is_set():
                return 0
            process = self._process = subprocess.Popen(
                self._command,
                bufsize=0,
                env=os.environ | self._environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        with process:  # closes the pipes, then waits
            for line in _lines_of(process):
                with suppress(ValueError):  # cut by a kill
                    self._take(json.loads(line))
        return process.returncode

    def _take(self, report: dict[str, Any]) -> None:
        """Take note of one event."""
        event, progress = report["event"], self.progress
        if event == CASE:
            progress.made += report["accepted"]
            progress.rejected += not report["accepted"]
            progress.seconds += report["seconds"]
        elif event == PAUSED:
            progress.reason = report["reason"]
            self._say_once(f"the generator pauses: {report['reason']}")
        elif event == FAILED:
            self._failure = (report["reason"], report["final"])
        if event in (SAMPLED, RESUMED):
            progress.reason = ""
            self._settled.set()

    def _goes_on(self, exit_code: int) -> bool:
        """Why the process ended, and whether another one is started."""
        reason, is_final = self._failure or (_describe(exit_code), False)
        self._failure, self.progress.reason = None, reason
        if is_final or self.progress.restarts == MAX_RESTARTS:
            times = "" if is_final else f" after {MAX_RESTARTS} restarts"
            self._say_once(f"the generator ended for good{times}, training goes on with the cases there are: {reason}")
            self.is_over = True
            self._settled.set()
            return False
        self.progress.restarts += 1
        self._say_once(f"the generator ended and is started again (at most {MAX_RESTARTS} times): {reason}")
        return not self._stopping.wait(RESTART_DELAY_S)

    def _say_once(self, notice: str) -> None:
        if notice not in self._said:
            self._said.add(notice)
            self._notices.append(notice)


def _lines_of(process: subprocess.Popen[bytes]) -> Iterator[bytes]:
    """What a process prints until it ends.

    The end of its pipe does not tell: a background worker that was forked in the moment of the start holds the pipe open too.
    """
    assert process.stdout is not None
    os.set_blocking(process.stdout.fileno(), False)
    rest = b""
    while True:
        select.select([process.stdout], [], [], POLL_S)
        has_ended = process.poll() is not None  # asked first: what it has written is there to be read
        chunk = process.stdout.read(READ_BYTES)
        if chunk:
            *lines, rest = (rest + chunk).split(b"\n")
            yield from lines
        elif has_ended or chunk == b"":
            return


def _describe(exit_code: int) -> str:
    if exit_code >= 0:
        return f"it ended with exit code {exit_code}"
    name = signal.Signals(-exit_code).name
    return f"it was ended by {name}{', perhaps by the system for want of memory' if name == 'SIGKILL' else ''}"
