"""Opens the source of cases that are made while nnU-Net trains: checks, the folder of the ring, and what the process is told."""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO, TYPE_CHECKING

import torch

from nnunet_sbldm.common.files import make_temporary_folder, remove_leftovers
from nnunet_sbldm.common.locks import hold
from nnunet_sbldm.data.dataset import preprocessing_hash
from nnunet_sbldm.expansion.places import FOLDER
from nnunet_sbldm.generator.card import licence_note
from nnunet_sbldm.generator.records import TRACE_NAME
from nnunet_sbldm.mixing.on_the_fly.choice import Choice, choose, dataset_of_fold, is_of_dataset
from nnunet_sbldm.mixing.on_the_fly.job import GeneratorJob
from nnunet_sbldm.mixing.on_the_fly.ranks import share_ring
from nnunet_sbldm.mixing.on_the_fly.ring import make_ring
from nnunet_sbldm.mixing.on_the_fly.source import FirstCases, OnTheFlySource
from nnunet_sbldm.mixing.on_the_fly.supervisor import GeneratorSupervisor
from nnunet_sbldm.types import UserError

if TYPE_CHECKING:
    from nnunet_sbldm.mixing.fold import TrainingRun
    from nnunet_sbldm.mixing.settings import MixingSettings

POOL_SIZE = 32
MAX_REUSE = 4
REPLACING_SHARE = 0.02
"""Largest share of the time in which cases are replaced on the device that trains; another device works all the time."""
SEED = 0
"""Of the sequence of cases."""
RINGS = "on_the_fly"
LOG_NAME = "sbldm_generator.log"


def open_on_the_fly(run: TrainingRun, settings: MixingSettings, use_gate: bool = True) -> OnTheFlySource:
    """Check all that making cases during a training needs, and prepare it; called on every rank.

    Args:
        run: the training.
        settings: its settings.
        use_gate: judge every case; without it every case is accepted.

    Raises:
        UserError: what :func:`nnunet_sbldm.mixing.on_the_fly.choice.choose` refuses; no place for the ring.
    """
    choice = choose(run, settings)
    own, held = _new_ring(run) if run.local_rank == 0 else (None, None)
    ring = share_ring(own)
    supervisor = _supervisor_of(_job_of(run, settings, choice, ring, use_gate), run) if run.local_rank == 0 else None
    first = FirstCases(settings.pool_size or POOL_SIZE, settings.wait_s or 0.0, choice.device.type == "cuda")
    maker = "; ".join(filter(None, (str(choice.model.folder), licence_note(choice.model.folder))))
    return OnTheFlySource(ring, supervisor, f"cases made on the fly on {choice.device} by {maker}", first, run.log, held)


def _supervisor_of(job: GeneratorJob, run: TrainingRun) -> GeneratorSupervisor:
    """Supervises the process for a job; a training that begins anew forgets what an earlier one drew."""
    if run.first_epoch == 0:
        Path(job.trace).unlink(missing_ok=True)
    job_file = Path(job.ring) / "job.json"
    job.save(job_file)
    return GeneratorSupervisor(job_file, run.output_folder / LOG_NAME, job.num_threads)


def _job_of(run: TrainingRun, settings: MixingSettings, choice: Choice, ring: Path, use_gate: bool) -> GeneratorJob:
    dataset, fold = dataset_of_fold(run.fold), run.fold
    fields = ("name", "dataset_json", "plans_name", "configuration")
    folders = {"raw": str(dataset.raw), "preprocessed": str(dataset.preprocessed)}
    return GeneratorJob(
        ring=str(ring),
        trace=str(run.output_folder / TRACE_NAME),
        trainer_pid=os.getpid(),
        model=str(choice.model.folder),
        generator_hash=choice.model.hash,
        compare=is_of_dataset(choice.model, fold),
        hosts=choice.hosts,
        dataset={**{name: getattr(dataset, name) for name in fields}, **folders},
        plans_hash=preprocessing_hash(fold.plans, fold.config),
        fold=fold.fold,
        device=str(choice.device),
        pool_size=settings.pool_size or POOL_SIZE,
        max_reuse=settings.max_reuse or MAX_REUSE,
        busy_share=REPLACING_SHARE if _is_same(choice.device, run.device) else 1.0,
        use_gate=use_gate,
        seed=SEED,
        num_threads=choice.num_threads,
    )


def _is_same(device: torch.device, other: torch.device) -> bool:
    return (device.type, device.index or 0) == (other.type, other.index or 0)


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
