"""Who holds what: locks that end with their process, and whether a process is still there."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import IO

LOCK_NAME = "in_use.lock"


def hold(folder: Path) -> IO[bytes] | None:
    """Keep a temporary folder from :func:`remove_leftovers` of every process, for as long as the file returned is open.

    Processes that are forked from this one do not hold it.
    """
    file = try_lock(folder / LOCK_NAME)
    if file is not None:
        os.register_at_fork(after_in_child=file.close)
    return file


def is_held(folder: Path) -> bool:
    """Whether some process holds a temporary folder, see :func:`hold`."""
    try:
        with open(folder / LOCK_NAME, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # nobody holds it, or the file system has no locks
        pass
    return False


def is_running(pid: int, started: int | None = None) -> bool:
    """Whether a process of this machine is there; with ``started`` of :func:`start_of`, that very one and no later one."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return started is None or start_of(pid) in (None, started)


def start_of(pid: int) -> int | None:
    """When a process of this machine began, in clock ticks since the machine did; None where it cannot be said."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return int(stat.rpartition(")")[2].split()[19])


def try_lock(path: Path, shared: bool = False) -> IO[bytes] | None:
    """Lock a file for as long as it is open, for this process alone or for all that share it; None if another is in the way.

    The lock ends with the process, however that ends. Where a file system has no locks, everyone gets one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = open(path, "a+b")  # noqa: SIM115 (closing it gives the lock back); network file systems share what can be read
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    except OSError:
        pass
    return file
