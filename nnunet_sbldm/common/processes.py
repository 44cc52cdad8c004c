"""Processes of this machine: whether one is there, the memory of one with its children, and ending them with us."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

import psutil

SAME_START_S = 5.0
"""Two starts that lie nearer together are one: the clock of the machine may have been set meanwhile."""
WAIT_POLL_S = 0.2


def is_running(pid: int, started: float | None = None) -> bool:
    """Whether a process of this machine runs.

    Args:
        pid: its number, which the system gives to another process later.
        started: what :func:`start_of` said of it; only that very process counts then.
    """
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        return started is None or abs(process.create_time() - started) < SAME_START_S
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:  # it is there, and another user's
        return True


def start_of(pid: int) -> float | None:
    """When a process of this machine began, in seconds since 1970; None if there is none or it is another user's."""
    try:
        return round(psutil.Process(pid).create_time(), 2)
    except psutil.Error:
        return None


def wait_until_over(pid: int) -> None:
    """Wait until a process of this machine has ended, whoever started it."""
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            time.sleep(WAIT_POLL_S)


def tree_memory_bytes(root: int) -> int:
    """Memory of a process and all its descendants together.

    On Linux a page that several processes share counts once (proportional set size, PSS); on macOS and Windows such pages do not
    count (unique set size, USS); where neither is known they count for each process (resident set size, RSS).
    """
    try:
        process = psutil.Process(root)
        return sum(_memory_bytes(p) for p in [process, *process.children(recursive=True)])
    except psutil.Error:
        return 0


def _memory_bytes(process: psutil.Process) -> int:
    try:
        memory = process.memory_full_info()
    except psutil.NoSuchProcess:  # it has ended meanwhile
        return 0
    except psutil.AccessDenied:
        return _resident_bytes(process)
    return int(getattr(memory, "pss", 0) or memory.uss)


def _resident_bytes(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0


def end_tree(process: subprocess.Popen[bytes]) -> None:
    """Kill a command that leads a session of its own, with all its descendants, and wait for it."""
    if hasattr(os, "killpg"):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    else:
        with suppress(psutil.Error):
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
        process.kill()
    process.wait()


@contextmanager
def ending_with_us(end: Callable[[], None]) -> Iterator[None]:
    """Call ``end`` when the body fails, or when this process is interrupted, terminated or left by its terminal."""
    previous = {number: signal.signal(number, _exit) for number in _heeded_signals()}
    try:
        yield
    except BaseException:
        end()
        raise
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _exit(*_: object) -> NoReturn:
    raise SystemExit(1)


def _heeded_signals() -> list[signal.Signals]:
    """Signals that end this process; nohup has it ignore one, and only the main thread hears any."""
    if threading.current_thread() is not threading.main_thread():
        return []
    known = [signal.Signals[name] for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    return [s for s in known if signal.getsignal(s) != signal.SIG_IGN]
