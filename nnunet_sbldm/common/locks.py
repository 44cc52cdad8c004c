"""Locks on files and folders: each ends with its process, however that ends, and no forked child holds it.

Where a file system has no locks, everyone gets one.
"""

from __future__ import annotations

import os
import secrets
import socket
import time
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import IO
from weakref import WeakSet

from filelock import lock_descriptor

LOCK_NAME = "in_use.lock"
GATE, MEMBERS = "gate.lock", "member_*.lock"
GATE_PATIENCE_S, GATE_POLL_S = 5.0, 0.05
"""The gate of a shared folder is held for milliseconds, but by whoever has the folder alone."""

_held: WeakSet[IO[bytes]] = WeakSet()


def try_lock(path: Path) -> IO[bytes] | None:
    """Lock a file for this process alone, for as long as what is returned is open; None if another has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return _locked(open(path, "a+b"))  # noqa: SIM115 (closing it gives the lock back)


def _locked(file: IO[bytes]) -> IO[bytes] | None:
    try:
        is_ours = lock_descriptor(file.fileno(), blocking=False)
    except OSError:  # the file system has no locks
        is_ours = True
    if not is_ours:
        file.close()
        return None
    _held.add(file)
    _let_go_in_forks()
    return file


@cache
def _let_go_in_forks() -> None:
    """Have forked children close the locks that they inherit; without forks, as on Windows, none does."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_close_all)


def _close_all() -> None:
    for file in list(_held):
        file.close()


# --- temporary folders ---------------------------------------------------------------------------------------------


def hold(folder: Path) -> IO[bytes] | None:
    """Keep others from deleting a temporary folder, for as long as what is returned is open."""
    return try_lock(folder / LOCK_NAME)


def is_held(folder: Path) -> bool:
    """Whether some process holds a temporary folder, see :func:`hold`."""
    return _is_locked(folder / LOCK_NAME)


def _is_locked(path: Path) -> bool:
    try:
        lock = _locked(open(path, "r+b"))  # noqa: SIM115 (closed below)
    except OSError:  # there is none
        return False
    if lock is not None:
        lock.close()
    return lock is None


# --- folders that many share or one has alone ----------------------------------------------------------------------


def try_shared_lock(folder: Path) -> IO[bytes] | None:
    """Lock a folder together with all others that share it; None if one has it alone.

    Every member has a lock file of its own, which is made behind a gate: a lock that several hold is not to be had everywhere.
    """
    gate = _pass_gate(folder)
    if gate is None:
        return None
    with gate:
        return try_lock(folder / MEMBERS.replace("*", f"{socket.gethostname()}.{os.getpid()}.{secrets.token_hex(4)}"))


def try_sole_lock(folder: Path) -> IO[bytes] | None:
    """Lock a folder alone, which keeps others from sharing it; None if some do."""
    gate = _pass_gate(folder)
    if gate is None:
        return None
    for member in folder.glob(MEMBERS):
        if _is_locked(member):
            gate.close()
            return None
        with suppress(OSError):  # left by a process that is gone; whose file it may be, it is no longer locked
            member.unlink()
    return gate


def _pass_gate(folder: Path) -> IO[bytes] | None:
    latest = time.monotonic() + GATE_PATIENCE_S
    while (gate := try_lock(folder / GATE)) is None and time.monotonic() < latest:
        time.sleep(GATE_POLL_S)
    return gate
