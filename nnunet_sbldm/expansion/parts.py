"""Write synthetic image/mask pairs where nnU-Net finds them: the trainer's pool, a new dataset, or the dataset itself.

All checks (fold rule, channels, labels, ids, disk) come before the first file is written. Running the same command
again makes what is missing; parts may run at the same time, and the last one to finish installs the result.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.utilities.dataset_name_id_conversion import find_candidate_datasets

from nnunet_sbldm.common.files import read_json, sha256_of_json, write_json
from nnunet_sbldm.data.dataset import PREPROCESSED_ENDINGS, Fold, NnunetDataset, fingerprints_of, fold_cases, nnunet_folder
from nnunet_sbldm.data.folds import refuse_leaks
from nnunet_sbldm.data.formats import refuse_unwritable
from nnunet_sbldm.data.groups import with_remembered_groups
from nnunet_sbldm.editing.hosts import allowed_hosts
from nnunet_sbldm.editing.planner import EditSettings, refuse_other_axes
from nnunet_sbldm.expansion.destinations import Destination, PoolDestination, RawDestination, views_of
from nnunet_sbldm.expansion.in_place import (
    IN_PLACE,
    MANIFEST,
    Installed,
    begin_in_place,
    install_in_place,
    install_new_dataset,
    install_pool,
    refuse_incomplete,
    undo_command,
    undo_in_place,
)
from nnunet_sbldm.expansion.production import (
    Job,
    ProductionSettings,
    Tally,
    accepted_ids,
    is_accepted,
    is_decided,
    matches,
    produce,
    recorded,
    refuse_unfit,
    rejected_folders,
)
from nnunet_sbldm.generator.checkpoint import (
    Generator,
    generator_folder,
    has_its_plans,
    load_generator,
    refuse_mismatch,
    training_command,
)
from nnunet_sbldm.generator.records import INDEX_NAME, SyntheticIndex
from nnunet_sbldm.generator.requests import Request, Wish, plan_requests
from nnunet_sbldm.generator.zoo import find_model, finished_models, places_of
from nnunet_sbldm.types import UnfitGeneratorError, UserError

MARKER = "sbldm_expansion.json"
SAFETY_BYTES = 200 * 2**20


@dataclass(frozen=True)
class Outcome:
    """What an expansion came to.

    Attributes:
        folders: where the cases are.
        installed: accepted cases per fold; empty while other parts are not finished.
        num_open: requests that other parts still have to decide.
        tallies: what this call did, and what all came to, per fold.
    """

    folders: list[Path]
    installed: dict[Fold, int] = field(default_factory=dict)
    num_open: int = 0
    tallies: dict[Fold, Tally] = field(default_factory=dict)


# --- planning ------------------------------------------------------------------------------------------------------


def plan_jobs(
    dataset: NnunetDataset,
    folds: Sequence[Fold],
    wish: Wish,
    model: str | Path | None = None,
    preset: str | None = None,
    editing: EditSettings | None = None,
) -> list[Job]:
    """Decide what to make for every fold, and refuse what must not be made.

    Args:
        dataset: the real dataset.
        folds: folds to serve.
        wish: how many cases of which kind.
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
        generator = load_generator(_generator_of(dataset, fold, model, preset))
        refuse_mismatch(generator, dataset)
        if not editing and generator.plan.dataset_name == dataset.name and not has_its_plans(generator, dataset):
            raise UserError(
                f"The SBLDM in {generator.folder} was trained on {dataset.name} as it was preprocessed at that time; its plans "
                f"{generator.plan.plans_name} have changed since: move that folder away and train it again."
            )
        generator = replace(generator, seen=with_remembered_groups(generator.seen, dataset))
        requests = tuple(plan_requests(generator.plan, fold, len(train), wish, set(dataset.real_case_ids)))
        job = edit_job(dataset, fold, generator, requests, editing) if editing else Job(fold, generator, requests)
        refuse_leaks(job.generator.seen, fingerprints_of(dataset, val).values(), fold)
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
    dataset: NnunetDataset, fold: Fold, generator: Generator, requests: tuple[Request, ...], editing: EditSettings
) -> Job:
    """A job that edits hosts of the fold; the fold rule counts its hosts as seen, whoever trained the generator.

    Raises:
        UserError: no host is allowed, or the dataset's cases are turned otherwise.
    """
    refuse_other_axes(generator, dataset)
    hosts = allowed_hosts(dataset, fold, editing.hosts)
    further = [c for c in fingerprints_of(dataset, hosts).values() if c not in generator.seen]
    return Job(fold, replace(generator, seen=(*generator.seen, *further)), requests, replace(editing, hosts=tuple(hosts)))


def estimate_bytes(dataset: NnunetDataset, jobs: Sequence[Job], views: Sequence[NnunetDataset], with_raw: bool) -> int:
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


def _bytes_of_whole_case(_: NnunetDataset, job: Job, view: NnunetDataset | None) -> int:
    """Preprocessed through a view, or raw, at the generator's spacing."""
    plan = job.generator.plan
    spacing_mm = plan.grid.spacing_mm if view is None else view.config.spacing
    finer = np.divide(plan.grid.spacing_mm[-len(spacing_mm) :], spacing_mm)  # a 2d configuration keeps the slices
    return int(np.prod(plan.grid.shape) * np.prod(finer) * (len(plan.channel_names) * 4 + 2))


def _bytes_of_edit(dataset: NnunetDataset, job: Job, view: NnunetDataset | None) -> int:
    """The largest host's files, preprocessed through a view, or raw."""

    def files_of(host: str) -> list[Path]:
        if view is not None:
            return [view.data_folder / f"{host}{ending}" for ending in PREPROCESSED_ENDINGS]
        return [Path(f) for f in (*dataset.case_files[host]["images"], dataset.case_files[host]["label"])]

    hosts = job.editing.hosts if job.editing else ()
    return max((sum(f.stat().st_size for f in files_of(host) if f.is_file()) for host in hosts), default=0)


def _undecided(job: Job, destination: Destination, settings: ProductionSettings) -> Job:
    """The job with those of its requests that are still to be made."""
    return replace(job, requests=tuple(r for r in job.requests if not is_decided(r, job, settings, destination)))


def check_disk(folder: Path, needed_bytes: int) -> None:
    """Raise a :class:`UserError` if the file system of ``folder`` has too little room for what is needed, if anything is."""
    free = shutil.disk_usage(folder).free
    if needed_bytes and free < needed_bytes + SAFETY_BYTES:
        needed = (needed_bytes + SAFETY_BYTES) / 2**30
        raise UserError(f"{folder} has {free / 2**30:.2f} GB free, but up to {needed:.2f} GB are needed.")


# --- making --------------------------------------------------------------------------------------------------------


def _produce_all(
    dataset: NnunetDataset,
    jobs: Sequence[Job],
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
    num_open = sum(len(_undecided(job, destination, settings).requests) for job, destination in pairs)
    if not num_open:
        for job, destination in pairs:
            refuse_unfit(job, recorded(job, settings, destination))
    return Outcome(folders, {}, num_open, tallies)


@contextmanager
def _giving_up_if_unfit(
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


def _installed(jobs: Sequence[Job], destinations: Sequence[Destination], settings: ProductionSettings) -> Installed:
    pairs = zip(jobs, destinations, strict=True)
    return {job.fold: (accepted_ids(job, settings, d), job.source, job.generator.seen) for job, d in pairs}


def _finished(outcome: Outcome, installed: Installed) -> Outcome:
    return replace(outcome, installed={fold: len(ids) for fold, (ids, _, _) in installed.items()})


def fill_pool(
    dataset: NnunetDataset, jobs: Sequence[Job], configurations: Sequence[str], settings: ProductionSettings
) -> Outcome:
    """Make the pool of every fold and configuration hold exactly what the jobs ask for.

    Cases of an earlier request that are asked for again are kept, others are replaced.
    """
    views = views_of(dataset, configurations)
    destinations = [PoolDestination(views, job.fold) for job in jobs]
    pairs = zip(jobs, destinations, strict=True)
    still_open = [_undecided(job, d, settings) if _plans_fit(d) else job for job, d in pairs]
    check_disk(dataset.preprocessed, estimate_bytes(dataset, still_open, views, with_raw=False))
    for job, destination in zip(jobs, destinations, strict=True):
        _clear_stale(job, destination, settings)
        _announce_plans(destination)
    folders = [d.folder(view) for d in destinations for view in views]
    outcome = _produce_all(dataset, jobs, destinations, settings, folders)
    if outcome.num_open:
        return outcome
    installed = _installed(jobs, destinations, settings)
    for destination in destinations:
        install_pool(destination, {destination.fold: installed[destination.fold]})
    return _finished(outcome, installed)


def _clear_stale(job: Job, destination: PoolDestination, settings: ProductionSettings) -> None:
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


# --- a new dataset -------------------------------------------------------------------------------------------------


def expanded_name(dataset: NnunetDataset, target_id: int) -> str:
    """Name of the new dataset; refuses an id that anything but an expansion of the same dataset uses."""
    if not 1 <= target_id <= 999:
        raise UserError(f"-o takes a dataset id from 1 to 999; got {target_id}.")
    name = f"Dataset{target_id:03d}_{dataset.name.split('_', 1)[1]}SBLDM"
    for taken in find_candidate_datasets(target_id):
        marker = nnunet_folder("nnUNet_raw") / taken / MARKER
        if taken != name or (not marker.is_file() and _exists_raw_or_preprocessed(taken)):
            raise UserError(f"The dataset id {target_id} is taken by {taken}; choose an unused one.")
        if marker.is_file() and read_json(marker)["source_dataset"] != dataset.name:
            source = read_json(marker)["source_dataset"]
            raise UserError(f"{taken} is an expansion of {source}, not of {dataset.name}; choose another id.")
    return name


def _exists_raw_or_preprocessed(name: str) -> bool:
    return any((nnunet_folder(v) / name).exists() for v in ("nnUNet_raw", "nnUNet_preprocessed"))


def write_dataset(
    dataset: NnunetDataset, jobs: Sequence[Job], target_id: int, configurations: Sequence[str], settings: ProductionSettings
) -> Outcome:
    """Write a new raw and preprocessed dataset: the real cases where they are, and the jobs' synthetic cases.

    ``dataset.json`` is written last; until then nnU-Net finds no dataset under the new id.
    """
    name, views = expanded_name(dataset, target_id), views_of(dataset, configurations)
    refuse_incomplete(views)
    raw, preprocessed = nnunet_folder("nnUNet_raw") / name, nnunet_folder("nnUNet_preprocessed") / name
    own = raw / "synthetic"
    destination = RawDestination(views, own / "images", own / "labels", own / "provenance", preprocessed, raw / MARKER)
    still_open = [_undecided(job, destination, settings) for job in jobs]
    check_disk(raw.parent, estimate_bytes(dataset, still_open, (), with_raw=True))
    check_disk(preprocessed.parent, estimate_bytes(dataset, still_open, views, with_raw=False))
    _mark_or_match(raw, _request(dataset, jobs, configurations, settings))
    destinations = [destination] * len(jobs)

    def take_back() -> None:
        if not (raw / "dataset.json").is_file():
            for folder in (preprocessed, raw):  # the marker last: it makes the id ours
                shutil.rmtree(folder, ignore_errors=True)

    with _giving_up_if_unfit(destination, settings.num_parts, take_back, f"delete {raw} and {preprocessed}"):
        outcome = _produce_all(dataset, jobs, destinations, settings, [raw, preprocessed])
    if outcome.num_open:
        return outcome
    installed = _installed(jobs, destinations, settings)
    install_new_dataset(dataset, destination, raw, installed)
    return _finished(outcome, installed)


def _request(
    dataset: NnunetDataset, jobs: Sequence[Job], configurations: Sequence[str], settings: ProductionSettings
) -> dict[str, Any]:
    """What an expansion is asked to be; another one must not be mixed with it."""
    requests = {
        str(j.fold): {
            "generator": j.generator.hash,
            "cases": sha256_of_json([asdict(r) for r in j.requests]),
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


def _mark_or_match(raw: Path, request: dict[str, Any]) -> None:
    if not (raw / MARKER).is_file():
        write_json(raw / MARKER, request)
    elif read_json(raw / MARKER) != request:
        raise UserError(
            f"{raw} holds an expansion with other settings, plans, generators, folds or number of cases; choose another id or "
            "delete that dataset."
        )


# --- in place ------------------------------------------------------------------------------------------------------


def expand_in_place(
    dataset: NnunetDataset, jobs: Sequence[Job], configurations: Sequence[str], settings: ProductionSettings
) -> Outcome:
    """Add synthetic cases to the raw and preprocessed folders of the dataset itself; :func:`undo` takes them out again."""
    views = views_of(dataset, configurations)
    refuse_in_place(jobs, views)
    raw, own = dataset.raw, dataset.raw / IN_PLACE
    records, manifest = own / "provenance", own / MANIFEST
    destination = RawDestination(views, raw / "imagesTr", raw / "labelsTr", records, dataset.preprocessed, manifest)
    still_open = [_undecided(job, destination, settings) for job in jobs]
    check_disk(raw, estimate_bytes(dataset, still_open, (), with_raw=True))
    check_disk(dataset.preprocessed, estimate_bytes(dataset, still_open, views, with_raw=False))
    case_ids = [r.case_id for job in jobs for r in job.requests]
    begin_in_place(dataset, destination, _request(dataset, jobs, configurations, settings), case_ids)
    destinations = [destination] * len(jobs)

    def take_back() -> None:
        if manifest.is_file():  # else it was taken back meanwhile
            undo_in_place(dataset.raw, dataset.preprocessed)

    with _giving_up_if_unfit(destination, settings.num_parts, take_back, f"run {undo_command(dataset.name)}"):
        outcome = _produce_all(dataset, jobs, destinations, settings, [raw, dataset.preprocessed])
    if outcome.num_open:
        return outcome
    installed = _installed(jobs, destinations, settings)
    install_in_place(dataset, destination, installed)
    return _finished(outcome, installed)


def refuse_in_place(jobs: Sequence[Job], views: Sequence[NnunetDataset]) -> None:
    """Refuse what an in-place expansion would break, for the splits of a dataset are those of all its configurations.

    Raises:
        UserError: fold all, or real cases that are preprocessed for other configurations, too.
    """
    if any(job.fold == "all" for job in jobs):
        raise UserError("--in_place cannot serve fold all: stock nnU-Net would validate on the synthetic cases; use --pool.")
    dataset, ours = views[0], [view.data_folder.name for view in views]
    folders = sorted(f.parent.name for c in dataset.real_case_ids[:1] for f in dataset.preprocessed.glob(f"*/{c}.pkl"))
    others = [name for name in folders if name not in ours]
    if not others:
        return
    planned = {replace(dataset, configuration=c).data_folder.name for c in dataset.plans.available_configurations}
    remedy = "name these, too (-c), use --pool or -o" if planned.issuperset(others) else "use --pool or -o"
    raise UserError(
        f"{dataset.name} is also preprocessed in {', '.join(others)}, where --in_place would leave splits with synthetic cases "
        f"that have no files: {remedy}, or delete what you do not train."
    )


def undo(name: str) -> tuple[int, list[Path]]:
    """Take the synthetic cases of an in-place expansion out again, as :func:`undo_in_place`."""
    return undo_in_place(nnunet_folder("nnUNet_raw") / name, nnunet_folder("nnUNet_preprocessed") / name)
