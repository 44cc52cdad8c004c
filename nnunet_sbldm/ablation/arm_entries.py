"""Arms as a study's file gives them: a name, or a name with keys, of which several ratios are several arms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from nnunet_sbldm.ablation.arms import ARM_KINDS, RATIO, REFERENCE, Arm, ArmKind
from nnunet_sbldm.common.validation import checked, refuse_null, refuse_unknown
from nnunet_sbldm.types import UserError


def read_arms(entries: Any, where: str) -> tuple[Arm, ...]:
    """The arms of a study.

    Args:
        entries: as YAML gave them.
        where: name of the file.

    Raises:
        UserError: no list, unknown arm or key, a bad value, two arms of one name, no ``real_only``.
    """
    if not isinstance(entries, list) or not entries:
        raise UserError(f"{where}: arms must be a list of arms ({', '.join(ARM_KINDS)}); got {entries!r}.")
    arms = [arm for entry in entries for arm in _read_entry(entry, where)]
    _refuse_bad_names(arms, where)
    if not any(arm.definition.is_reference for arm in arms):
        raise UserError(f"{where}: the arm {REFERENCE} is missing; all others are compared with it.")
    idle = [arm.name for arm in arms if arm.definition.ratio is not None and arm.ratio == 0]
    if idle:
        raise UserError(f"{where}: the arm {idle[0]} has ratio 0, which is {REFERENCE}; leave it out.")
    return tuple(arms)


def _read_entry(entry: Any, where: str) -> list[Arm]:
    """The arms of one entry: ``real_only``, or ``{sbldm: {ratio: [0.25, 0.5]}}``, which are two."""
    kind = _kind_of(entry, where)
    given = _options(kind, entry, where)
    ratios = _ratios(kind, given, where)
    if "name" in given and len(ratios) > 1:
        raise UserError(f"{where}: the arm {kind.name} has several ratios and one name {given['name']!r}; leave the name out.")
    common = {"kind": kind.name, "name": kind.name, **given, **kind.fixed}
    arms = [checked(Arm, {**common, "ratio": ratio}, f"{where}, arm {kind.name}") for ratio in ratios]
    return arms if "name" in given else [replace(arm, name=kind.default_name(arm)) for arm in arms]


def _kind_of(entry: Any, where: str) -> ArmKind:
    name = next(iter(entry)) if isinstance(entry, Mapping) and len(entry) == 1 else entry
    if not isinstance(name, str):
        raise UserError(f"{where}: an arm is a name such as {REFERENCE}, or a name with keys such as sbldm: {{ratio: 0.5}}; "
                        f"got {entry!r}.")
    refuse_unknown(name, list(ARM_KINDS), f"{where}: the arm")
    return ARM_KINDS[name]


def _options(kind: ArmKind, entry: Any, where: str) -> dict[str, Any]:
    given = (entry[kind.name] if isinstance(entry, Mapping) else None) or {}
    if given and not kind.options:
        raise UserError(f"{where}: the arm {kind.name} has no keys; got {given!r}.")
    if not isinstance(given, Mapping):
        raise UserError(f"{where}, arm {kind.name} holds keys and values such as {kind.options[0]}: ...; got {given!r}.")
    for key in given:
        refuse_unknown(key, kind.options, f"{where}, arm {kind.name}: the key")
    refuse_null(given, f"{where}, arm {kind.name}")
    for key, meaning in kind.required.items():
        if key not in given:
            raise UserError(f"{where}: the arm {kind.name} needs {key}, {meaning}.")
    return dict(given)


def _ratios(kind: ArmKind, given: Mapping[str, Any], where: str) -> list[Any]:
    ratio = given.get("ratio", kind.ratio or 0.0)
    ratios = ratio if isinstance(ratio, list) else [ratio]
    if not ratios or _twice(ratios):
        raise UserError(f"{where}, arm {kind.name}: ratio must be {RATIO}; got {ratio!r}.")
    return ratios


def _refuse_bad_names(arms: Sequence[Arm], where: str) -> None:
    twice = _twice([arm.name for arm in arms])
    if twice:
        raise UserError(f"{where}: two arms are called {twice[0]}; give one of them another name.")
    faults = [fault for arm in arms if (fault := arm.name_fault())]
    if faults:
        raise UserError(f"{where}: {faults[0]}")


def _twice(values: Sequence[Any]) -> list[Any]:
    return [value for i, value in enumerate(values) if value in values[:i]]
