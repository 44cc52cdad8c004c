"""Write synthetic image/mask pairs where nnU-Net finds them: a new raw dataset, or the trainer's pool.

All checks (fold rule, channels, labels, ids, disk) come before the first file is written. A case counts as written
when its provenance record is there; running the same command again makes what is missing.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from nnunetv2.utilities.dataset_name_id_conversion import find_candidate_datasets
from tqdm import tqdm

from nnunet_sbldm.checkpoint import Generator, generator_folder, is_complete, load_generator, refuse_mismatch
from nnunet_sbldm.config import SamplerConfig
from nnunet_sbldm.files import link_or_copy, read_json, remove_leftovers, write_atomically, write_json
from nnunet_sbldm.folds import refuse_leaks
from nnunet_sbldm.formats import refuse_unwritable, write_case
from nnunet_sbldm.nnunet import (
    Fold,
    NnunetDataset,
    fingerprints_of,
    fold_cases,
    load_arrays,
    nnunet_folder,
    preprocess_case,
    read_written_case,
    splits_of,
)
from nnunet_sbldm.pool import expansion_folder, pool_cases_folder, pool_folder
from nnunet_sbldm.provenance import SyntheticIndex
from nnunet_sbldm.synthesis import NearestRealCase, Request, synthesise
from nnunet_sbldm.types import Case, FloatArray, LabelArray, UserError

MARKER = "sbldm_expansion.json"
PREPROCESSED_ENDINGS = (".b2nd", "_seg.b2nd", ".pkl")
SAFETY_BYTES = 200 * 2**20


@dataclass(frozen=True)
class Job:
    """The synthetic cases to make for one fold.

    Attributes:
        fold: the fold they train in.
        generator: a generator that has seen none of the fold's validation cases.
        requests: what to make.
    """

    fold: Fold
    generator: Generator
    requests: tuple[Request, ...]

    @property
    def case_ids(self) -> list[str]:
        """Ids of the synthetic cases."""
        return [r.case_id for r in self.requests]


# --- planning ------------------------------------------------------------------------------------------------------


def plan_jobs(
    dataset: NnunetDataset,
    folds: Sequence[Fold],
    *,
    ratio: float | None = None,
    num_cases: int | None = None,
    seed: int = 0,
    diversity: float = 1.0,
    model: Path | None = None,
    preset: str = "small",
) -> list[Job]:
    """Decide what to make for every fold, and refuse what must not be made.

    Args:
        dataset: the real dataset.
        folds: folds to serve.
        ratio: synthetic cases per real training case of the fold.
        num_cases: synthetic cases per fold, instead of a ratio.
        seed: seed of the whole expansion; every case has its own, derived from it.
        diversity: width of the condition model's kernels.
        model: generator for all folds; without it each fold's own is taken.
        preset: preset of the folds' own generators.

    Raises:
        UserError: no generator for a fold, a leak, other channels or labels, no cases asked for, unwritable format.
    """
    refuse_unwritable(dataset.name, dataset.dataset_json["file_ending"], dataset.reader)
    jobs = []
    for fold in folds:
        train, val = fold_cases(dataset, fold)
        folder = model or generator_folder(dataset, preset, fold)
        if not is_complete(folder):
            remedy = (
                f"-m {model} is no finished SBLDM"
                if model
                else f"run sbldm_train -d {int(dataset.name[7:10])} -f {fold} -preset {preset}"
            )
            raise UserError(f"There is no SBLDM for fold {fold} in {folder}: {remedy}.")
        generator = load_generator(folder)
        refuse_mismatch(generator, dataset)
        refuse_leaks(generator.seen, fingerprints_of(dataset, val).values(), fold)
        count = num_cases if num_cases is not None else round((ratio or 0) * len(train))
        if count < 1:
            raise UserError(f"Fold {fold}: {ratio} synthetic per real case of {len(train)} makes no case; ask for more.")
        jobs.append(Job(fold, generator, tuple(_requests(dataset, fold, count, seed, diversity))))
    return jobs


def _requests(dataset: NnunetDataset, fold: Fold, count: int, seed: int, diversity: float) -> Iterable[Request]:
    taken = set(dataset.real_case_ids)
    for i in range(count):
        case_id = f"sbldm_f{fold}_{i:04d}"
        if case_id in taken:
            raise UserError(f"{dataset.name} has a real case named {case_id}; rename it, synthetic cases need that name.")
        stream = np.random.SeedSequence([seed, -1 % 2**32 if fold == "all" else int(fold), i])
        yield Request(case_id, int(stream.generate_state(1, np.uint64)[0] >> 1), {}, diversity)


def estimate_bytes(dataset: NnunetDataset, jobs: Sequence[Job], num_configurations: int, with_raw: bool) -> int:
    """Upper estimate of the disk space that the jobs need, uncompressed."""
    voxels = sum(len(j.requests) * int(np.prod(j.generator.plan.grid.shape)) for j in jobs)
    bytes_per_voxel = len(dataset.channel_names) * 4 + 2
    return voxels * bytes_per_voxel * (num_configurations + int(with_raw))


def check_disk(folder: Path, needed_bytes: int) -> None:
    """Raise a :class:`UserError` if the file system of ``folder`` has too little room."""
    free = shutil.disk_usage(folder).free
    if free < needed_bytes + SAFETY_BYTES:
        raise UserError(
            f"{folder} has {free / 2**30:.2f} GB free, but up to {(needed_bytes + SAFETY_BYTES) / 2**30:.2f} GB are needed."
        )


# --- making --------------------------------------------------------------------------------------------------------


class Destination(Protocol):
    """A place for synthetic cases."""

    @property
    def provenance(self) -> Path:
        """Folder of the records."""

    def store(self, case: Case) -> tuple[FloatArray, LabelArray]:
        """Write a case completely; returns its preprocessed arrays."""


@dataclass(frozen=True)
class PoolDestination:
    """The pool of one fold, one configuration."""

    dataset: NnunetDataset
    cases: Path
    provenance: Path

    def store(self, case: Case) -> tuple[FloatArray, LabelArray]:
        """Preprocess into the pool."""
        preprocess_case(self.dataset, case, self.cases / case.case_id)
        return load_arrays(self.cases, case.case_id)


@dataclass(frozen=True)
class DatasetDestination:
    """A new raw dataset and its preprocessed configurations.

    Attributes:
        views: the real dataset through each configuration to preprocess.
        raw: raw folder of the new dataset.
        preprocessed: preprocessed folder of the new dataset.
    """

    views: tuple[NnunetDataset, ...]
    raw: Path
    preprocessed: Path

    @property
    def provenance(self) -> Path:
        """Folder of the records."""
        return self.raw / "synthetic" / "provenance"

    def image_files(self, case_id: str) -> list[Path]:
        """Raw image files of a case, one per channel."""
        ending, count = self.views[0].dataset_json["file_ending"], len(self.views[0].channel_names)
        return [self.raw / "synthetic" / "images" / f"{case_id}_{c:04d}{ending}" for c in range(count)]

    def label_file(self, case_id: str) -> Path:
        """Raw label file of a case."""
        return self.raw / "synthetic" / "labels" / f"{case_id}{self.views[0].dataset_json['file_ending']}"

    def store(self, case: Case) -> tuple[FloatArray, LabelArray]:
        """Write raw files, read them back with nnU-Net's reader, preprocess for every configuration."""
        images, label = self.image_files(case.case_id), self.label_file(case.case_id)
        write_case(case, images, label, self.views[0].reader)
        written, properties = read_written_case(self.views[0], case, images, label)
        for view in self.views:
            preprocess_case(view, written, self.preprocessed / view.config.data_identifier / case.case_id, properties)
        return load_arrays(self.preprocessed / self.views[0].config.data_identifier, case.case_id)


def generate(job: Job, dataset: NnunetDataset, sampler: SamplerConfig, destination: Destination) -> None:
    """Make the cases of a job that are not there yet, the provenance record of each last."""
    missing = [r for r in job.requests if not _is_stored(r, job, sampler, destination.provenance)]
    if not missing:
        return
    nearest = NearestRealCase(job.generator, dataset)
    cases = synthesise(job.generator, missing, sampler)
    for case, record in tqdm(cases, f"fold {job.fold}", len(job.requests), initial=len(job.requests) - len(missing), unit="case"):
        arrays = destination.store(case)
        replace(record, fold=job.fold, nearest_real_case=nearest.of(*arrays)).save(destination.provenance)


def _is_stored(request: Request, job: Job, sampler: SamplerConfig, provenance: Path) -> bool:
    file = provenance / f"{request.case_id}.json"
    if not file.is_file():
        return False
    record = read_json(file)
    wanted = {**asdict(sampler), "diversity": request.diversity}
    return (record["generator_hash"], record["seed"], record["sampler"]) == (job.generator.hash, request.seed, wanted)


# --- the pool ------------------------------------------------------------------------------------------------------


def fill_pool(dataset: NnunetDataset, jobs: Sequence[Job], configurations: Sequence[str], sampler: SamplerConfig) -> list[Path]:
    """Make the pool of every fold and configuration hold exactly what the jobs ask for.

    Cases of an earlier request that are asked for again are kept, others are replaced.

    Returns:
        The pool folders.
    """
    views = views_of(dataset, configurations)
    check_disk(dataset.preprocessed, estimate_bytes(dataset, jobs, len(views), with_raw=False))
    folders = []
    for job in jobs:
        for view in views:
            folder = pool_folder(dataset.preprocessed, view.config.data_identifier, job.fold)
            destination = PoolDestination(
                view, pool_cases_folder(dataset.preprocessed, view.config.data_identifier, job.fold), folder / "provenance"
            )
            _clear_stale(view, job, sampler, folder, destination)
            generate(job, dataset, sampler, destination)
            index = SyntheticIndex(view.plans_hash())
            index.add(job.case_ids, job.generator.hash, job.generator.seen)
            index.save(folder)
            folders.append(folder)
    return folders


def _clear_stale(view: NnunetDataset, job: Job, sampler: SamplerConfig, folder: Path, destination: PoolDestination) -> None:
    """Remove cases of other requests; the index goes first, so that no trainer reads a pool in between."""
    index = SyntheticIndex.load(folder)
    keep = {r.case_id for r in job.requests if _is_stored(r, job, sampler, destination.provenance)}
    if index and index.plans_hash != view.plans_hash():
        keep = set()
    found = {p.stem for p in destination.provenance.glob("*.json")}
    if index and (set(index.cases) != set(job.case_ids) or keep != set(index.cases)):
        (folder / "synthetic_cases.json").unlink()
    for case_id in found - keep:
        (destination.provenance / f"{case_id}.json").unlink()
        for ending in PREPROCESSED_ENDINGS:
            (destination.cases / f"{case_id}{ending}").unlink(missing_ok=True)
    if destination.cases.is_dir():
        remove_leftovers(destination.cases)


def views_of(dataset: NnunetDataset, configurations: Sequence[str]) -> tuple[NnunetDataset, ...]:
    """The same dataset through each configuration."""
    for name in configurations:
        if name not in dataset.plans.available_configurations:
            raise UserError(
                f"The plans {dataset.plans_name} of {dataset.name} have no configuration {name}; "
                f"they have {', '.join(dataset.plans.available_configurations)}."
            )
    views = tuple(replace(dataset, configuration=name) for name in configurations)
    for view in views:
        if not view.data_folder.is_dir():
            raise UserError(
                f"{dataset.name} is not preprocessed for {view.configuration}: run nnUNetv2_preprocess "
                f"-d {int(dataset.name[7:10])} -plans_name {dataset.plans_name} -c {view.configuration}."
            )
    return views


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
            raise UserError(
                f"{taken} is an expansion of {read_json(marker)['source_dataset']}, not of {dataset.name}; choose another id."
            )
    return name


def _exists_raw_or_preprocessed(name: str) -> bool:
    return any((nnunet_folder(v) / name).exists() for v in ("nnUNet_raw", "nnUNet_preprocessed"))


def write_dataset(
    dataset: NnunetDataset, jobs: Sequence[Job], target_id: int, configurations: Sequence[str], sampler: SamplerConfig
) -> Path:
    """Write a new raw and preprocessed dataset: the real cases where they are, and the jobs' synthetic cases.

    Plans, fingerprint and splits are those of the real dataset; synthetic cases are added to ``train`` of their fold.
    ``dataset.json`` is written last; until then nnU-Net finds no dataset under the new id.

    Returns:
        The raw folder.
    """
    name, views = expanded_name(dataset, target_id), views_of(dataset, configurations)
    raw, preprocessed = nnunet_folder("nnUNet_raw") / name, nnunet_folder("nnUNet_preprocessed") / name
    check_disk(raw.parent, estimate_bytes(dataset, jobs, 0, with_raw=True))
    check_disk(preprocessed.parent, estimate_bytes(dataset, jobs, len(views), with_raw=False))
    _start_or_resume(raw, dataset, jobs, configurations, sampler)
    destination = DatasetDestination(views, raw, preprocessed)
    for job in jobs:
        generate(job, dataset, sampler, destination)
    _link_real_cases(views, preprocessed)
    _install(dataset, jobs, destination, name)
    return raw


def _start_or_resume(
    raw: Path, dataset: NnunetDataset, jobs: Sequence[Job], configurations: Sequence[str], sampler: SamplerConfig
) -> None:
    """Write the marker of an expansion, or check that the one found is the same request."""
    request = {
        "source_dataset": dataset.name,
        "plans_hash": dataset.plans_hash(),
        "configurations": list(configurations),
        "sampler": asdict(sampler),
        "folds": {
            str(j.fold): {"generator": j.generator.hash, "cases": len(j.requests), "seeds": j.requests[0].seed} for j in jobs
        },
    }
    if (raw / MARKER).is_file() and read_json(raw / MARKER) != request:
        raise UserError(
            f"{raw} holds an expansion with other settings, plans or generators; choose another id or delete that dataset."
        )
    write_json(raw / MARKER, request)
    for folder in (raw / "synthetic" / "images", raw / "synthetic" / "labels", raw / "synthetic" / "provenance"):
        folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder)


def _link_real_cases(views: Sequence[NnunetDataset], preprocessed: Path) -> None:
    """Hard-link (or copy) the real preprocessed files; ground truth is copied, for nnU-Net rewrites it in place."""
    for view in views:
        for case_id in view.real_case_ids:
            for ending in PREPROCESSED_ENDINGS:
                file = f"{case_id}{ending}"
                link_or_copy(view.data_folder / file, preprocessed / view.config.data_identifier / file)
        remove_leftovers(preprocessed / view.config.data_identifier)
    source = views[0]
    for case_id in source.real_case_ids:
        label = Path(source.case_files[case_id]["label"])
        _copy(label, preprocessed / "gt_segmentations" / f"{case_id}{source.dataset_json['file_ending']}")


def _copy(source: Path, target: Path) -> None:
    write_atomically(target, lambda tmp: shutil.copyfile(source, tmp))


def _install(dataset: NnunetDataset, jobs: Sequence[Job], destination: DatasetDestination, name: str) -> None:
    """Write ground truth of the synthetic cases, plans, fingerprint, splits, index, and ``dataset.json`` last."""
    raw, preprocessed, case_ids = destination.raw, destination.preprocessed, [c for j in jobs for c in j.case_ids]
    for case_id in case_ids:
        label = destination.label_file(case_id)
        _copy(label, preprocessed / "gt_segmentations" / label.name)
    plans = read_json(dataset.preprocessed / f"{dataset.plans_name}.json")
    write_json(preprocessed / f"{dataset.plans_name}.json", {**plans, "dataset_name": name})
    _copy(dataset.preprocessed / "dataset_fingerprint.json", preprocessed / "dataset_fingerprint.json")
    splits = splits_of(dataset)
    for job in jobs:
        if job.fold != "all":
            splits[int(job.fold)]["train"] += job.case_ids
    for folder in (raw, preprocessed):
        write_json(folder / "splits_final.json", splits)
    index = SyntheticIndex(dataset.plans_hash())
    for job in jobs:
        index.add(job.case_ids, job.generator.hash, job.generator.seen)
    index.save(expansion_folder(preprocessed))
    dataset_json = _expanded_dataset_json(dataset, destination, case_ids, name)
    for folder in (preprocessed, raw):
        write_json(folder / "dataset.json", dataset_json)


def _expanded_dataset_json(
    dataset: NnunetDataset, destination: DatasetDestination, case_ids: Sequence[str], name: str
) -> dict[str, Any]:
    """The real ``dataset.json`` with every case listed: real files where they are, synthetic ones in the new folder."""

    def relative(path: str | Path) -> str:
        return os.path.relpath(path, destination.raw)

    cases = {
        c: {"images": [relative(f) for f in dataset.case_files[c]["images"]], "label": relative(dataset.case_files[c]["label"])}
        for c in dataset.real_case_ids
    }
    for c in case_ids:
        cases[c] = {"images": [relative(f) for f in destination.image_files(c)], "label": relative(destination.label_file(c))}
    return {
        **dataset.dataset_json,
        "name": name.split("_", 1)[1],
        "numTraining": len(cases),
        "dataset": cases,
        "sbldm": {"source_dataset": dataset.name, "synthetic_cases": list(case_ids)},
    }
