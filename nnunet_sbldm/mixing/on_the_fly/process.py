"""The process beside the trainer that makes synthetic cases and publishes them into a ring, for as long as the trainer lives.

The trainer starts ``python -m nnunet_sbldm.mixing.on_the_fly.process JOB.json``. What happens is reported as one line of JSON
each on standard output; everything that libraries print goes to standard error. Which case has which number is decided by
the seed alone, so an ended process is continued by another one.
"""

from __future__ import annotations

import ctypes
import errno
import itertools
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path

from nnunet_sbldm.common.processes import wait_until_over
from nnunet_sbldm.generator.records import add_to_trace, next_number
from nnunet_sbldm.mixing.on_the_fly.job import GeneratorJob
from nnunet_sbldm.types import UnfitGeneratorError, UserError

NICENESS = 10
POLL_S = 0.2
PAUSE_S = 10.0
"""Between two attempts to write to a full disk."""
FULL_DISK = (errno.ENOSPC, errno.EDQUOT)
SAMPLED, CASE, PAUSED, RESUMED, FAILED = "sampled", "case", "paused", "resumed", "failed"
"""Events that are reported."""


def main() -> int:
    """Work off the job named on the command line; returns on failure alone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in the terminal is the trainer's; the generator ends with it
    job = GeneratorJob.load(Path(sys.argv[1]))
    end_with(job.trainer_pid)
    if hasattr(os, "nice"):
        os.nice(NICENESS)
    report = LineReporter()
    try:
        _generate(job, report)
    except Exception as e:  # the trainer says why, whatever it is
        traceback.print_exc()
        reason, is_final = _reason(e, job, report.has_sampled)
        report(FAILED, reason=reason, final=is_final)
    return 1


def end_with(trainer_pid: int) -> None:
    """End this process when the trainer ends, even if that is killed: on Linux the kernel does so, elsewhere a thread watches."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    threading.Thread(target=_end_after, args=(trainer_pid,), daemon=True).start()


def _end_after(trainer_pid: int) -> None:
    wait_until_over(trainer_pid)
    os._exit(0)


class LineReporter:
    """Tells the trainer of events on standard output, and sends what libraries print there to standard error.

    Attributes:
        has_sampled: whether a case was sampled, so that there is memory enough.
    """

    def __init__(self) -> None:
        self._channel, self.has_sampled = os.dup(1), False
        os.dup2(2, 1)

    def __call__(self, event: str, **details: object) -> None:
        """LineReporter one event."""
        self.has_sampled |= event == SAMPLED
        os.write(self._channel, f"{json.dumps({'event': event, **details})}\n".encode())


def _reason(error: Exception, job: GeneratorJob, has_sampled: bool) -> tuple[str, bool]:
    """What ended the process, and whether it would end another one as well."""
    if isinstance(error, (UserError, UnfitGeneratorError)):
        return str(error), True
    if not _is_out_of_memory(error):
        return f"{type(error).__name__}: {' '.join(str(error).split())}", False
    if has_sampled:
        return f"out of memory on {job.device}", False
    return (f"The SBLDM in {job.model} needs more memory for one case than there is for it on {job.device} (of a GPU, it takes a "
            "quarter at most): set sbldm_device to another device (sbldm_configure), or fill a pool beforehand "
            "(sbldm_expand_dataset --pool).", True)


def _is_out_of_memory(error: Exception) -> bool:
    import torch

    return isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)) or "can't allocate memory" in str(error)


def _generate(job: GeneratorJob, report: LineReporter) -> None:
    """Fill the ring, then replace what was drawn often enough; without end."""
    from nnunet_sbldm.mixing.on_the_fly.online_sampler import OnlineSampler
    from nnunet_sbldm.mixing.on_the_fly.ring import RingWriter

    ring, trace = RingWriter(Path(job.ring), job.pool_size, job.max_reuse), Path(job.trace)
    maker, rest_until = OnlineSampler(job), 0.0
    for number in itertools.count(next_number(trace)):
        while not ring.wants_case() or time.monotonic() < rest_until:
            time.sleep(POLL_S)
        start = time.monotonic()
        case, record = maker.make(number)
        if not report.has_sampled:
            report(SAMPLED)
        if case is not None:
            _persist(partial(add_to_trace, trace, number, record), report)
            _persist(partial(ring.publish, case.case_id, maker.writer(case, record)), report)
        seconds = time.monotonic() - start
        report(CASE, accepted=case is not None, seconds=seconds)
        maker.refuse_unfit()
        rest_until = time.monotonic() + (seconds * (1 / job.busy_share - 1) if ring.is_full else 0)


def _persist(write: Callable[[], object], report: LineReporter) -> None:
    """Write, and again as long as the disk is full."""
    was_full = False
    while True:
        try:
            write()
            break
        except OSError as e:
            if e.errno not in FULL_DISK:
                raise
            if not was_full:
                report(PAUSED, reason=f"the disk is full ({os.strerror(e.errno)}); it tries again every {PAUSE_S:g} s")
            was_full = True
            time.sleep(PAUSE_S)
    if was_full:
        report(RESUMED)


if __name__ == "__main__":
    sys.exit(main())
