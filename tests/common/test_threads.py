import os

import pytest

from nnunet_sbldm.common import threads
from nnunet_sbldm.common.commands import run


@pytest.mark.parametrize(("text", "expected"), [("", 4), ("2", 2), ("9", 4), ("0", 4), ("4,2", 4), ("many", 4)])
def test_threads_are_the_usable_cores_or_fewer_where_asked(monkeypatch, text, expected):
    monkeypatch.setattr(threads, "usable_cores", lambda: 4)
    monkeypatch.setenv("OMP_NUM_THREADS", text)
    assert threads.usable_threads() == expected


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system binds no process to cores")
def test_a_process_bound_to_one_core_uses_one():
    cores = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(cores)})
        assert threads.usable_cores() == threads.usable_threads() == 1
    finally:
        os.sched_setaffinity(0, cores)


@pytest.mark.parametrize(("said", "expected"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_idle_threads_of_commands_sleep_unless_the_user_says_otherwise(monkeypatch, said, expected):
    monkeypatch.setenv("OMP_WAIT_POLICY", said or "")
    if said is None:
        monkeypatch.delenv("OMP_WAIT_POLICY")
    seen = []
    run(lambda: seen.append(os.environ["OMP_WAIT_POLICY"]))
    assert seen == [expected]
