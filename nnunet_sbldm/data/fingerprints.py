"""Fingerprints of cases: the id and a hash of the content, remembered between commands; what the fold rule compares."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from nnunet_sbldm.common.files import read_json, sha256_of_array, size_and_time, write_json
from nnunet_sbldm.data.cases import read_case
from nnunet_sbldm.data.dataset import NnunetDataset
from nnunet_sbldm.data.folds import CaseFingerprint
from nnunet_sbldm.data.groups import group_of, remembered_groups
from nnunet_sbldm.types import Case, UserError


def known_case_ids(dataset: NnunetDataset) -> list[str]:
    """Ids of all cases of a dataset, those with raw files and those that are preprocessed alone."""
    return sorted({*dataset.case_files, *(f.stem for f in dataset.data_folder.glob("*.pkl"))})


def fingerprint_of(case: Case) -> CaseFingerprint:
    """Content hashes of a raw case."""
    images = tuple(sha256_of_array(c) for c in case.image if c.min() != c.max())
    label = sha256_of_array(case.label) if (case.label > 0).any() else ""
    return CaseFingerprint(case.case_id, images, label)


def fingerprints_of(dataset: NnunetDataset, case_ids: Iterable[str]) -> dict[str, CaseFingerprint]:
    """Content hashes of real cases, remembered beside the preprocessed data while the raw files stay as they are.

    Their patients are those last given with ``-groups``; they are not part of what is remembered of the content.
    """
    groups = remembered_groups(dataset.preprocessed)
    cache_file = dataset.preprocessed / "sbldm" / "content_hashes.json"
    cache = read_json(cache_file) if cache_file.is_file() else {}
    found, changed = {}, False
    for case_id in case_ids:
        stamp = _stamp(dataset, case_id)
        entry = cache.get(case_id)
        if entry is None or entry["stamp"] != stamp:
            entry = {"stamp": stamp, **fingerprint_of(read_case(dataset, case_id)).to_json()}
            cache[case_id], changed = entry, True
        found[case_id] = replace(CaseFingerprint.from_json(entry), group=group_of(case_id, groups, dataset.name))
    if changed:
        write_json(cache_file, cache)
    return found


def remembered_fingerprints(preprocessed: Path) -> dict[str, CaseFingerprint]:
    """Content hashes and patients that earlier commands stored beside preprocessed data (empty if none did)."""
    groups = remembered_groups(preprocessed)
    cache_file = preprocessed / "sbldm" / "content_hashes.json"
    cache = read_json(cache_file) if cache_file.is_file() else {}
    by_group = {case_id: CaseFingerprint(case_id, group=group) for case_id, group in groups.items()}
    by_content = {c: replace(CaseFingerprint.from_json(entry), group=groups.get(c, "")) for c, entry in cache.items()}
    return by_group | by_content


def _stamp(dataset: NnunetDataset, case_id: str) -> list[list[int]]:
    files = dataset.case_files[case_id]
    try:
        return [list(size_and_time(f)) for f in [*files["images"], files["label"]]]
    except FileNotFoundError as e:
        raise UserError(f"Case {case_id} of {dataset.name} has no {e.filename}; put that file back.") from None
