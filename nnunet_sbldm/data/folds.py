"""The fold rule: which synthetic cases may be trained on in which fold.

A synthetic case inherits the list of real cases that any part of its generator has seen. It may be in
``train`` of a fold if and only if that list meets the fold's ``val`` nowhere, neither by case id nor by
content nor by patient. Synthetic cases are never in ``val``.

A generator that is shared names its cases as salted hashes: nobody can read them, but whoever has a case can tell whether
it was among them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from nnunet_sbldm.common.text import named
from nnunet_sbldm.types import UserError

MAX_CASES_NAMED = 20
ID, IMAGE, LABEL, PATIENT = "case id", "image content", "label content", "patient"
"""What a case is recognised by."""
UNNAMED = "one of its training cases"


@dataclass(frozen=True)
class CaseFingerprint:
    """How a real case is recognised.

    Attributes:
        case_id: identifier in its dataset.
        image_hashes: one content hash per channel; constant channels are left out.
        label_hash: content hash of the label map; empty if it has no foreground.
        group: patient it is a scan of, where the user says so; else empty.
        salt: where it is not empty, all of the above are :func:`salted_digest` of what they would be.
    """

    case_id: str
    image_hashes: tuple[str, ...] = ()
    label_hash: str = ""
    group: str = ""
    salt: str = ""

    def salted(self, salt: str) -> CaseFingerprint:
        """The same case, recognisable but unreadable; a case that is already salted stays as it is."""
        if self.salt:
            return self
        hashes = tuple(salted_digest(salt, IMAGE, h) for h in self.image_hashes)
        label, group = (v and salted_digest(salt, k, v) for k, v in ((LABEL, self.label_hash), (PATIENT, self.group)))
        return CaseFingerprint(salted_digest(salt, ID, self.case_id), hashes, label, group, salt)

    def to_json(self) -> dict[str, Any]:
        """Plain dictionary."""
        return {k: v for k, v in asdict(self).items() if k != "salt" or v}

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> CaseFingerprint:
        """Inverse of :meth:`to_json`; lists written before there were groups have none."""
        group, salt = value.get("group", ""), value.get("salt", "")
        return CaseFingerprint(value["case_id"], tuple(value["image_hashes"]), value["label_hash"], group, salt)


def salted_digest(salt: str, kind: str, value: str) -> str:
    """What a fingerprint with ``salt`` holds in place of ``value``; the value itself where there is no salt."""
    return hashlib.sha256("\0".join((salt, kind, value)).encode()).hexdigest() if salt else value


@dataclass(frozen=True)
class Leak:
    """A validation case that the generator has seen, itself or in another scan of its patient, and how it was recognised.

    Attributes:
        validation_case: its id.
        seen_case: id of what the generator has seen; ``UNNAMED`` if that is salted and has another id.
        reason: what they have in common.
    """

    validation_case: str
    seen_case: str
    reason: str

    def __str__(self) -> str:
        if self.validation_case == self.seen_case:
            return f"{self.validation_case} (same {self.reason})"
        return f"{self.validation_case} (same {self.reason} as {self.seen_case})"


def find_leaks(seen: Iterable[CaseFingerprint], validation: Iterable[CaseFingerprint]) -> list[Leak]:
    """Every validation case that ``seen`` contains, by id, by any image channel, by label map, or by patient.

    Ids are compared whole: ``case_1`` does not match ``case_10``.

    Args:
        seen: plain or salted, by one salt or several.
        validation: plain.
    """
    by_key: dict[tuple[str, str, str], CaseFingerprint] = {}
    for case in seen:
        for kind, value in _keys(case):
            by_key.setdefault((case.salt, kind, value), case)
    salts = sorted({salt for salt, _, _ in by_key})
    leaks = []
    for case in validation:
        keys = ((salt, kind, salted_digest(salt, kind, value)) for kind, value in _keys(case) for salt in salts)
        hit = next((key for key in keys if key in by_key), None)
        if hit is not None:
            leaks.append(Leak(case.case_id, _name_of(by_key[hit], case.case_id), hit[1]))
    return leaks


def find_copies(cases: Iterable[CaseFingerprint], held_out: Iterable[CaseFingerprint]) -> dict[str, str]:
    """Every one of ``cases`` that is among ``held_out``, itself, by content or by patient: id -> how it was recognised.

    Of several copies of one validation case :func:`find_leaks` names one; here all are found.
    """
    return {leak.validation_case: str(leak) for leak in find_leaks(held_out, cases)}


def _keys(case: CaseFingerprint) -> list[tuple[str, str]]:
    keys = [(ID, case.case_id), *((IMAGE, h) for h in case.image_hashes), (LABEL, case.label_hash), (PATIENT, case.group)]
    return [(kind, value) for kind, value in keys if value]


def _name_of(seen: CaseFingerprint, case_id: str) -> str:
    """What a person can read as the name of a seen case, given the id of the case that it was recognised by."""
    if not seen.salt:
        return seen.case_id
    return case_id if seen.case_id == salted_digest(seen.salt, ID, case_id) else UNNAMED


def names_of(seen: Iterable[CaseFingerprint], case_ids: Iterable[str]) -> list[str]:
    """Those of ``case_ids`` that ``seen`` names, plainly or salted; in the order of ``seen``, each once."""
    seen, case_ids = list(seen), list(case_ids)
    known = _by_salted_id({c.salt for c in seen}, case_ids)
    return list(dict.fromkeys(known[c.salt, c.case_id] for c in seen if (c.salt, c.case_id) in known))


def _by_salted_id(salts: Iterable[str], case_ids: Iterable[str]) -> dict[tuple[str, str], str]:
    """(salt, id as a fingerprint with that salt has it) -> id."""
    case_ids = list(case_ids)
    return {(salt, salted_digest(salt, ID, c)): c for salt in salts for c in case_ids}


def with_groups(cases: Iterable[CaseFingerprint], groups: Mapping[str, str]) -> tuple[CaseFingerprint, ...]:
    """The same cases with the patients that ``groups`` (case id -> patient) knows; others keep what they have.

    A generator trained before the user named the patients has seen them all the same.
    """
    cases = list(cases)
    known = _by_salted_id({c.salt for c in cases}, (c for c, group in groups.items() if group))

    def with_group(case: CaseFingerprint) -> CaseFingerprint:
        case_id = known.get((case.salt, case.case_id))
        return replace(case, group=salted_digest(case.salt, PATIENT, groups[case_id])) if case_id is not None else case

    return tuple(with_group(c) for c in cases)


def without_patients_of_val(train: Iterable[str], val: Iterable[str], groups: Mapping[str, str]) -> list[str]:
    """Those cases of ``train`` that are no scan of a patient in ``val``: what a generator of that fold may see."""
    held_out = {groups[c] for c in val if groups.get(c)}
    return [c for c in train if groups.get(c) not in held_out]


def refuse_leaks(seen: Iterable[CaseFingerprint], validation: Iterable[CaseFingerprint], fold: int | str) -> None:
    """Raise a :class:`UserError` that names the offending cases if the generator has seen ``validation``."""
    leaks = find_leaks(seen, validation)
    if leaks:
        listed = named([str(leak) for leak in leaks], MAX_CASES_NAMED)
        raise UserError(
            f"Fold {fold}: the generator was trained on {len(leaks)} of this fold's validation cases: {listed}. "
            f"Its synthetic cases would leak them into training; train a generator for this fold (sbldm_train -f {fold})."
        )


def guard_split(
    train: Sequence[str],
    val: Sequence[str],
    synthetic: Mapping[str, Sequence[CaseFingerprint]],
    fingerprints: Mapping[str, CaseFingerprint],
    fold: int | str,
) -> tuple[list[str], list[str]]:
    """Apply the fold rule to a split that nnU-Net proposes.

    Args:
        train: case ids proposed for training, real and synthetic.
        val: case ids proposed for validation, real and synthetic.
        synthetic: for each synthetic id, the real cases its generator has seen.
        fingerprints: content and patient of the real cases; those missing are compared by id alone.
        fold: fold number or ``"all"``; for ``"all"`` nothing is held out, so nothing can leak.

    Returns:
        The same split without any synthetic case in ``val``.

    Raises:
        UserError: a synthetic case in ``train`` comes from a generator that has seen a case of ``val``.
    """
    real_val = [c for c in val if c not in synthetic]
    if fold != "all":
        held_out = [fingerprints.get(c, CaseFingerprint(c)) for c in real_val]
        groups = {c: f.group for c, f in fingerprints.items()}
        for seen in {id(s): s for c in train if (s := synthetic.get(c)) is not None}.values():
            refuse_leaks(with_groups(seen, groups), held_out, fold)
    return list(train), real_val
