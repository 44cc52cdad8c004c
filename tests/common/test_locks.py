"""Locks that end with their process, tried between real processes."""

import os
import signal
import subprocess
import sys
import time

import pytest

from nnunet_sbldm.common import locks
from nnunet_sbldm.common.locks import MEMBERS, hold, is_held, try_lock, try_shared_lock, try_sole_lock

posix = pytest.mark.skipif(not hasattr(os, "fork"), reason="the system does not fork")

LOCKING = """
import sys, time
from pathlib import Path
from nnunet_sbldm.common import locks
lock = getattr(locks, sys.argv[1])(Path(sys.argv[2]))
print("none" if lock is None else "held", flush=True)
{then}
"""


def other_process(function, path, then="time.sleep(60)"):
    """A process that takes a lock, and what it got."""
    command = [sys.executable, "-c", LOCKING.format(then=then), function, str(path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    return process, process.stdout.readline().strip()


def end(process):
    process.kill()
    process.communicate()


@pytest.mark.parametrize("how", ["kill", "exit"])
def test_a_lock_ends_with_its_process_however_that_ends(tmp_path, how):
    process, got = other_process("try_lock", tmp_path / "a.lock", "time.sleep(60)" if how == "kill" else "sys.stdin.readline()")
    assert got == "held"
    assert try_lock(tmp_path / "a.lock") is None
    process.send_signal(signal.SIGTERM)
    process.communicate()
    try_lock(tmp_path / "a.lock").close()


def test_a_lock_is_given_back_by_closing_it(tmp_path):
    with try_lock(tmp_path / "new" / "a.lock"):
        process, got = other_process("try_lock", tmp_path / "new" / "a.lock")
        assert got == "none"
        end(process)
    process, got = other_process("try_lock", tmp_path / "new" / "a.lock")
    assert got == "held"
    end(process)


@posix
def test_a_forked_child_holds_no_lock(tmp_path):
    lock = try_lock(tmp_path / "a.lock")
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    try:
        assert try_lock(tmp_path / "a.lock") is None
        lock.close()
        deadline = time.monotonic() + 20
        while (again := try_lock(tmp_path / "a.lock")) is None:  # the child closes its copy a moment after it begins
            assert time.monotonic() < deadline
            time.sleep(0.01)
        again.close()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_a_folder_is_held_by_a_living_process_alone(tmp_path):
    assert not is_held(tmp_path)
    assert not (tmp_path / locks.LOCK_NAME).exists(), "looking leaves nothing behind"
    process, _ = other_process("hold", tmp_path)
    assert is_held(tmp_path)
    end(process)
    assert not is_held(tmp_path)
    with hold(tmp_path):
        assert is_held(tmp_path)
    assert not is_held(tmp_path)


def test_many_share_a_folder_or_one_has_it_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "GATE_PATIENCE_S", 0.2)
    process, got = other_process("try_shared_lock", tmp_path)
    assert got == "held"
    with try_shared_lock(tmp_path):
        assert try_sole_lock(tmp_path) is None
    assert try_sole_lock(tmp_path) is None, "the other one shares it still"
    end(process)
    with try_sole_lock(tmp_path):
        assert not list(tmp_path.glob(MEMBERS)), "what ended processes left is removed"
        assert try_sole_lock(tmp_path) is None
        assert try_shared_lock(tmp_path) is None
    try_shared_lock(tmp_path).close()


def test_those_who_come_to_share_at_the_same_moment_all_get_in(tmp_path):
    processes = [other_process("try_shared_lock", tmp_path) for _ in range(4)]
    assert [got for _, got in processes] == ["held"] * 4
    for process, _ in processes:
        end(process)


def test_where_a_file_system_has_no_locks_everyone_gets_one(tmp_path, monkeypatch):
    def no_locks(*_, **__):
        raise OSError("Function not implemented")

    monkeypatch.setattr(locks, "lock_descriptor", no_locks)
    with try_lock(tmp_path / "a.lock"), try_lock(tmp_path / "a.lock"):
        pass
    with try_shared_lock(tmp_path), try_sole_lock(tmp_path), hold(tmp_path):
        assert not is_held(tmp_path)
