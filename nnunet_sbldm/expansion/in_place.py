"""Making nnU-Net see synthetic cases: an index for the pool, a new dataset, or the dataset itself (which can be undone).

Plans and fingerprint are those of the real dataset; its splits get synthetic cases in ``train`` of their fold alone.
Every step is repeatable, and ``dataset.json`` of a new dataset is written last.
"""

from __future__ import annotations

import filecmp
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nnunet_sbldm.common.files import copy_file, link_or_copy, read_json, remove_leftovers, temporary_folder, write_json
from nnunet_sbldm.data.dataset import PREPROCESSED_ENDINGS, Fold, NnunetDataset, refuse_not_preprocessed, splits_of
from nnunet_sbldm.data.folds import CaseFingerprint
from nnunet_sbldm.data.groups import groups_file
from nnunet_sbldm.expansion.destinations import PoolDestination, RawDestination
from nnunet_sbldm.expansion.places import expansion_folder
from nnunet_sbldm.generator.records import INDEX_NAME, SyntheticIndex
from nnunet_sbldm.types import UserError

FINGERPRINT = "dataset_fingerprint.json"

IN_PLACE = "sbldm_in_place"
"""Folder in a raw dataset that holds what undoing an in-place expansion needs."""

MANIFEST = "manifest.json"
UNDOING = "undoing.json"
"""Name of the manifest from the moment that its expansion is undone."""

BACKUP = "backup"

Installed = Mapping[Fold, tuple[Sequence[str], str, Sequence[CaseFingerprint]]]
"""For each fold: ids of its accepted cases, hash of their generator, the real cases that generator has seen."""


def _index(plans_hash: str, installed: Installed) -> SyntheticIndex:
    index = SyntheticIndex(plans_hash)
    for case_ids, generator_hash, seen in installed.values():
        index.add(case_ids, generator_hash, seen)
    return index


def _expanded_splits(dataset: NnunetDataset, installed: Installed) -> list[dict[str, list[str]]]:
    splits = splits_of(dataset)
    for fold, (case_ids, _, _) in installed.items():
        if fold != "all":
            splits[int(fold)]["train"] += case_ids
    return splits


def _copy_ground_truth(destination: RawDestination, case_ids: Sequence[str]) -> None:
    for case_id in case_ids:
        label = destination.label_file(case_id)
        copy_file(label, destination.preprocessed / "gt_segmentations" / label.name)


# --- the pool ------------------------------------------------------------------------------------------------------


def install_pool(destination: PoolDestination, installed: Installed) -> list[Path]:
    """Write the index of every pool; returns the pool folders."""
    folders = []
    for view in destination.views:
        _index(view.plans_hash(), installed).save(destination.folder(view))
        remove_leftovers(destination.cases_folder(view))
        folders.append(destination.folder(view))
    return folders


# --- a new dataset -------------------------------------------------------------------------------------------------


def refuse_incomplete(views: Sequence[NnunetDataset]) -> None:
    """Refuse a dataset that lacks files which a new dataset takes from it, before the first synthetic case is made.

    Raises:
        UserError: no fingerprint, or real cases without label or preprocessed files.
    """
    source, number = views[0], int(views[0].name[7:10])
    if not (source.preprocessed / FINGERPRINT).is_file():
        raise UserError(f"{source.preprocessed / FINGERPRINT} is missing: run nnUNetv2_extract_fingerprint -d {number}.")
    unlabelled = [c for c in source.real_case_ids if not Path(source.case_files[c]["label"]).is_file()]
    if unlabelled:
        raise UserError(f"{len(unlabelled)} real case(s) of {source.name} ({unlabelled[0]}) have no label file.")
    for view in views:
        refuse_not_preprocessed(view, view.real_case_ids)


def install_new_dataset(dataset: NnunetDataset, destination: RawDestination, raw: Path, installed: Installed) -> None:
    """Complete a new dataset: real cases, ground truth, plans, fingerprint, splits, index, and ``dataset.json`` last."""
    preprocessed, case_ids = destination.preprocessed, [c for ids, _, _ in installed.values() for c in ids]
    _link_real_cases(destination.views, preprocessed)
    _copy_ground_truth(destination, case_ids)
    plans = read_json(dataset.preprocessed / f"{dataset.plans_name}.json")
    write_json(preprocessed / f"{dataset.plans_name}.json", {**plans, "dataset_name": raw.name})
    copy_file(dataset.preprocessed / FINGERPRINT, preprocessed / FINGERPRINT)
    splits = _expanded_splits(dataset, installed)
    for folder in (raw, preprocessed):
        write_json(folder / "splits_final.json", splits)
    _index(dataset.plans_hash(), installed).save(expansion_folder(preprocessed))
    if groups_file(dataset.preprocessed).is_file():
        copy_file(groups_file(dataset.preprocessed), groups_file(preprocessed))
    for folder in destination.data_folders:
        remove_leftovers(folder)
    dataset_json = _listed_dataset_json(dataset, destination, case_ids, raw)
    for folder in (preprocessed, raw):
        write_json(folder / "dataset.json", dataset_json)


def _link_real_cases(views: Sequence[NnunetDataset], preprocessed: Path) -> None:
    """Hard-link (or copy) the real preprocessed files; ground truth is copied, for nnU-Net rewrites it in place."""
    for view in views:
        for case_id in view.real_case_ids:
            for ending in PREPROCESSED_ENDINGS:
                file = f"{case_id}{ending}"
                link_or_copy(view.data_folder / file, preprocessed / view.config.data_identifier / file)
    source = views[0]
    for case_id in source.real_case_ids:
        label = Path(source.case_files[case_id]["label"])
        copy_file(label, preprocessed / "gt_segmentations" / f"{case_id}{source.dataset_json['file_ending']}")


def _listed_dataset_json(
    dataset: NnunetDataset, destination: RawDestination, case_ids: Sequence[str], raw: Path
) -> dict[str, Any]:
    """The real ``dataset.json`` with every case listed: real files where they are, synthetic ones in the new folder."""

    def entry(images: Sequence[str | Path], label: str | Path) -> dict[str, Any]:
        return {"images": [os.path.relpath(f, raw) for f in images], "label": os.path.relpath(label, raw)}

    cases = {c: entry(dataset.case_files[c]["images"], dataset.case_files[c]["label"]) for c in dataset.real_case_ids}
    cases |= {c: entry(destination.image_files(c), destination.label_file(c)) for c in case_ids}
    return {
        **dataset.dataset_json,
        "name": raw.name.split("_", 1)[1],
        "numTraining": len(cases),
        "dataset": cases,
        "sbldm": {"source_dataset": dataset.name, "synthetic_cases": list(case_ids)},
    }


# --- in place ------------------------------------------------------------------------------------------------------


def undo_command(name: str) -> str:
    """The command that takes the in-place expansion of a dataset back."""
    return f"sbldm_expand_dataset -d {int(name[7:10])} --undo"


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
    announced = {"source_dataset": dataset.name, "synthetic_cases": list(case_ids)}  # no longer real to us, from now on
    for folder in (dataset.raw, dataset.preprocessed):
        content = read_json(folder / "dataset.json")
        if "sbldm" not in content:
            write_json(folder / "dataset.json", {**content, "sbldm": announced})


def _refuse_unsuited(dataset: NnunetDataset, manifest: Path) -> None:
    files = [dataset.raw / "dataset.json", dataset.preprocessed / "dataset.json"]
    if not files[1].is_file():
        raise UserError(f"{files[1]} is missing: run nnUNetv2_plan_and_preprocess -d {int(dataset.name[7:10])} again.")
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
    candidates = [folder / name for folder in (raw, preprocessed) for name in ("dataset.json", "splits_final.json")]
    changed = [_portable(f, raw, preprocessed) for f in candidates if f.is_file()]
    created = [_portable(f, raw, preprocessed) for c in case_ids for f in destination.files(c)]
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
    _copy_ground_truth(destination, case_ids)
    splits = _expanded_splits(dataset, installed)
    _index(dataset.plans_hash(), installed).save(expansion_folder(dataset.preprocessed))
    for folder in (dataset.preprocessed, dataset.raw):
        if folder == dataset.preprocessed or (folder / "splits_final.json").is_file():
            write_json(folder / "splits_final.json", splits)
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
