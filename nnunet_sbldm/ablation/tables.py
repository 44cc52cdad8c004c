"""Rows of a study's comparisons as text: for the CSV file, for a paper, and for the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from nnunet_sbldm.ablation.draws import percent

NOT_MEASURED = "\N{EN DASH}"
THIRDS = ("small", "middle", "large")

Bounds = Mapping[str, float | None]
"""``mean``, ``low``, ``high``; None is unknown."""


def flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """A comparison with one column per number."""
    columns: dict[str, Any] = {}
    for key, value in row.items():
        if key == "thirds":
            for name, third in zip(THIRDS, value or ({}, {}, {}), strict=True):
                columns |= {f"{name}_{k}": third.get(k) for k in ("mean", "low", "high")}
        elif key in ("mean", "difference"):
            columns |= _interval_columns(key, value)
        elif key == "draws":
            columns |= {f"share_{k}": (value or {}).get(k) for k in ("asked", "drawn", "lowest", "highest")}
        elif key == "baseline":
            columns |= _baseline_columns(value or {})
        else:
            columns[key] = value
    return columns


def _interval_columns(name: str, interval: Bounds | None) -> dict[str, float | None]:
    known = interval or {}
    return {name: known.get("mean"), f"{name}_low": known.get("low"), f"{name}_high": known.get("high")}


def _baseline_columns(baseline: Mapping[str, Any]) -> dict[str, Any]:
    columns = {"baseline": baseline.get("arm"), **_interval_columns("baseline_difference", baseline.get("difference"))}
    return columns | {f"baseline_{k}": baseline.get(k) for k in ("p", "p_holm", "verdict")}


def markdown_table(rows: Sequence[Mapping[str, Any]], confidence: float) -> str:
    """Table for a paper or a README: one row per arm and number of cases."""
    ci = f"[{100 * confidence:g} % CI]"
    head = ["real cases", "arm", "runs", "synthetic draws (asked)", f"Dice {ci}", f"difference in points {ci}", "p (Holm)",
            "verdict"]
    baseline = baseline_name(rows)
    head += [f"difference to {baseline} {ci}", "p (Holm)", "verdict"] if baseline else []
    lines = [_line(head), _line(["---"] * len(head))]
    for row in rows:
        cells = [row["num_cases"], row["arm"], row["num_runs"], draws_text(row["draws"]), score_text(row["mean"]),
                 points_text(row["difference"]), p_text(row["p_holm"]), row["verdict"] or NOT_MEASURED]
        lines.append(_line([*map(str, cells), *(baseline_cells(row["baseline"]) if baseline else [])]))
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def baseline_name(rows: Sequence[Mapping[str, Any]]) -> str:
    """Arm that the rows are also compared with; empty if there is none."""
    return next((row["baseline"]["arm"] for row in rows if row["baseline"]), "")


def baseline_cells(baseline: Mapping[str, Any] | None) -> list[str]:
    """Difference to the baseline, p and verdict."""
    if not baseline:
        return [NOT_MEASURED] * 3
    return [points_text(baseline["difference"]), p_text(baseline["p_holm"]), baseline["verdict"]]


def draws_text(draws: Mapping[str, Any] | None) -> str:
    """Share of synthetic draws, with that asked in brackets."""
    return f"{percent(draws['drawn'])} ({percent(draws['asked'])})" if draws else NOT_MEASURED


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
