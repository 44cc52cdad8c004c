"""Tables of a study's comparisons: as columns of numbers for a CSV file, as text for a paper and for the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import pandas as pd

from nnunet_sbldm.ablation.shares import percent

NOT_MEASURED = "\N{EN DASH}"
THIRDS = ("small", "middle", "large")
COUNTS = ("num_better", "num_worse", "num_pairs")
COLUMNS = [
    "arm", "num_cases", "num_runs", "num_folds", "mean", "mean_low", "mean_high", "difference", "difference_low",
    "difference_high", "p", "p_holm", "verdict", *(f"{third}_{k}" for third in THIRDS for k in ("mean", "low", "high")),
    "share_asked", "share_drawn", "share_lowest", "share_highest", "baseline", "baseline_difference", "baseline_difference_low",
    "baseline_difference_high", "baseline_p", "baseline_p_holm", "baseline_verdict", *COUNTS]
SHORTER = {"mean_mean": "mean", "difference_mean": "difference", "baseline_difference_mean": "baseline_difference",
           "baseline_arm": "baseline"}

Row = Mapping[str, Any]
"""A comparison (:func:`nnunet_sbldm.ablation.statistics.compare`) with ``draws`` and ``baseline``."""
Bounds = Mapping[str, float | None]
"""``mean``, ``low``, ``high``; None is unknown."""


@dataclass(frozen=True)
class Table:
    """A table as text.

    Attributes:
        head: names of its columns.
        rows: cells of each row.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        """For a paper or a README."""
        return "".join(f"| {' | '.join(cells)} |\n" for cells in (self.head, ["---"] * len(self.head), *self.rows))


def numbers_table(rows: Sequence[Row]) -> pd.DataFrame:
    """Comparisons with one column per number; what is unknown is missing."""
    flat = [{key: value for key, value in row.items() if value is not None} for row in rows]
    for row in flat:
        row |= {**dict(zip(THIRDS, row.pop("thirds", ()), strict=False)), "share": row.pop("draws", {})}
    table = pd.json_normalize(flat, sep="_").rename(columns=SHORTER).reindex(columns=COLUMNS)
    return table.astype(dict.fromkeys(COUNTS, "Int64"))


def comparison_table(rows: Sequence[Row], confidence: float) -> Table:
    """One row per arm and number of cases, for a paper or a README."""
    ci, baseline = f"[{100 * confidence:g} % CI]", baseline_name(rows)
    head = ["real cases", "arm", "runs", "synthetic draws (asked)", f"Dice {ci}", f"difference in points {ci}", "p (Holm)",
            "verdict", *([f"difference to {baseline} {ci}", "p (Holm)", "verdict"] if baseline else [])]
    return Table(head, [[
        str(row["num_cases"]), row["arm"], str(row["num_runs"]), shares_text(row["draws"]), score_text(row["mean"]),
        points_text(row["difference"]), p_text(row["p_holm"]), row["verdict"] or NOT_MEASURED,
        *(baseline_cells(row["baseline"]) if baseline else []),
    ] for row in rows])


def baseline_name(rows: Sequence[Row]) -> str:
    """Arm that the rows are also compared with; empty if there is none."""
    return next((row["baseline"]["arm"] for row in rows if row["baseline"]), "")


def baseline_cells(baseline: Mapping[str, Any] | None) -> list[str]:
    """Difference to the baseline, p and verdict."""
    if not baseline:
        return [NOT_MEASURED] * 3
    return [points_text(baseline["difference"]), p_text(baseline["p_holm"]), baseline["verdict"]]


# --- numbers as text -----------------------------------------------------------------------------------------------


def shares_text(shares: Mapping[str, Any] | None) -> str:
    """Share of synthetic draws, with that asked in brackets."""
    return f"{percent(shares['drawn'])} ({percent(shares['asked'])})" if shares else NOT_MEASURED


def score_text(interval: Bounds | None) -> str:
    """A score with its interval."""
    return _formatted(interval, 1.0, ".3f")


def points_text(interval: Bounds | None) -> str:
    """A difference in points with its interval."""
    return _formatted(interval, 100.0, "+.1f")


def _formatted(interval: Bounds | None, factor: float, digits: str) -> str:
    mean, low, high = ((interval or {}).get(k) for k in ("mean", "low", "high"))
    if mean is None:
        return NOT_MEASURED
    text = format(factor * mean, digits)
    return text if low is None or high is None else f"{text} [{format(factor * low, digits)}, {format(factor * high, digits)}]"


def range_text(values: Sequence[float], digits: str) -> str:
    """The median of some values, from the lowest to the highest."""
    if not values:
        return NOT_MEASURED
    middle, low, high = (format(v, digits) for v in (median(values), min(values), max(values)))
    return f"{middle} ({low} to {high})"


def p_text(value: float | None) -> str:
    """A p-value."""
    if value is None:
        return NOT_MEASURED
    return f"{value:.3f}" if value >= 0.001 else f"{value:.0e}"
