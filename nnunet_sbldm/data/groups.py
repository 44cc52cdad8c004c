"""Patient groups: which cases are scans of one patient, as the user says once and every later command knows.

They lie beside the preprocessed data (``sbldm/groups.json``) and become part of every case's fingerprint, so that the
fold rule treats two scans of one patient as one case.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_sbldm.common.files import read_json, read_user_json, write_json
from nnunet_sbldm.common.text import named
from nnunet_sbldm.data.folds import MAX_CASES_NAMED, CaseFingerprint, with_groups
from nnunet_sbldm.types import UserError

if TYPE_CHECKING:
    from nnunet_sbldm.data.dataset import NnunetDataset


def groups_file(preprocessed: Path) -> Path:
    """Where the groups of a dataset are remembered, given its folder below ``nnUNet_preprocessed``."""
    return preprocessed / "sbldm" / "groups.json"


def with_remembered_groups(cases: Iterable[CaseFingerprint], dataset: NnunetDataset) -> tuple[CaseFingerprint, ...]:
    """Cases that a generator has seen, with the patients of a dataset, which may have been named since it was trained."""
    return with_groups(cases, remembered_groups(dataset.preprocessed))


def remembered_groups(preprocessed: Path) -> dict[str, str]:
    """Case id -> patient, as last given by the user; empty if never."""
    file = groups_file(preprocessed)
    return read_json(file) if file.is_file() else {}


def remember_groups(dataset: NnunetDataset, file: Path) -> dict[str, str]:
    """Check a user's ``groups.json`` (an object, case id -> patient) and keep it beside the preprocessed data.

    Returns:
        The groups.

    Raises:
        UserError: unreadable, a patient that is no text, a case the dataset does not have, a real case left out.
    """
    groups = read_groups(file, "-groups")
    real = set(dataset.real_case_ids)
    unknown, missing = sorted(groups.keys() - real), sorted(real - groups.keys())
    if unknown:
        listed = named(unknown, MAX_CASES_NAMED)
        raise UserError(f"-groups {file} names {listed}, which {dataset.name} does not have as real cases.")
    if missing:
        listed = named(missing, MAX_CASES_NAMED)
        raise UserError(f"-groups {file} gives no patient for {listed}; it must name every real case of {dataset.name}.")
    if groups != remembered_groups(dataset.preprocessed):
        write_json(groups_file(dataset.preprocessed), groups)
    return groups


def read_groups(file: Path, option: str) -> dict[str, str]:
    """Case id -> patient, from a JSON file that a user named with ``option``.

    Raises:
        UserError: unreadable, no object, a patient that is no text.
    """
    value, where = read_user_json(file, option), f"{option} {file}"
    if not isinstance(value, dict):
        raise UserError(f'{where} must hold an object, case id to patient, such as {{"case_1": "patient_1"}}.')
    bad = [c for c, patient in value.items() if not isinstance(patient, str) or not patient.strip()]
    if bad:
        raise UserError(f"{where}: the patient of {bad[0]} must be a text that is not empty; got {value[bad[0]]!r}.")
    return value


def group_of(case_id: str, groups: dict[str, str], dataset_name: str) -> str:
    """Patient of a case, empty if the dataset has no groups at all.

    Raises:
        UserError: the dataset has groups, but none for this case (it was added later).
    """
    if groups and case_id not in groups:
        raise UserError(
            f"Case {case_id} of {dataset_name} is in no patient group, though others are: give -groups again, with every case."
        )
    return groups.get(case_id, "")
