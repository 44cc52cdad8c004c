"""Synthetic cases that are made while nnU-Net trains: checked here, made in a process of its own, read from a ring.

Which case has which number is decided by the seed; which case is drawn when depends on how fast cases are made. A pool
(``sbldm_expand_dataset --pool``) leaves nothing to time.
"""

from __future__ import annotations

import atexit
import math
import os
import shutil
import socket
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import torch
from torch import distributed

from nnunet_sbldm.common.files import make_temporary_folder, remove_leftovers
from nnunet_sbldm.common.locks import hold
from nnunet_sbldm.data.dataset import preprocessing_hash
from nnunet_sbldm.expansion.places import FOLDER
from nnunet_sbldm.generator.card import licence_note
from nnunet_sbldm.generator.checkpoint import Generator
from nnunet_sbldm.generator.records import TRACE_NAME
from nnunet_sbldm.mixing.on_the_fly.choice import choose_generator, choose_hosts, dataset_of, is_of_dataset
from nnunet_sbldm.mixing.on_the_fly.job import GeneratorJob
from nnunet_sbldm.mixing.on_the_fly.ring import DrawCounter, RingReader, corrupt_cases, make_ring
from nnunet_sbldm.mixing.on_the_fly.supervisor import GeneratorSupervisor, Progress
from nnunet_sbldm.types import UserError

if TYPE_CHECKING:
    from nnunet_sbldm.mixing.fold import Log, TrainingRun
    from nnunet_sbldm.mixing.settings import MixingSettings

POOL_SIZE = 32
MAX_REUSE = 4
REPLACING_SHARE = 0.02
"""Largest share of the time in which cases are replaced on the device that trains; another device works all the time."""
SETTLING_TIMEOUT_S = 600.0
MAX_WAIT_OF_RANKS_S = 540.0
"""How long the first of several processes may wait in all: the others wait for it at a barrier, at most 600 s with NCCL."""
POLL_S = 0.2
RINGS = "on_the_fly"
LOG_NAME = "sbldm_generator.log"
THREADS_VARIABLE = "SBLDM_GENERATOR_THREADS"


def open_on_the_fly(run: TrainingRun, settings: MixingSettings, use_gate: bool = True, seed: int = 0) -> OnTheFly:
    """Check all that making cases during a training needs, and prepare it; called on every rank.

    Args:
        run: the training.
        settings: its settings.
        use_gate: judge every case; without it every case is accepted.
        seed: seed of the sequence of cases.

    Raises:
        UserError: what ``choose_generator`` and ``choose_hosts`` refuse; no place for the ring; no such device.
    """
    generator = choose_generator(run, settings.model)
    hosts = choose_hosts(run, generator) if settings.mode == "edit" else []
    device = torch.device(settings.sbldm_device or run.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"There is no GPU for the SBLDM ({device}): set sbldm_device to cpu (sbldm_configure).")
    own, held = _new_ring(run) if run.local_rank == 0 else (None, None)
    ring = _share(own)
    supervisor = None
    if run.local_rank == 0:
        if run.first_epoch == 0:
            (run.output_folder / TRACE_NAME).unlink(missing_ok=True)
        job = _job_of(run, settings, generator, hosts, device, ring, use_gate, seed)
        job.save(ring / "job.json")
        supervisor = GeneratorSupervisor(ring / "job.json", run.output_folder / LOG_NAME, job.num_threads)
    first = FirstCases(settings.pool_size or POOL_SIZE, settings.wait_s or 0.0, device.type == "cuda")
    maker = "; ".join(filter(None, (str(generator.folder), licence_note(generator.folder))))
    return OnTheFly(ring, supervisor, f"cases made on the fly on {device} by {maker}", first, run.log, held)


def _job_of(
    run: TrainingRun,
    settings: MixingSettings,
    generator: Generator,
    hosts: list[str],
    device: torch.device,
    ring: Path,
    use_gate: bool,
    seed: int,
) -> GeneratorJob:
    dataset, fold = dataset_of(run.fold), run.fold
    fields = ("name", "dataset_json", "plans_name", "configuration")
    folders = {"raw": str(dataset.raw), "preprocessed": str(dataset.preprocessed)}
    return GeneratorJob(
        ring=str(ring),
        trace=str(run.output_folder / TRACE_NAME),
        trainer_pid=os.getpid(),
        model=str(generator.folder),
        generator_hash=generator.hash,
        compare=is_of_dataset(generator, fold),
        hosts=hosts,
        dataset={**{name: getattr(dataset, name) for name in fields}, **folders},
        plans_hash=preprocessing_hash(fold.plans, fold.config),
        fold=fold.fold,
        device=str(device),
        pool_size=settings.pool_size or POOL_SIZE,
        max_reuse=settings.max_reuse or MAX_REUSE,
        busy_share=REPLACING_SHARE if _is_same(device, run.device) else 1.0,
        use_gate=use_gate,
        seed=seed,
        num_threads=_num_threads(),
    )


def _is_same(device: torch.device, other: torch.device) -> bool:
    return (device.type, device.index or 0) == (other.type, other.index or 0)


def _num_threads() -> int:
    text = os.environ.get(THREADS_VARIABLE, "1")
    if not text.isdigit() or int(text) < 1:
        raise UserError(f"{THREADS_VARIABLE} is a number of threads from 1; got {text!r}.")
    return int(text)


# --- the ring's folder ---------------------------------------------------------------------------------------------


def _new_ring(run: TrainingRun) -> tuple[Path, IO[bytes] | None]:
    """A ring beside the preprocessed data, and what holds it; those of trainings that were killed are deleted."""
    home = run.fold.preprocessed / FOLDER / RINGS
    try:
        run.output_folder.mkdir(parents=True, exist_ok=True)
        home.mkdir(parents=True, exist_ok=True)
        remove_leftovers(home)
        ring = make_temporary_folder(home)
        held = hold(ring)
        make_ring(ring)
    except OSError as e:
        raise UserError(f"Synthetic cases cannot be written to {home}: {e.strerror}.") from e
    return ring, held


def _share(ring: Path | None) -> Path:
    """Tell the other ranks on this machine which ring its first rank has made."""
    rings: list[Any] = [(socket.gethostname(), ring)]
    if _num_ranks() > 1:
        rings = [None] * _num_ranks()
        distributed.all_gather_object(rings, (socket.gethostname(), ring))
    return next(r for host, r in rings if r is not None and host == socket.gethostname())


def _num_ranks() -> int:
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


# --- the source ----------------------------------------------------------------------------------------------------


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


class OnTheFly:
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
        latest = time.monotonic() + (MAX_WAIT_OF_RANKS_S if _num_ranks() > 1 else math.inf)
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

    def _since_last_report(self, progress: Progress) -> dict[str, float]:
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
