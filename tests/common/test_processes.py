"""Processes, tried with real ones."""

import os
import signal
import subprocess
import sys
import threading

import psutil
import pytest

from nnunet_sbldm.common.processes import (
    end_tree,
    ending_with_us,
    is_running,
    start_of,
    tree_memory_bytes,
    wait_until_over,
)

SLEEP = "import time; time.sleep(60)"
PARENT = f"import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', {SLEEP!r}]); print(p.pid, flush=True); p.wait()"


def start(program):
    return subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, start_new_session=True)


def test_a_process_is_known_by_its_number_and_its_start():
    ours = start_of(os.getpid())
    assert abs(ours - psutil.Process().create_time()) < 0.1
    assert is_running(os.getpid())
    assert is_running(os.getpid(), ours)
    assert not is_running(os.getpid(), ours - 3600), "the number was given to another process"
    assert not is_running(os.getpid(), 123456), "ticks since the machine began, as older versions noted"


def test_an_ended_process_does_not_run_even_before_it_is_waited_for():
    process = start("pass")
    process.stdout.read()
    wait_until_over(process.pid)
    assert not is_running(process.pid)
    process.communicate()
    assert not is_running(process.pid)
    assert start_of(process.pid) is None
    assert tree_memory_bytes(process.pid) == 0
    wait_until_over(process.pid)


def test_a_command_is_ended_with_its_children():
    process = start(PARENT)
    child = int(process.stdout.readline())
    assert is_running(child)
    end_tree(process)
    process.stdout.close()
    wait_until_over(child)
    assert not is_running(child)
    end_tree(process)  # again: there is nothing left to end


def test_without_process_groups_children_are_ended_too(monkeypatch):
    monkeypatch.delattr(os, "killpg")
    test_a_command_is_ended_with_its_children()


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_what_runs_is_ended_when_the_body_fails(error):
    ended, before = [], signal.getsignal(signal.SIGTERM)
    with pytest.raises(error), ending_with_us(lambda: ended.append(True)):
        raise error
    assert ended == [True]
    with ending_with_us(lambda: ended.append(True)):
        assert signal.getsignal(signal.SIGTERM) != before
    assert ended == [True]
    assert signal.getsignal(signal.SIGTERM) == before


def test_memory_grows_with_what_a_child_takes():
    block = "b = bytearray(100 * 2**20); b[::4096] = bytes([1]) * len(b[::4096]); print('full', flush=True); "
    process = start(f"import subprocess, sys; subprocess.run([sys.executable, '-c', {(block + SLEEP)!r}])")
    process.stdout.readline()
    assert 100 * 2**20 < tree_memory_bytes(process.pid) < 200 * 2**20
    end_tree(process)
    process.stdout.close()


def test_in_a_thread_no_signal_is_heeded_and_failures_still_end_what_runs():
    ended = []

    def work():
        with pytest.raises(ValueError, match="here"), ending_with_us(lambda: ended.append(True)):
            raise ValueError("here")
        ended.append("passed")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert ended == [True, "passed"]
