"""``spec.json``: which synthetic cases a user asks for, entry by entry, read and checked before anything is made.

A list of objects. ``count`` is required; everything else is optional and describes one label::

    [{"count": 20, "label": "core", "volume_ml": [2, 15]},
     {"count": 5, "label": 3, "volume_ml": 40, "centroid": [0.3, 0.5, 0.6]},
     {"count": 3, "label": "core", "presence": false}]
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_sbldm.common.files import read_user_json
from nnunet_sbldm.types import UserError


@dataclass(frozen=True)
class SpecEntry:
    """What some synthetic cases shall be like; whatever is None is left to the condition model.

    Attributes:
        count: how many cases.
        label: name or number of the label that the rest describes; None is the first.
        presence: whether the label is there; describing it in any other way asks for its presence.
        volume_ml: range of its volume; each case draws its own, log-uniformly. Equal ends give that volume.
        centroid: its centre along x, y, z of the file, as fractions of the imaged anatomy.
        extent_mm: its extent along x, y, z of the file.
        sphericity: surface of the ball of equal volume over its surface, 0 to 1.
        num_components: number of its connected components.
    """

    count: int = 1
    label: str | None = None
    presence: bool | None = None
    volume_ml: tuple[float, float] | None = None
    centroid: tuple[float, float, float] | None = None
    extent_mm: tuple[float, float, float] | None = None
    sphericity: float | None = None
    num_components: int | None = None

    def describes(self) -> list[str]:
        """Names of the fields, other than count, label and presence, that are given."""
        fields = ("volume_ml", "centroid", "extent_mm", "sphericity", "num_components")
        return [f for f in fields if getattr(self, f) is not None]


def read_spec(file: Path) -> tuple[SpecEntry, ...]:
    """Read and check a whole ``spec.json``; label names are checked later, against a generator.

    Raises:
        UserError: unreadable, or the first entry (counted from 1) that is wrong, and how.
    """
    value = read_user_json(file, "-spec")
    if not isinstance(value, list) or not value:
        raise UserError(f"-spec {file} must hold a list of at least one entry, such as [{{\"count\": 10, \"volume_ml\": 5}}].")
    return tuple(read_entry(entry, f"-spec {file}, entry {number}") for number, entry in enumerate(value, 1))


def read_entry(value: Any, where: str) -> SpecEntry:
    """One entry, checked.

    Args:
        value: an object with the fields of :class:`SpecEntry`; ``count`` is required.
        where: begins the sentence of a refusal.

    Raises:
        UserError: what is wrong with it.
    """
    if not isinstance(value, dict):
        raise UserError(f'{where}: expected an object such as {{"count": 10}}; got {json.dumps(value)}.')
    for key in value:
        if key not in _FIELDS:
            nearest = difflib.get_close_matches(key, _FIELDS, 1, cutoff=0)
            raise UserError(f"{where}: unknown key {key!r}, did you mean {nearest[0]!r}? Valid are {', '.join(_FIELDS)}.")
    if "count" not in value:
        raise UserError(f"{where}: count is missing; it says how many cases to make.")
    entry = SpecEntry(**{key: _read_field(key, v, where) for key, v in value.items()})
    if entry.presence is False and entry.describes():
        raise UserError(f"{where}: an absent label (presence false) has no {entry.describes()[0]}; leave out one of the two.")
    return entry


def _read_field(key: str, value: Any, where: str) -> Any:
    parse, expected = _FIELDS[key]
    try:
        return parse(value)
    except ValueError:
        raise UserError(f"{where}: {key} must be {expected}; got {json.dumps(value)}.") from None


# --- fields: each parser returns the field's value or raises ValueError ----------------------------------------------


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError
    return float(value)


def _positive(value: Any) -> float:
    if _number(value) <= 0:
        raise ValueError
    return float(value)


def _fraction(value: Any) -> float:
    if not 0 <= _number(value) <= 1:
        raise ValueError
    return float(value)


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError
    return value


def _label(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError
    return str(value)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError
    return value


def _range(value: Any) -> tuple[float, float]:
    low, high = map(_positive, value if isinstance(value, list) else (value, value))
    if low > high:
        raise ValueError
    return low, high


def _triple(parse: Callable[[Any], float]) -> Callable[[Any], tuple[float, float, float]]:
    def parse_all(value: Any) -> tuple[float, float, float]:
        if not isinstance(value, list):
            raise ValueError
        x, y, z = map(parse, value)
        return x, y, z

    return parse_all


_FIELDS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "count": (_whole, "a whole number from 1"),
    "label": (_label, "the name or the number of a label"),
    "presence": (_flag, "true or false"),
    "volume_ml": (_range, "a number above 0, or [low, high] with 0 < low <= high"),
    "centroid": (_triple(_fraction), "[x, y, z], fractions of the anatomy from 0 to 1"),
    "extent_mm": (_triple(_positive), "[x, y, z], numbers above 0"),
    "sphericity": (_fraction, "a number from 0 to 1"),
    "num_components": (_whole, "a whole number from 1"),
}
