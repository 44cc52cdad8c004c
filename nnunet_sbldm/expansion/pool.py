"""The destination ``--pool``: the pool of the trainer, beside the preprocessed data, which stock nnU-Net never sees."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nnunet_sbldm.common.files import remove_leftovers
from nnunet_sbldm.data.dataset import NnunetDataset
from nnunet_sbldm.expansion.destinations import PoolDestination, views_of
from nnunet_sbldm.expansion.installed import Installed, index_of
from nnunet_sbldm.expansion.ledger import ExpansionJob, ProductionSettings, is_accepted, matches, rejected_folders
from nnunet_sbldm.expansion.parts import Outcome, finished, installed_by, produce_all
from nnunet_sbldm.expansion.prepare import check_disk, estimate_bytes, undecided
from nnunet_sbldm.generator.records import INDEX_NAME, SyntheticIndex


def install_pool(destination: PoolDestination, installed: Installed) -> list[Path]:
    """Write the index of every pool; returns the pool folders."""
    folders = []
    for view in destination.views:
        index_of(view.plans_hash(), installed).save(destination.folder(view))
        remove_leftovers(destination.cases_folder(view))
        folders.append(destination.folder(view))
    return folders


def fill_pool(
    dataset: NnunetDataset, jobs: Sequence[ExpansionJob], configurations: Sequence[str], settings: ProductionSettings
) -> Outcome:
    """Make the pool of every fold and configuration hold exactly what the jobs ask for.

    Cases of an earlier request that are asked for again are kept, others are replaced.
    """
    views = views_of(dataset, configurations)
    destinations = [PoolDestination(views, job.fold) for job in jobs]
    pairs = zip(jobs, destinations, strict=True)
    still_open = [undecided(job, d, settings) if _plans_fit(d) else job for job, d in pairs]
    check_disk(dataset.preprocessed, estimate_bytes(dataset, still_open, views, with_raw=False))
    for job, destination in zip(jobs, destinations, strict=True):
        _clear_stale(job, destination, settings)
        _announce_plans(destination)
    folders = [d.folder(view) for d in destinations for view in views]
    outcome = produce_all(dataset, jobs, destinations, settings, folders)
    if outcome.num_open:
        return outcome
    installed = installed_by(jobs, destinations, settings)
    for destination in destinations:
        install_pool(destination, {destination.fold: installed[destination.fold]})
    return finished(outcome, installed)


def _clear_stale(job: ExpansionJob, destination: PoolDestination, settings: ProductionSettings) -> None:
    """Remove cases and records of other requests; the index is emptied first, so that no trainer reads a pool in between.

    It keeps the plans that the cases were preprocessed with until the last of them is gone.
    """
    asked = {r.case_id: r for r in job.requests}
    for file in (file for folder in rejected_folders(destination) for file in folder.glob("*.json")):
        if file.stem not in asked or not matches(file, asked[file.stem], job, settings):
            file.unlink(missing_ok=True)
    plans_fit = _plans_fit(destination)
    keep = {r.case_id for r in job.requests if plans_fit and is_accepted(r, job, settings, destination)}
    found = {p.stem for folder in destination.record_folders for p in folder.glob("*.json")}
    if found <= keep:
        return
    for view in destination.views:
        folder = destination.folder(view)
        if (index := SyntheticIndex.load(folder)) is not None:
            SyntheticIndex(index.plans_hash).save(folder)
    for case_id in found - keep:
        destination.remove(case_id)
    if not plans_fit:
        for view in destination.views:
            (destination.folder(view) / INDEX_NAME).unlink(missing_ok=True)


def _plans_fit(destination: PoolDestination) -> bool:
    """Whether what the pools hold went through the preprocessing that the plans now ask for."""
    indices = ((view, SyntheticIndex.load(destination.folder(view))) for view in destination.views)
    return all(index is not None and index.plans_hash == view.plans_hash() for view, index in indices)


def _announce_plans(destination: PoolDestination) -> None:
    """An index without cases, before the first case: it says which preprocessing those that follow go through."""
    for view in destination.views:
        folder = destination.folder(view)
        if not (folder / INDEX_NAME).is_file():
            SyntheticIndex(view.plans_hash()).save(folder)
