"""How well a synthetic mask has the size and place that were asked for."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from nnunet_sbldm.data.conditions import ANATOMY_FEATURES, AXES, FEATURES
from nnunet_sbldm.evaluation.goals import QualityGoals
from nnunet_sbldm.evaluation.results import Result, Sets

VOLUME = FEATURES.index("volume_ml")
PLACE = slice(FEATURES.index("centroid_d"), FEATURES.index("centroid_d") + len(AXES))
NAMES = {
    "presence": "presence as asked",
    "volume_r": "r of log volume",
    "volume_error_ml": "median volume error (ml)",
    "volume_error": "median volume error (share)",
    "centroid_error": "median centroid error (share of field of view)",
    "centroid_error_mm": "median centroid error (mm)",
}
"""Measures of a set of cases, and what they are called in the report."""


def condition_errors(asked: np.ndarray, obtained: np.ndarray, extent_mm: np.ndarray) -> dict[str, float]:
    """How well one target's condition was met by a set of cases: over those in which it was asked for and is there.

    Args:
        asked: [N, features of one target] in physical units.
        obtained: likewise.
        extent_mm: [N, 3] of the anatomy, the field of view of centroids.

    Returns:
        A number for each of ``NAMES``; NaN where no case counts.
    """
    both = (asked[:, 0] == 1) & (obtained[:, 0] == 1)
    wanted, got = asked[both], obtained[both]
    apart = got[:, PLACE] - wanted[:, PLACE]
    return {
        "presence": float((asked[:, 0] == obtained[:, 0]).mean()),
        "volume_r": _correlation(np.log(wanted[:, VOLUME]), np.log(got[:, VOLUME])),
        "volume_error_ml": _median(np.abs(got[:, VOLUME] - wanted[:, VOLUME])),
        "volume_error": _median(np.abs(got[:, VOLUME] / wanted[:, VOLUME] - 1)),
        "centroid_error": _median(np.linalg.norm(apart, axis=1)),
        "centroid_error_mm": _median(np.linalg.norm(apart * extent_mm[both], axis=1)),
    }


def errors_of_an_edit(asked: Mapping[str, float], obtained: Mapping[str, float], target: str) -> dict[str, float | None]:
    """How well the condition of one edit was met.

    Args:
        asked: condition feature -> value that was asked for; without the target's volume where a lesion was removed.
        obtained: the same features measured on the mask.
        target: label or region of the lesion.

    Returns:
        ``volume_error``, relative, and ``centroid_error``, the largest along an axis, in fractions of the anatomy: None where
        a lesion was removed, 1 where it is missing.
    """
    volume = asked.get(f"{target}/volume_ml")
    if volume is None:
        return {"volume_error": None, "centroid_error": None}
    if f"{target}/volume_ml" not in obtained:
        return {"volume_error": 1.0, "centroid_error": 1.0}
    centres = [f"{target}/centroid_{a}" for a in AXES]
    return {
        "volume_error": abs(obtained[f"{target}/volume_ml"] - volume) / volume,
        "centroid_error": max(abs(obtained[n] - asked[n]) for n in centres),
    }


def condition_results(
    asked: np.ndarray, sets: Sets, goals: QualityGoals, before_gate: tuple[np.ndarray, np.ndarray] | None = None
) -> list[Result]:
    """Asked against obtained size and place per target; the floor is a real mask before and after the autoencoder.

    Args:
        asked: [N, F] conditions of the synthetic cases in physical units, NaN where missing.
        sets: measures.
        goals: what is to be reached.
        before_gate: [M, F] asked and [M, F] obtained of all first draws, where a gate chose among them; their errors are
            details of the results, since a gate that rejects what was not asked flatters the others.
    """
    results: list[Result] = []
    obtained, held_out = sets.synthetic.masks.condition, sets.held_out.masks.condition
    for i, target in enumerate(sets.targets):
        block = slice(i * len(FEATURES), (i + 1) * len(FEATURES))
        got = _errors_of_target(asked, obtained, block)
        floor = _errors_of_target(held_out, sets.held_out.reconstruction.condition, block, extent_mm=_extent_mm(held_out))
        n = int(((asked[:, block.start] == 1) & (obtained[:, block.start] == 1)).sum())
        first_draws = _errors_of_target(*before_gate, block) if before_gate else {}
        for name, value in got.items():
            details = {"first_draws": first_draws[name]} if first_draws else {}
            goal, reached = _judged(name, value, goals)
            title = f"{target.name}: {NAMES[name]}"
            results.append(Result(f"{target.name}/{name}", title, value, floor[name], n, goal, reached, details))
    return results


def _errors_of_target(
    asked: np.ndarray, obtained: np.ndarray, block: slice, extent_mm: np.ndarray | None = None
) -> dict[str, float]:
    """Errors of the target with this block of features; the field of view is that of the obtained cases, unless given."""
    extent_mm = _extent_mm(obtained) if extent_mm is None else extent_mm
    return condition_errors(asked[:, block], obtained[:, block], extent_mm)


def _extent_mm(conditions: np.ndarray) -> np.ndarray:
    """[N, 3] of the anatomy, which ends the condition vector."""
    return conditions[:, -len(ANATOMY_FEATURES) :]


def _judged(name: str, value: float, goals: QualityGoals) -> tuple[str, bool | None]:
    """The goal in words, and whether it is reached; an empty text where there is none."""
    if name == "volume_r":
        return f"at least {goals.min_volume_correlation:g}", value >= goals.min_volume_correlation
    if name == "centroid_error":
        return f"at most {goals.max_centroid_error:g}", value <= goals.max_centroid_error
    return "", None


def _median(values: np.ndarray) -> float:
    return float(np.median(values)) if len(values) else float("nan")


def _correlation(x: np.ndarray, y: np.ndarray) -> float:
    if len(x) < 2 or x.std() < 1e-12 or y.std() < 1e-12:
        return float("nan")
    return float(np.corrcoef(x, y)[0, 1])
