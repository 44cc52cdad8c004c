"""The source of cases that are made while nnU-Net trains: made in a process of its own, read from a ring.

Which case has which number is decided by the seed; which case is drawn when depends on how fast cases are made. A pool
(``sbldm_expand_dataset --pool``) leaves nothing to time.
"""

from __future__ import annotations

import atexit
import math
import shutil
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from nnunet_sbldm.mixing.on_the_fly.ranks import num_ranks
from nnunet_sbldm.mixing.on_the_fly.ring import DrawCounter, RingReader, corrupt_cases
from nnunet_sbldm.mixing.on_the_fly.supervisor import GeneratorSupervisor, SupervisorProgress
from nnunet_sbldm.types import UserError

if TYPE_CHECKING:
    from nnunet_sbldm.mixing.fold import Log

SETTLING_TIMEOUT_S = 600.0
MAX_WAIT_OF_RANKS_S = 540.0
"""How long the first of several processes may wait in all: the others wait for it at a barrier, at most 600 s with NCCL."""
POLL_S = 0.2


@dataclass(frozen=True)
class FirstCases:
    """What is waited for before the first epoch; never during one.

    Attributes:
        number: cases that should be ready.
        wait_s: seconds to wait for them, at most.
        need_memory: sample one case in any case, so that missing memory ends the training at its start.
    """

    number: int
    wait_s: float = 0.0
    need_memory: bool = False


class OnTheFlySource:
    """A source of synthetic cases for :class:`nnunet_sbldm.mixing.dataset.MixedDataset`; its pickled copies only read."""

    def __init__(
        self,
        ring: Path,
        supervisor: GeneratorSupervisor | None,
        description: str,
        first: FirstCases,
        log: Log,
        held: IO[bytes] | None,
    ) -> None:
        """Read from ``ring``.

        Args:
            ring: its folder.
            supervisor: of the generator process; None on the ranks that only read.
            description: what it is, in a few words.
            first: what is waited for before the training starts.
            log: where to say what was done.
            held: keeps other trainings from deleting the ring until it is closed; None on the ranks that only read.
        """
        self._ring, self._supervisor, self._description = ring, supervisor, description
        self._first, self._log = first, log
        self._reader, self._draws = RingReader(ring), DrawCounter(ring)
        self._reported: dict[str, float] = {}
        self._was_ready = False
        self._held = held

    def __reduce__(self) -> tuple[type[RingReader], tuple[Path]]:
        """Background workers that are not forked get the reader alone."""
        return RingReader, (self._ring,)

    def __str__(self) -> str:
        return self._description

    @property
    def identifiers(self) -> tuple[str, ...]:
        """Ids of the cases that are ready now; possibly none."""
        return self._reader.identifiers

    def load_case(self, identifier: str) -> tuple[Any, Any, Any, dict[str, Any]]:
        """Load a case; raises FileNotFoundError if it has left the ring since it was drawn, or is corrupt."""
        return self._reader.load_case(identifier)

    def start(self) -> None:
        """Start the generator process; on a GPU, wait until it has sampled a case, for the training to see what memory is left.

        Where the settings ask for it (``wait_s``), also wait for the first cases.

        Raises:
            UserError: the generator cannot sample on its GPU, or ends for good while it is waited for.
        """
        if self._supervisor is None or self._supervisor.has_started:
            return
        atexit.register(self.stop)
        self._log("sbldm: the generator process starts; while no case is ready, training draws real cases alone")
        self._supervisor.start()
        latest = time.monotonic() + (MAX_WAIT_OF_RANKS_S if num_ranks() > 1 else math.inf)
        if self._first.need_memory:
            self._supervisor.wait_until_settled(min(SETTLING_TIMEOUT_S, latest - time.monotonic()))
            self._refuse_ended()
        if self._first.wait_s:
            self._await_first_cases(latest)

    def _await_first_cases(self, latest: float) -> None:
        """Wait until enough cases are ready, for so long as the settings allow and not after the time ``latest``."""
        begin = time.monotonic()
        latest = min(latest, begin + self._first.wait_s)
        while len(self.identifiers) < self._first.number and time.monotonic() < latest:
            self._refuse_ended()
            time.sleep(POLL_S)
        self._log(f"sbldm: waited {time.monotonic() - begin:.1f} s for the first cases: {len(self.identifiers)} of "
                  f"{self._first.number} are ready")

    def _refuse_ended(self) -> None:
        if self._supervisor is not None and self._supervisor.is_over:
            self.stop()
            raise UserError(f"No synthetic case can be made: {self._supervisor.progress.reason}")

    def stop(self) -> None:
        """End the generator process and delete the ring."""
        if self._supervisor is not None and self._supervisor.stop():
            atexit.unregister(self.stop)
            if self._held is not None:
                self._held.close()
            shutil.rmtree(self._ring, ignore_errors=True)
            with suppress(OSError):  # another training has its ring there
                self._ring.parent.rmdir()

    def epoch_report(self) -> dict[str, Any]:
        """What happened since the last report.

        Returns:
            ``made``: cases published; ``rejected``: cases the quality gate gave up; ``drawn``: loads by all workers;
            ``reused``: those of a case that was drawn before; ``corrupt``: cases with wrong checksums, not used;
            ``ms_per_case``: time per case made or rejected, None without any; ``ready``: cases to draw from now;
            ``restarts``: of the process, in all; ``reason``: why no cases are made, empty if they are.
            Empty on ranks that only read.
        """
        if self._supervisor is None:
            return {}
        self._say_what_happened()
        progress = self._supervisor.progress
        new = self._since_last_report(progress)
        decided = new["made"] + new["rejected"]
        seconds = new.pop("seconds")
        return {
            **{name: int(value) for name, value in new.items()},
            "ms_per_case": round(1000 * seconds / decided) if decided else None,
            "ready": len(self.identifiers),
            "restarts": progress.restarts,
            "reason": progress.reason,
        }

    def _since_last_report(self, progress: SupervisorProgress) -> dict[str, float]:
        self._draws.refresh()
        counts = self._draws.counts
        totals = {name: value for name, value in asdict(progress).items() if name in ("made", "rejected", "seconds")}
        totals |= {"drawn": counts.total(), "reused": counts.total() - len(counts), "corrupt": len(corrupt_cases(self._ring))}
        new = {name: value - self._reported.get(name, 0) for name, value in totals.items()}
        self._reported = totals
        return new

    def _say_what_happened(self) -> None:
        assert self._supervisor is not None
        for notice in self._supervisor.take_notices():
            self._log(f"sbldm: {notice}")
        if self.identifiers and not self._was_ready:
            self._log("sbldm: synthetic cases are ready and drawn from now on")
            self._was_ready = True
