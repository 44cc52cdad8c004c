"""Before the first synthetic case: a job for every fold, with all checks (fold rule, channels, labels, ids, disk)."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from nnunet_sbldm.data.cases import PREPROCESSED_ENDINGS
from nnunet_sbldm.data.dataset import NnunetDataset
from nnunet_sbldm.data.fingerprints import fingerprints_of
from nnunet_sbldm.data.folds import refuse_leaks
from nnunet_sbldm.data.formats import refuse_unwritable
from nnunet_sbldm.data.groups import with_remembered_groups
from nnunet_sbldm.data.paths import Fold, nnunet_folder
from nnunet_sbldm.data.splits import fold_cases
from nnunet_sbldm.editing.choices import EditSettings
from nnunet_sbldm.editing.hosts import allowed_hosts
from nnunet_sbldm.editing.planner import refuse_other_axes
from nnunet_sbldm.expansion.destinations import Destination
from nnunet_sbldm.expansion.ledger import ExpansionJob, ProductionSettings, is_decided
from nnunet_sbldm.generator.checkpoint import (
    SBLDMModel,
    generator_folder,
    has_its_plans,
    load_model,
    refuse_mismatch,
    training_command,
)
from nnunet_sbldm.generator.requests import ExpansionRequest, Request, plan_requests
from nnunet_sbldm.generator.zoo import find_model, finished_models, places_of
from nnunet_sbldm.types import UserError

SAFETY_BYTES = 200 * 2**20


def plan_jobs(
    dataset: NnunetDataset,
    folds: Sequence[Fold],
    wanted: ExpansionRequest,
    model: str | Path | None = None,
    preset: str | None = None,
    editing: EditSettings | None = None,
) -> list[ExpansionJob]:
    """Decide what to make for every fold, and refuse what must not be made.

    Args:
        dataset: the real dataset.
        folds: folds to serve.
        wanted: how many cases of which kind.
        model: folder or name of one generator for all folds; without it each fold's own is taken.
        preset: preset of the folds' own generators; None takes the only finished one of each.
        editing: edit hosts instead of making whole cases; its hosts, where it names any, are the only ones.

    Raises:
        UserError: no generator for a fold, or several; a leak, other channels or labels, no cases asked for, unwritable format.
    """
    refuse_unwritable(dataset.name, dataset.dataset_json["file_ending"], dataset.reader)
    if len(set(folds)) != len(folds):
        raise UserError(f"-f names a fold twice: {' '.join(map(str, folds))}.")
    jobs = []
    for fold in folds:
        train, val = fold_cases(dataset, fold)
        loaded = load_model(_generator_of(dataset, fold, model, preset))
        refuse_mismatch(loaded, dataset)
        if not editing and loaded.plan.dataset_name == dataset.name and not has_its_plans(loaded, dataset):
            raise UserError(
                f"The SBLDM in {loaded.folder} was trained on {dataset.name} as it was preprocessed at that time; its plans "
                f"{loaded.plan.plans_name} have changed since: move that folder away and train it again."
            )
        loaded = replace(loaded, seen=with_remembered_groups(loaded.seen, dataset))
        requests = tuple(plan_requests(loaded.plan, fold, len(train), wanted, set(dataset.real_case_ids)))
        job = edit_job(dataset, fold, loaded, requests, editing) if editing else ExpansionJob(fold, loaded, requests)
        refuse_leaks(job.model.seen, fingerprints_of(dataset, val).values(), fold)
        jobs.append(job)
    return jobs


def _generator_of(dataset: NnunetDataset, fold: Fold, model: str | Path | None, preset: str | None) -> Path:
    home = nnunet_folder("nnUNet_results") / dataset.name
    if model is not None:
        return find_model(model, fold, places_of(home, dataset.plans_name, model))
    named = generator_folder(dataset, preset, fold) if preset else None
    found = [f for f in finished_models(home, dataset.plans_name, fold) if named in (None, f)]
    if len(found) > 1:
        names = ", ".join(f.parent.name.rpartition("__")[2] for f in found)
        raise UserError(f"Fold {fold} of {dataset.name} has {len(found)} finished SBLDMs ({names}): name one with -m.")
    if not found:
        training = training_command(dataset.name, dataset.plans_name, fold, preset)
        raise UserError(f"There is no SBLDM for fold {fold} in {named or home}: run {training}, or name another one with -m.")
    return found[0]


def edit_job(
    dataset: NnunetDataset, fold: Fold, model: SBLDMModel, requests: tuple[Request, ...], editing: EditSettings
) -> ExpansionJob:
    """A job that edits hosts of the fold; the fold rule counts its hosts as seen, whoever trained the generator.

    Raises:
        UserError: no host is allowed, or the dataset's cases are turned otherwise.
    """
    refuse_other_axes(model, dataset)
    hosts = allowed_hosts(dataset, fold, editing.hosts)
    further = [c for c in fingerprints_of(dataset, hosts).values() if c not in model.seen]
    return ExpansionJob(fold, replace(model, seen=(*model.seen, *further)), requests, replace(editing, hosts=tuple(hosts)))


def estimate_bytes(dataset: NnunetDataset, jobs: Sequence[ExpansionJob], views: Sequence[NnunetDataset], with_raw: bool) -> int:
    """Estimate of the disk space that the jobs need: of whole cases uncompressed, of edits as much as the largest host has.

    Args:
        dataset: the real dataset.
        jobs: what is to be made.
        views: the dataset through each configuration that cases are preprocessed for.
        with_raw: whether raw files are written, too.
    """
    per_case = _bytes_of_edit if jobs and jobs[0].editing else _bytes_of_whole_case
    places: list[NnunetDataset | None] = [*views, *([None] if with_raw else [])]
    return sum(len(job.requests) * per_case(dataset, job, place) for job in jobs for place in places)


def _bytes_of_whole_case(_: NnunetDataset, job: ExpansionJob, view: NnunetDataset | None) -> int:
    """Preprocessed through a view, or raw, at the generator's spacing."""
    plan = job.model.plan
    spacing_mm = plan.grid.spacing_mm if view is None else view.config.spacing
    finer = np.divide(plan.grid.spacing_mm[-len(spacing_mm) :], spacing_mm)  # a 2d configuration keeps the slices
    return int(np.prod(plan.grid.shape) * np.prod(finer) * (len(plan.channel_names) * 4 + 2))


def _bytes_of_edit(dataset: NnunetDataset, job: ExpansionJob, view: NnunetDataset | None) -> int:
    """The largest host's files, preprocessed through a view, or raw."""

    def files_of(host: str) -> list[Path]:
        if view is not None:
            return [view.data_folder / f"{host}{ending}" for ending in PREPROCESSED_ENDINGS]
        return [Path(f) for f in (*dataset.case_files[host]["images"], dataset.case_files[host]["label"])]

    hosts = job.editing.hosts if job.editing else ()
    return max((sum(f.stat().st_size for f in files_of(host) if f.is_file()) for host in hosts), default=0)


def undecided(job: ExpansionJob, destination: Destination, settings: ProductionSettings) -> ExpansionJob:
    """The job with those of its requests that are still to be made."""
    return replace(job, requests=tuple(r for r in job.requests if not is_decided(r, job, settings, destination)))


def check_disk(folder: Path, needed_bytes: int) -> None:
    """Raise a :class:`UserError` if the file system of ``folder`` has too little room for what is needed, if anything is."""
    free = shutil.disk_usage(folder).free
    if needed_bytes and free < needed_bytes + SAFETY_BYTES:
        needed = (needed_bytes + SAFETY_BYTES) / 2**30
        raise UserError(f"{folder} has {free / 2**30:.2f} GB free, but up to {needed:.2f} GB are needed.")
