"""What a synthetic case can be asked to be like: the keywords of Python, the options of ``sbldm_sample``, the entries of a file.

``spec.json`` is a list of such entries. ``count`` is required; everything else is optional and describes one label::

    [{"count": 20, "label": "core", "volume_ml": [2, 15]},
     {"count": 5, "label": 3, "volume_ml": 40, "centroid": [0.3, 0.5, 0.6]},
     {"count": 3, "label": "core", "presence": false}]

``python -m nnunet_sbldm.generator.spec`` prints its JSON Schema; docs/reference/spec.schema.json is what it printed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema
from pydantic.dataclasses import dataclass

from nnunet_sbldm.common.files import read_user_json
from nnunet_sbldm.common.json_schema import DIALECT, schema_of
from nnunet_sbldm.common.seeds import STREAMS, volume_rng
from nnunet_sbldm.common.validation import FILE, MustBe, checked, refuse_null
from nnunet_sbldm.data.conditions import AXES, FEATURES, Target
from nnunet_sbldm.types import UserError

if TYPE_CHECKING:
    from nnunet_sbldm.generator.plan import GeneratorPlan

DESCRIBING = ("volume_ml", "centroid", "extent_mm", "sphericity", "num_components")


# --- fields --------------------------------------------------------------------------------------------------------


def _label(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError
    return str(value)


def _both_ends(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else (value, value)


def _ascending(ends: tuple[float, float]) -> tuple[float, float]:
    if ends[0] > ends[1]:
        raise ValueError
    return ends


_POSITIVE = {"type": "number", "exclusiveMinimum": 0}
_RANGE = {"anyOf": [_POSITIVE, {"type": "array", "items": _POSITIVE, "minItems": 2, "maxItems": 2}]}
_Positive = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
_Fraction = Annotated[float, Field(strict=True, ge=0, le=1, allow_inf_nan=False)]
_Whole = Annotated[int, Field(strict=True, ge=1)]
Count = Annotated[_Whole, MustBe("a whole number from 1")]
Label = Annotated[str, BeforeValidator(_label), MustBe("the name or the number of a label"),
                  WithJsonSchema({"type": ["string", "integer"]})]
Presence = Annotated[bool, Field(strict=True), MustBe("true or false")]
Volume = Annotated[tuple[_Positive, _Positive], BeforeValidator(_both_ends), AfterValidator(_ascending),
                   MustBe("a number above 0, or [low, high] with 0 < low <= high"), WithJsonSchema(_RANGE)]
Centroid = Annotated[tuple[_Fraction, _Fraction, _Fraction], MustBe("[x, y, z], fractions of the anatomy from 0 to 1")]
Extent = Annotated[tuple[_Positive, _Positive, _Positive], MustBe("[x, y, z], numbers above 0")]
Sphericity = Annotated[_Fraction, MustBe("a number from 0 to 1")]


@dataclass(frozen=True, config=FILE)
class SpecEntry:
    """What some synthetic cases shall be like; whatever is None is left to the condition model.

    Attributes:
        count: how many cases.
        label: name or number of the label that the rest describes; left out, it is the first.
        presence: whether the label is there; describing it in any other way asks for its presence.
        volume_ml: range of its volume; each case draws its own, log-uniformly. One number, or equal ends, give that volume.
        centroid: its centre along x, y, z of the file, as fractions of the imaged anatomy.
        extent_mm: its extent along x, y, z of the file.
        sphericity: surface of the ball of equal volume over its surface, 0 to 1.
        num_components: number of its connected components.
    """

    count: Count = 1
    label: Label | None = None
    presence: Presence | None = None
    volume_ml: Volume | None = None
    centroid: Centroid | None = None
    extent_mm: Extent | None = None
    sphericity: Sphericity | None = None
    num_components: Count | None = None

    def describes(self) -> list[str]:
        """Names of the fields, other than count, label and presence, that are given."""
        return [name for name in DESCRIBING if getattr(self, name) is not None]

    def features(self, plan: GeneratorPlan, seed: int = 0, origin: str = "-label") -> dict[str, float]:
        """Condition features that are asked for.

        Args:
            plan: its targets name the features, its grid says which axis of the file is which axis of the plan.
            seed: seed of the case, decides a volume that is given as a range.
            origin: where the label came from, for the refusal.

        Returns:
            Feature name -> value in physical units; a label alone asks for its presence.

        Raises:
            UserError: the plan has no such label.
        """
        if self.label is None and self.presence is None and not self.describes():
            return {}
        name = target_named(plan.targets, self.label, origin).name
        asked: dict[str, float] = {FEATURES[0]: float(self.presence is not False)}
        if self.volume_ml is not None:
            asked["volume_ml"] = drawn_volume(self.volume_ml, seed)
        for values, pattern in ((self.centroid, "centroid_{}"), (self.extent_mm, "extent_{}_mm")):
            if values is not None:
                zyx = values[::-1]
                asked |= {pattern.format(a): zyx[i] for a, i in zip(AXES, plan.grid.transpose_forward, strict=True)}
        if self.sphericity is not None:
            asked["sphericity"] = self.sphericity
        if self.num_components is not None:
            asked["num_components"] = float(self.num_components)
        return {f"{name}/{feature}": value for feature, value in asked.items()}

    def ranges(self, plan: GeneratorPlan, origin: str = "-label") -> dict[str, tuple[float, float]]:
        """Those of :meth:`features` that are drawn from a range, with that range; arguments as there."""
        if self.volume_ml is None or self.volume_ml[0] == self.volume_ml[1]:
            return {}
        return {f"{target_named(plan.targets, self.label, origin).name}/volume_ml": self.volume_ml}


def drawn_volume(volume_ml: tuple[float, float], seed: int, streams: int = STREAMS) -> float:
    """A volume from a range, log-uniformly, by the seed of a case and the version of the random streams."""
    low, high = volume_ml
    if low == high:
        return low
    return min(high, max(low, math.exp(volume_rng(seed, streams).uniform(math.log(low), math.log(high)))))


def target_named(targets: Sequence[Target], label: str | None, origin: str) -> Target:
    """The target of that name, else of that label value, else the first region that holds it; None is the first target."""
    if label is None:
        return targets[0]
    exact = [t for t in targets if t.name == label] + [t for t in targets if label == ",".join(map(str, t.label_values))]
    matching = exact + [t for t in targets if label in map(str, t.label_values)]
    if not matching:
        raise UserError(f"{origin} {label} is none of {', '.join(t.name for t in targets)}.")
    return matching[0]


# --- reading -------------------------------------------------------------------------------------------------------


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
    if not isinstance(value, Mapping):
        raise UserError(f'{where}: expected an object such as {{"count": 10}}; got {json.dumps(value)}.')
    entry = checked(SpecEntry, value, where)
    refuse_null(value, where)
    if "count" not in value:
        raise UserError(f"{where}: count is missing; it says how many cases to make.")
    if entry.presence is False and entry.describes():
        raise UserError(f"{where}: an absent label (presence false) has no {entry.describes()[0]}; leave out one of the two.")
    return entry


def spec_schema() -> dict[str, Any]:
    """JSON Schema of ``spec.json``."""
    entry = schema_of(SpecEntry)
    del entry["properties"]["count"]["default"]  # it is for Python: a file says how many
    return {"$schema": DIALECT, "title": "spec.json", "type": "array", "minItems": 1, "items": {**entry, "required": ["count"]}}


if __name__ == "__main__":
    print(json.dumps(spec_schema(), indent=1))
