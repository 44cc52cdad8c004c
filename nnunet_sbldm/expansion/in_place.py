"""The destination ``--in_place``: synthetic cases in the folders of the real dataset, and the way to take them out again."""

from __future__ import annotations

import filecmp
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nnunet_sbldm.common.files import copy_file, read_json, remove_leftovers, temporary_folder, write_json
from nnunet_sbldm.data.dataset import NnunetDataset
from nnunet_sbldm.data.paths import nnunet_folder, planning_command, undo_command
from nnunet_sbldm.data.splits import SPLITS, splits_of
from nnunet_sbldm.expansion.destinations import RawDestination, views_of
from nnunet_sbldm.expansion.installed import Installed, copy_ground_truth, expanded_splits, index_of
from nnunet_sbldm.expansion.ledger import ExpansionJob, ProductionSettings
from nnunet_sbldm.expansion.parts import Outcome, finished, giving_up_if_unfit, installed_by, produce_all, request_of
from nnunet_sbldm.expansion.places import expansion_folder
from nnunet_sbldm.expansion.prepare import check_disk, estimate_bytes, undecided
from nnunet_sbldm.generator.records import INDEX_NAME
from nnunet_sbldm.types import UserError

IN_PLACE = "sbldm_in_place"
"""Folder in a raw dataset that holds what undoing an in-place expansion needs."""
MANIFEST = "manifest.json"
UNDOING = "undoing.json"
"""Name of the manifest from the moment that its expansion is undone."""
BACKUP = "backup"


def begin_in_place(dataset: NnunetDataset, destination: RawDestination, request: dict[str, Any], case_ids: Sequence[str]) -> None:
    """Keep what undoing needs, before the first file of the dataset is touched, and announce the synthetic cases.

    Every part begins, at the same time or later; all must be of the same request.

    Raises:
        UserError: another request, an unfinished undo, a dataset that holds synthetic cases of its own, or is incomplete.
    """
    if (dataset.raw / IN_PLACE / UNDOING).is_file():
        raise UserError(f"Undoing the expansion of {dataset.name} was interrupted: run {undo_command(dataset.name)} again first.")
    if not destination.manifest.is_file():
        _refuse_unsuited(dataset, destination.manifest)
        _keep_backup(dataset, destination, request, case_ids)
    if read_json(destination.manifest)["request"] != request:
        raise UserError(
            f"{dataset.name} is already expanded in place by another request: undo it first with {undo_command(dataset.name)}."
        )
    if not (dataset.preprocessed / SPLITS).is_file():  # else nnU-Net would deal synthetic cases into it meanwhile
        write_json(dataset.preprocessed / SPLITS, splits_of(dataset))
    announced = {"source_dataset": dataset.name, "synthetic_cases": list(case_ids)}  # no longer real to us, from now on
    for folder in (dataset.raw, dataset.preprocessed):
        content = read_json(folder / "dataset.json")
        if "sbldm" not in content:
            write_json(folder / "dataset.json", {**content, "sbldm": announced})


def _refuse_unsuited(dataset: NnunetDataset, manifest: Path) -> None:
    files = [dataset.raw / "dataset.json", dataset.preprocessed / "dataset.json"]
    if not files[1].is_file():
        raise UserError(f"{files[1]} is missing: run {planning_command(dataset.name, dataset.plans_name)} again.")
    index = expansion_folder(dataset.preprocessed) / INDEX_NAME
    holds_synthetic = index.is_file() or any("sbldm" in read_json(f) for f in files)
    if holds_synthetic and not manifest.is_file():  # looked up last: another part that announced its cases has kept it before
        raise UserError(
            f"{dataset.name} already holds synthetic cases, which --undo could not tell from new ones: expand the dataset it was "
            "made from."
        )


def _keep_backup(dataset: NnunetDataset, destination: RawDestination, request: dict[str, Any], case_ids: Sequence[str]) -> None:
    """Copies of the files that will change, and the list of all that will be created; they appear in one step."""
    raw, preprocessed = dataset.raw, dataset.preprocessed
    candidates = [folder / name for name in (SPLITS, "dataset.json") for folder in (raw, preprocessed)]  # restored in this order
    changed = [_portable(f, raw, preprocessed) for f in candidates if f.is_file()]
    created = [_portable(f, raw, preprocessed) for c in case_ids for f in destination.files(c)]
    if not (preprocessed / SPLITS).is_file():
        created.append(_portable(preprocessed / SPLITS, raw, preprocessed))
    missing = [_portable(f, raw, preprocessed) for f in destination.data_folders if not f.exists()]
    remove_leftovers(raw)
    _remove_remains(raw / IN_PLACE)
    with temporary_folder(raw) as tmp:
        for name in changed:
            copy_file(_located(name, raw, preprocessed), tmp / IN_PLACE / BACKUP / name)
        content = {"request": request, "changed": changed, "created": created, "created_folders": missing}
        write_json(tmp / IN_PLACE / destination.manifest.name, content)
        try:
            os.rename(tmp / IN_PLACE, raw / IN_PLACE)
        except OSError:
            if not destination.manifest.is_file():  # no other part was faster
                raise


def _portable(path: Path, raw: Path, preprocessed: Path) -> str:
    """A path of the dataset that holds wherever its two folders are."""
    root, folder = ("raw", raw) if path.is_relative_to(raw) else ("preprocessed", preprocessed)
    return f"{root}/{path.relative_to(folder).as_posix()}"


def _located(name: str, raw: Path, preprocessed: Path) -> Path:
    root, *parts = Path(name).parts
    if root not in ("raw", "preprocessed") or ".." in parts:
        raise UserError(f"{raw / IN_PLACE} names {name}, which is not in the folders of {raw.name}; nothing was undone.")
    return (raw if root == "raw" else preprocessed).joinpath(*parts)


def _remove_remains(folder: Path) -> None:
    """Remove what a part still wrote when its expansion had been taken back; never a backup."""
    if not (folder / BACKUP).exists():
        shutil.rmtree(folder, ignore_errors=True)


def install_in_place(dataset: NnunetDataset, destination: RawDestination, installed: Installed) -> None:
    """Add accepted cases to ground truth, splits, index and both ``dataset.json`` of the dataset itself."""
    case_ids = [c for ids, _, _ in installed.values() for c in ids]
    copy_ground_truth(destination, case_ids)
    splits = expanded_splits(dataset, installed)
    index_of(dataset.plans_hash(), installed).save(expansion_folder(dataset.preprocessed))
    for folder in (dataset.preprocessed, dataset.raw):
        if folder == dataset.preprocessed or (folder / SPLITS).is_file():
            write_json(folder / SPLITS, splits)
    for folder in destination.data_folders:
        remove_leftovers(folder)
    for folder in (dataset.preprocessed, dataset.raw):
        write_json(folder / "dataset.json", _with_synthetic(read_json(folder / "dataset.json"), dataset, destination, case_ids))


def _with_synthetic(
    dataset_json: dict[str, Any], dataset: NnunetDataset, destination: RawDestination, case_ids: Sequence[str]
) -> dict[str, Any]:
    expanded = {**dataset_json, "numTraining": len(dataset.real_case_ids) + len(case_ids)}
    if "dataset" in dataset_json:
        listed = {
            c: {
                "images": [os.path.relpath(f, dataset.raw) for f in destination.image_files(c)],
                "label": os.path.relpath(destination.label_file(c), dataset.raw),
            }
            for c in case_ids
        }
        expanded["dataset"] = {**dataset_json["dataset"], **listed}  # read afresh: nnU-Net makes listed paths absolute
    return {**expanded, "sbldm": {"source_dataset": dataset.name, "synthetic_cases": list(case_ids)}}


def undo_in_place(raw: Path, preprocessed: Path) -> tuple[int, list[Path]]:
    """Restore a dataset byte for byte as it was before its in-place expansion, finished or not; repeatable if interrupted.

    Returns:
        Number of files removed, and the created folders that stay because they hold files of others.

    Raises:
        UserError: the dataset is not expanded in place, or not all that has to be restored can be.
    """
    folder = raw / IN_PLACE
    manifest = next((folder / name for name in (MANIFEST, UNDOING) if (folder / name).is_file()), None)
    if manifest is None:
        _remove_remains(folder)
        raise UserError(f"{raw.name} is not expanded in place; there is nothing to undo.")
    content = read_json(manifest)
    backups = {_located(name, raw, preprocessed): folder / BACKUP / name for name in content["changed"]}
    created = [_located(name, raw, preprocessed) for name in content["created"]]
    created_folders = [_located(name, raw, preprocessed) for name in content["created_folders"]]
    _refuse_unrestorable(preprocessed, backups.values())
    os.replace(manifest, folder / UNDOING)  # from now on no part writes any more
    removed = _remove_cases(created)
    (expansion_folder(preprocessed) / INDEX_NAME).unlink(missing_ok=True)
    _restore(backups)
    kept = [f for f in created_folders if not _remove_empty(f)]
    with temporary_folder(raw) as tmp:
        os.rename(folder, tmp / IN_PLACE)
    return removed, kept


def _refuse_unrestorable(preprocessed: Path, backups: Iterable[Path]) -> None:
    if not preprocessed.is_dir():
        raise UserError(
            f"There is no {preprocessed} to undo the expansion in: set nnUNet_preprocessed to where it is, or make that folder "
            "if you have deleted it."
        )
    gone = [f for f in backups if not f.is_file()]
    if gone:
        raise UserError(f"{gone[0]}, which has to be restored, is gone; nothing was undone.")


def _remove_cases(files: Sequence[Path]) -> int:
    removed = sum(f.is_file() for f in files)
    for file in files:
        file.unlink(missing_ok=True)
    for folder in {f.parent for f in files}:
        remove_leftovers(folder)
    return removed


def _restore(backups: Mapping[Path, Path]) -> None:
    for file, backup in backups.items():
        copy_file(backup, file)
        if not filecmp.cmp(backup, file, shallow=False):
            raise UserError(f"{file} differs from {backup} after it was restored: check the disk, then undo again.")


def _remove_empty(folder: Path) -> bool:
    """Whether a folder is gone now; one that holds files stays."""
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
    return not folder.exists()


def expand_in_place(
    dataset: NnunetDataset, jobs: Sequence[ExpansionJob], configurations: Sequence[str], settings: ProductionSettings
) -> Outcome:
    """Add synthetic cases to the raw and preprocessed folders of the dataset itself; :func:`undo` takes them out again."""
    views = views_of(dataset, configurations)
    refuse_in_place(jobs, views)
    raw, own = dataset.raw, dataset.raw / IN_PLACE
    records, manifest = own / "provenance", own / MANIFEST
    destination = RawDestination(views, raw / "imagesTr", raw / "labelsTr", records, dataset.preprocessed, manifest)
    still_open = [undecided(job, destination, settings) for job in jobs]
    check_disk(raw, estimate_bytes(dataset, still_open, (), with_raw=True))
    check_disk(dataset.preprocessed, estimate_bytes(dataset, still_open, views, with_raw=False))
    case_ids = [r.case_id for job in jobs for r in job.requests]
    begin_in_place(dataset, destination, request_of(dataset, jobs, configurations, settings), case_ids)
    destinations = [destination] * len(jobs)

    def take_back() -> None:
        if manifest.is_file():  # else it was taken back meanwhile
            undo_in_place(dataset.raw, dataset.preprocessed)

    with giving_up_if_unfit(destination, settings.num_parts, take_back, f"run {undo_command(dataset.name)}"):
        outcome = produce_all(dataset, jobs, destinations, settings, [raw, dataset.preprocessed])
    if outcome.num_open:
        return outcome
    installed = installed_by(jobs, destinations, settings)
    install_in_place(dataset, destination, installed)
    return finished(outcome, installed)


def refuse_in_place(jobs: Sequence[ExpansionJob], views: Sequence[NnunetDataset]) -> None:
    """Refuse what an in-place expansion would break, for the splits of a dataset are those of all its configurations.

    Raises:
        UserError: fold all, or real cases that are preprocessed for other configurations, too.
    """
    if any(job.fold == "all" for job in jobs):
        raise UserError("--in_place cannot serve fold all: stock nnU-Net would validate on the synthetic cases; use --pool.")
    dataset, ours = views[0], [view.data_folder.name for view in views]
    files = [folder / f"{c}.pkl" for c in dataset.real_case_ids[:1] for folder in dataset.preprocessed.iterdir()]
    folders = sorted(f.parent.name for f in files if f.is_file())
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
