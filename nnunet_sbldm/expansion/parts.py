"""The part of an expansion that one process makes; the last part to finish judges and installs the whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nnunet_sbldm.common.files import sha256_of_json
from nnunet_sbldm.data.dataset import NnunetDataset
from nnunet_sbldm.data.paths import Fold
from nnunet_sbldm.expansion.destinations import Destination, RawDestination
from nnunet_sbldm.expansion.installed import Installed
from nnunet_sbldm.expansion.ledger import ExpansionJob, ProductionSettings, Tally, accepted_ids, recorded
from nnunet_sbldm.expansion.prepare import undecided
from nnunet_sbldm.expansion.production import produce, refuse_unfit
from nnunet_sbldm.types import UnfitGeneratorError


@dataclass(frozen=True)
class Outcome:
    """Result of an expansion: folders, cases of every fold, requests still open.

    Attributes:
        folders: where the cases are.
        installed: accepted cases per fold; empty while other parts are not finished.
        num_open: requests that other parts still have to decide.
        tallies: totals of every fold, this call's and those before.
    """

    folders: list[Path]
    installed: dict[Fold, int] = field(default_factory=dict)
    num_open: int = 0
    tallies: dict[Fold, Tally] = field(default_factory=dict)


def produce_all(
    dataset: NnunetDataset,
    jobs: Sequence[ExpansionJob],
    destinations: Sequence[Destination],
    settings: ProductionSettings,
    folders: list[Path],
) -> Outcome:
    """This part's share of every job; what other parts still owe is counted, and the last of them judges the whole.

    Raises:
        UnfitGeneratorError: the quality gate gives up more than half of the requests of a job.
    """
    pairs = list(zip(jobs, destinations, strict=True))
    tallies = {job.fold: produce(job, dataset, settings, destination) for job, destination in pairs}
    num_open = sum(len(undecided(job, destination, settings).requests) for job, destination in pairs)
    if not num_open:
        for job, destination in pairs:
            refuse_unfit(job, recorded(job, settings, destination))
    return Outcome(folders, {}, num_open, tallies)


@contextmanager
def giving_up_if_unfit(
    destination: RawDestination, num_parts: int, take_back: Callable[[], object], remedy: str
) -> Iterator[None]:
    """Leave nothing of an unfit generator; where other parts may be writing, stop them and leave it to the user.

    Args:
        destination: where cases are made meanwhile.
        num_parts: parts that the work is split into.
        take_back: removes all that was made.
        remedy: what the user has to do when all parts have ended.
    """
    try:
        destination.refuse_stopped()
        yield
        destination.refuse_stopped()
    except UnfitGeneratorError as error:
        if num_parts == 1:
            take_back()
            raise
        destination.mark_unfit(str(error))
        raise UnfitGeneratorError(f"{error} When all parts have ended, {remedy}.") from None


def installed_by(jobs: Sequence[ExpansionJob], destinations: Sequence[Destination], settings: ProductionSettings) -> Installed:
    """What every job has had accepted; all of its requests must be decided."""
    pairs = zip(jobs, destinations, strict=True)
    return {job.fold: (accepted_ids(job, settings, d), job.source, job.model.seen) for job, d in pairs}


def finished(outcome: Outcome, installed: Installed) -> Outcome:
    """The outcome once all parts are finished."""
    return replace(outcome, installed={fold: len(ids) for fold, (ids, _, _) in installed.items()})


def request_of(
    dataset: NnunetDataset, jobs: Sequence[ExpansionJob], configurations: Sequence[str], settings: ProductionSettings
) -> dict[str, Any]:
    """What an expansion is asked to be; another one must not be mixed with it."""
    requests = {
        str(j.fold): {
            "generator": j.model.hash,
            "cases": sha256_of_json([r.identity() for r in j.requests]),
            **j.signature(),
        }
        for j in jobs
    }
    return {
        "source_dataset": dataset.name,
        "plans_hash": dataset.plans_hash(),
        "configurations": list(configurations),
        "settings": settings.signature(),
        "folds": requests,
    }
