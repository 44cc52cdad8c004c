"""Evaluations, with their numbers as a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Evaluation:
    """Synthetic cases beside real ones, as :meth:`SBLDM.evaluate` returns them.

    Attributes:
        result: the content of ``evaluation.json``.
        folder: where that file, ``evaluation.html`` and pictures are.
    """

    result: Mapping[str, Any] = field(repr=False)
    folder: Path

    @property
    def table(self) -> pandas.DataFrame:
        """Every number, indexed by ``section`` and ``name``.

        Columns: ``value`` of the synthetic cases (of held-out cases for reconstruction); ``floor``, the same of real cases;
        ``goal`` in words, empty if none is set; ``reached``, whether it is, None if that cannot be said; ``num_cases`` behind
        the value.
        """
        import pandas

        rows = [
            {"section": section, "name": r["name"], "value": r["value"], "floor": r["floor"], "goal": r["target"],
             "reached": r["reached"], "num_cases": r["num_cases"]}
            for section, results in self.result["sections"].items()
            for r in results
        ]
        return pandas.DataFrame(rows).set_index(["section", "name"])

    @property
    def near_copies(self) -> list[str]:
        """Ids of the synthetic cases that are nearer to a training case than any held-out case is."""
        return [c["case_id"] for c in self.result["synthetic_cases"] if c["flagged"]]

    def _repr_html_(self) -> str:
        return self.table.to_html(float_format="%.3g")


@dataclass(frozen=True)
class EditEvaluation:
    """Edits beside real cases, as :meth:`SBLDM.evaluate_edits` returns them.

    Attributes:
        result: the content of ``edit_evaluation.json``.
        folder: where that file, ``edit_evaluation.html`` and a picture are.
    """

    result: Mapping[str, Any] = field(repr=False)
    folder: Path

    @property
    def table(self) -> pandas.DataFrame:
        """One row per measure, with its ``meaning``, over ``all`` first draws and over the ``accepted`` ones."""
        import pandas

        from nnunet_sbldm.evaluation.edits import NUMBERS

        table = pandas.DataFrame({kind: self.result[kind] for kind in ("all", "accepted")}, dtype=float)
        table.insert(0, "meaning", [NUMBERS.get(name, "number of edits") for name in table.index])
        return table

    def _repr_html_(self) -> str:
        return self.table.to_html(float_format="%.3g")
