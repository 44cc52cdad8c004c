"""The destination ``-o``: a new dataset for any stock trainer; real cases are listed where they are, synthetic ones are added.

Plans and fingerprint are those of the real dataset; its splits get synthetic cases in ``train`` of their fold alone.
Every step is repeatable, and ``dataset.json`` is written last.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nnunetv2.utilities.dataset_name_id_conversion import find_candidate_datasets

from nnunet_sbldm.common.files import copy_file, link_or_copy, read_json, remove_leftovers, write_json
from nnunet_sbldm.data.cases import PREPROCESSED_ENDINGS, refuse_not_preprocessed
from nnunet_sbldm.data.dataset import NnunetDataset
from nnunet_sbldm.data.groups import groups_file
from nnunet_sbldm.data.paths import nnunet_folder, number_of, title_of
from nnunet_sbldm.expansion.destinations import RawDestination, views_of
from nnunet_sbldm.expansion.installed import Installed, copy_ground_truth, expanded_splits, index_of
from nnunet_sbldm.expansion.ledger import ExpansionJob, ProductionSettings
from nnunet_sbldm.expansion.parts import Outcome, finished, giving_up_if_unfit, installed_by, produce_all, request_of
from nnunet_sbldm.expansion.places import expansion_folder
from nnunet_sbldm.expansion.prepare import check_disk, estimate_bytes, undecided
from nnunet_sbldm.types import UserError

FINGERPRINT = "dataset_fingerprint.json"


def refuse_incomplete(views: Sequence[NnunetDataset]) -> None:
    """Refuse a dataset that lacks files which a new dataset takes from it, before the first synthetic case is made.

    Raises:
        UserError: no fingerprint, or real cases without label or preprocessed files.
    """
    source, number = views[0], number_of(views[0].name)
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
    copy_ground_truth(destination, case_ids)
    plans = read_json(dataset.preprocessed / f"{dataset.plans_name}.json")
    write_json(preprocessed / f"{dataset.plans_name}.json", {**plans, "dataset_name": raw.name})
    copy_file(dataset.preprocessed / FINGERPRINT, preprocessed / FINGERPRINT)
    splits = expanded_splits(dataset, installed)
    for folder in (raw, preprocessed):
        write_json(folder / "splits_final.json", splits)
    index_of(dataset.plans_hash(), installed).save(expansion_folder(preprocessed))
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
        "name": title_of(raw.name),
        "numTraining": len(cases),
        "dataset": cases,
        "sbldm": {"source_dataset": dataset.name, "synthetic_cases": list(case_ids)},
    }


MARKER = "sbldm_expansion.json"


def expanded_name(dataset: NnunetDataset, target_id: int) -> str:
    """Name of the new dataset; refuses an id that anything but an expansion of the same dataset uses."""
    if not 1 <= target_id <= 999:
        raise UserError(f"-o takes a dataset id from 1 to 999; got {target_id}.")
    name = f"Dataset{target_id:03d}_{title_of(dataset.name)}SBLDM"
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
    dataset: NnunetDataset,
    jobs: Sequence[ExpansionJob],
    target_id: int,
    configurations: Sequence[str],
    settings: ProductionSettings,
) -> Outcome:
    """Write a new raw and preprocessed dataset: the real cases where they are, and the jobs' synthetic cases.

    ``dataset.json`` is written last; until then nnU-Net finds no dataset under the new id.
    """
    name, views = expanded_name(dataset, target_id), views_of(dataset, configurations)
    refuse_incomplete(views)
    raw, preprocessed = nnunet_folder("nnUNet_raw") / name, nnunet_folder("nnUNet_preprocessed") / name
    own = raw / "synthetic"
    destination = RawDestination(views, own / "images", own / "labels", own / "provenance", preprocessed, raw / MARKER)
    still_open = [undecided(job, destination, settings) for job in jobs]
    check_disk(raw.parent, estimate_bytes(dataset, still_open, (), with_raw=True))
    check_disk(preprocessed.parent, estimate_bytes(dataset, still_open, views, with_raw=False))
    _mark_or_match(raw, request_of(dataset, jobs, configurations, settings))
    destinations = [destination] * len(jobs)

    def take_back() -> None:
        if not (raw / "dataset.json").is_file():
            for folder in (preprocessed, raw):  # the marker last: it makes the id ours
                shutil.rmtree(folder, ignore_errors=True)

    with giving_up_if_unfit(destination, settings.num_parts, take_back, f"delete {raw} and {preprocessed}"):
        outcome = produce_all(dataset, jobs, destinations, settings, [raw, preprocessed])
    if outcome.num_open:
        return outcome
    installed = installed_by(jobs, destinations, settings)
    install_new_dataset(dataset, destination, raw, installed)
    return finished(outcome, installed)


def _mark_or_match(raw: Path, request: dict[str, Any]) -> None:
    if not (raw / MARKER).is_file():
        write_json(raw / MARKER, request)
    elif read_json(raw / MARKER) != request:
        raise UserError(
            f"{raw} holds an expansion with other settings, plans, generators, folds or number of cases; choose another id or "
            "delete that dataset."
        )
