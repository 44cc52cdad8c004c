"""What may be asked of a model, and in which units and ranges."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, fields
from typing import TYPE_CHECKING

import numpy as np

from nnunet_sbldm.data.conditions import AXES, FEATURES
from nnunet_sbldm.types import UserError

if TYPE_CHECKING:
    import pandas

    from nnunet_sbldm.generator.plan import GeneratorPlan

FILE_AXES = "zyx"
"""Axes of the file in reader order."""
UNITS = {
    "presence": "0 or 1",
    "volume_ml": "ml",
    "centroid": "fraction of the anatomy",
    "extent_mm": "mm",
    "sphericity": "0 to 1",
    "num_components": "count",
}


@dataclass(frozen=True)
class Named:
    """A condition as a user names it.

    Attributes:
        label: the label or region that it describes.
        name: keyword of :meth:`SBLDM.sample`; of a triple with the axis of the file, as in ``centroid x``.
        unit: its unit.
    """

    label: str
    name: str
    unit: str

    @property
    def rank(self) -> tuple[int, str]:
        """Order of the conditions of one label: as ``UNITS`` has them, and x, y, z."""
        return list(UNITS).index(self.name.split(" ")[0]), self.name


def readable(feature: str, transpose_forward: Sequence[int]) -> Named:
    """A feature of the condition vector, such as ``tumour/centroid_d``, as a user names it.

    Args:
        feature: its name in a record.
        transpose_forward: axes of reader order in plan order.
    """
    label, name = feature.rsplit("/", 1)
    stem, *rest = name.split("_")
    if rest and rest[0] in AXES:
        keyword = "_".join([stem, *rest[1:]])
        return Named(label, f"{keyword} {FILE_AXES[transpose_forward[AXES.index(rest[0])]]}", UNITS[keyword])
    return Named(label, name, UNITS[name])


@dataclass(frozen=True)
class Condition(Named):
    """Something that may be asked, and what it is in the training cases.

    Attributes:
        low: smallest value.
        high: largest value.
        num_cases: training cases that have it.
    """

    low: float
    high: float
    num_cases: int


class Conditions(Sequence[Condition]):
    """All that may be asked of a model.

    Values outside the range of the training cases may be asked; a warning says so.

    Examples:
        >>> model = SBLDM.load("glioma_flair")
        >>> model.conditions["volume_ml"].unit
        'ml'
    """

    def __init__(self, conditions: Sequence[Condition]) -> None:
        self._conditions = tuple(conditions)

    @staticmethod
    def of(plan: GeneratorPlan) -> Conditions:
        """Those of a model, measured on its training cases."""
        names, table, found = plan.condition_scaling.names, plan.condition_model.table, []
        for target in plan.targets:
            features = [f"{target.name}/{f}" for f in FEATURES]
            own = [_condition(readable(f, plan.grid.transpose_forward), table[:, names.index(f)]) for f in features]
            found += sorted(own, key=lambda c: c.rank)
        return Conditions(found)

    @property
    def table(self) -> pandas.DataFrame:
        """One row per condition: columns ``unit``, ``low``, ``high``, ``num_cases``; indexed by ``label`` and ``name``."""
        import pandas

        columns = [f.name for f in fields(Condition)]
        return pandas.DataFrame([astuple(c) for c in self], columns=columns).set_index(["label", "name"])

    def __len__(self) -> int:
        return len(self._conditions)

    def __iter__(self) -> Iterator[Condition]:
        return iter(self._conditions)

    def __getitem__(self, key: int | str) -> Condition:  # type: ignore[override]
        """A condition by its place, its name (of the first label), or ``LABEL/NAME``."""
        if not isinstance(key, str):
            return self._conditions[key]
        found = [c for c in self if key in (c.name, f"{c.label}/{c.name}")]
        if not found:
            near = difflib.get_close_matches(key, [c.name for c in self], 1, cutoff=0)
            raise UserError(f"There is no condition {key}; the nearest is {near[0]}.")
        return found[0]

    def __repr__(self) -> str:
        head = ("label", "keyword", "unit", "training cases")
        rows = [head, *((c.label, c.name, c.unit, _span(c)) for c in self)]
        widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
        return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)

    def _repr_html_(self) -> str:
        return self.table.to_html(float_format="%.3g")


def _condition(named: Named, values: np.ndarray) -> Condition:
    known = values[np.isfinite(values)]
    low, high = (float(known.min()), float(known.max())) if len(known) else (float("nan"), float("nan"))
    return Condition(named.label, named.name, named.unit, low, high, len(known))


def _span(condition: Condition) -> str:
    if not condition.num_cases:
        return "none has it"
    span = " to ".join(dict.fromkeys(f"{v:.3g}" for v in (condition.low, condition.high)))
    return f"{span} ({condition.num_cases} cases)"
