"""How many threads a process may sensibly compute with on a CPU."""

from __future__ import annotations

import os

OMP_THREADS = "OMP_NUM_THREADS"


def wait_passively() -> None:
    """Let idle OpenMP threads of this process and its children sleep, unless the user says otherwise.

    By default they wait in a loop; where others use the cores too, that made sampling three times slower. To be called before
    torch is imported.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def usable_cores() -> int:
    """Cores that this process may run on: fewer than the machine has under taskset, in a container or in a cluster's job."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def usable_threads() -> int:
    """Threads that this process may compute with: its cores, or fewer where ``OMP_NUM_THREADS`` says so."""
    text = os.environ.get(OMP_THREADS, "")
    return min(usable_cores(), int(text)) if text.isdigit() and int(text) > 0 else usable_cores()
