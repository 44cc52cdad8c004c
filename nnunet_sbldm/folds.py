"""The fold rule: which synthetic cases may be trained on in which fold.

A synthetic case inherits the list of real cases that any part of its generator has seen. It may be in
``train`` of a fold if and only if that list meets the fold's ``val`` nowhere, neither by case id nor by
content nor by patient. Synthetic cases are never in ``val``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from nnunet_sbldm.types import UserError

MAX_CASES_NAMED = 20


@dataclass(frozen=True)
class CaseFingerprint:
    """How a real case is recognised.

    Attributes:
        case_id: identifier in its dataset.
        image_hashes: one content hash per channel; constant channels are left out.
        label_hash: content hash of the label map; empty if it has no foreground.
        group: patient it is a scan of, where the user says so; else empty.
    """

    case_id: str
    image_hashes: tuple[str, ...] = ()
    label_hash: str = ""
    group: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain dictionary."""
        return asdict(self)

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> CaseFingerprint:
        """Inverse of :meth:`to_json`; lists written before there were groups have none."""
        return CaseFingerprint(value["case_id"], tuple(value["image_hashes"]), value["label_hash"], value.get("group", ""))


@dataclass(frozen=True)
class Leak:
    """A validation case that the generator has seen, itself or in another scan of its patient, and how it was recognised."""

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
    """
    by_key: dict[tuple[str, str], str] = {}
    for case in seen:
        for key in _keys(case):
            by_key.setdefault(key, case.case_id)
    leaks = []
    for case in validation:
        hit = next((key for key in _keys(case) if key in by_key), None)
        if hit is not None:
            leaks.append(Leak(case.case_id, by_key[hit], hit[0]))
    return leaks


def _keys(case: CaseFingerprint) -> list[tuple[str, str]]:
    keys = [("case id", case.case_id)]
    keys += [("image content", h) for h in case.image_hashes]
    if case.label_hash:
        keys.append(("label content", case.label_hash))
    if case.group:
        keys.append(("patient", case.group))
    return keys


def with_groups(cases: Iterable[CaseFingerprint], groups: Mapping[str, str]) -> tuple[CaseFingerprint, ...]:
    """The same cases with the patients that ``groups`` (case id -> patient) knows; others keep what they have.

    A generator trained before the user named the patients has seen them all the same.
    """
    return tuple(replace(c, group=groups[c.case_id]) if groups.get(c.case_id) else c for c in cases)


def without_patients_of_val(train: Iterable[str], val: Iterable[str], groups: Mapping[str, str]) -> list[str]:
    """Those cases of ``train`` that are no scan of a patient in ``val``: what a generator of that fold may see."""
    held_out = {groups[c] for c in val if groups.get(c)}
    return [c for c in train if groups.get(c) not in held_out]


def refuse_leaks(seen: Iterable[CaseFingerprint], validation: Iterable[CaseFingerprint], fold: int | str) -> None:
    """Raise a :class:`UserError` that names the offending cases if the generator has seen ``validation``."""
    leaks = find_leaks(seen, validation)
    if leaks:
        named = ", ".join(str(leak) for leak in leaks[:MAX_CASES_NAMED])
        more = f" and {len(leaks) - MAX_CASES_NAMED} more" if len(leaks) > MAX_CASES_NAMED else ""
        raise UserError(
            f"Fold {fold}: the generator was trained on {len(leaks)} of this fold's validation cases: {named}{more}. "
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
