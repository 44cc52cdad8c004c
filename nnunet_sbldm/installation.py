"""Making nnU-Net see synthetic cases: an index for the pool, a new dataset, or the dataset itself (which can be undone).

Plans and fingerprint are those of the real dataset; its splits get synthetic cases in ``train`` of their fold alone.
Every step is repeatable, and ``dataset.json`` of a new dataset is written last.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nnunet_sbldm.destinations import PREPROCESSED_ENDINGS, PoolDestination, RawDestination
from nnunet_sbldm.files import copy_file, link_or_copy, read_json, remove_leftovers, write_json
from nnunet_sbldm.folds import CaseFingerprint
from nnunet_sbldm.groups import groups_file
from nnunet_sbldm.nnunet import Fold, NnunetDataset, splits_of
from nnunet_sbldm.pool import expansion_folder
from nnunet_sbldm.provenance import INDEX_NAME, SyntheticIndex
from nnunet_sbldm.types import UserError

IN_PLACE = "sbldm_in_place"
"""Folder in a raw dataset that holds what undoing an in-place expansion needs."""

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


def install_new_dataset(dataset: NnunetDataset, destination: RawDestination, raw: Path, installed: Installed) -> None:
    """Complete a new dataset: real cases, ground truth, plans, fingerprint, splits, index, and ``dataset.json`` last."""
    preprocessed, case_ids = destination.preprocessed, [c for ids, _, _ in installed.values() for c in ids]
    _link_real_cases(destination.views, preprocessed)
    _copy_ground_truth(destination, case_ids)
    plans = read_json(dataset.preprocessed / f"{dataset.plans_name}.json")
    write_json(preprocessed / f"{dataset.plans_name}.json", {**plans, "dataset_name": raw.name})
    copy_file(dataset.preprocessed / "dataset_fingerprint.json", preprocessed / "dataset_fingerprint.json")
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


def begin_in_place(dataset: NnunetDataset, destination: RawDestination, request: dict[str, Any], case_ids: Sequence[str]) -> None:
    """Keep what undoing needs, before the first file of the dataset is touched; a repeated call must be the same request."""
    folder = dataset.raw / IN_PLACE
    manifest = folder / "manifest.json"
    if manifest.is_file():
        if read_json(manifest)["request"] != request:
            raise UserError(
                f"{dataset.name} is already expanded in place by another request: undo it first with "
                f"sbldm_expand_dataset -d {int(dataset.name[7:10])} --undo."
            )
        return
    changed = [f for f in _changed_files(dataset) if f.is_file()]
    for i, file in enumerate(changed):
        copy_file(file, folder / "backup" / f"{i}_{file.name}")
    created = [str(f) for c in case_ids for f in destination.files(c)]
    missing = [str(f) for f in destination.data_folders if not f.exists()]
    write_json(
        manifest,
        {"request": request, "changed": [str(f) for f in changed], "created": created, "created_folders": missing},
    )
    announced = {"source_dataset": dataset.name, "synthetic_cases": list(case_ids)}  # no longer real to us, from now on
    write_json(dataset.raw / "dataset.json", {**dataset.dataset_json, "sbldm": announced})


def _changed_files(dataset: NnunetDataset) -> list[Path]:
    """Files of the dataset that an in-place expansion rewrites."""
    return [folder / name for folder in (dataset.raw, dataset.preprocessed) for name in ("dataset.json", "splits_final.json")]


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


def undo_in_place(raw: Path, preprocessed: Path) -> int:
    """Restore a dataset byte for byte as it was before its in-place expansion, finished or not.

    Returns:
        Number of files removed.

    Raises:
        UserError: the dataset is not expanded in place.
    """
    folder = raw / IN_PLACE
    if not (folder / "manifest.json").is_file():
        shutil.rmtree(folder, ignore_errors=True)
        raise UserError(f"{raw.name} is not expanded in place; there is nothing to undo.")
    manifest = read_json(folder / "manifest.json")
    for i, name in enumerate(manifest["changed"]):
        copy_file(folder / "backup" / f"{i}_{Path(name).name}", Path(name))
    (expansion_folder(preprocessed) / INDEX_NAME).unlink(missing_ok=True)
    removed = 0
    for name in manifest["created"]:
        removed += Path(name).is_file()
        Path(name).unlink(missing_ok=True)
    for data_folder in {Path(name).parent for name in manifest["created"]}:
        if data_folder.is_dir():
            remove_leftovers(data_folder)
    for name in manifest["created_folders"]:
        if Path(name).is_dir():
            Path(name).rmdir()
    (folder / "manifest.json").unlink()
    shutil.rmtree(folder)
    return removed
