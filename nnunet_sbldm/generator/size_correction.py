"""Draw again what came out too small or too large: the same noise, and a condition that asks for more or for less.

A denoiser follows its condition on average, not in every draw. What is wanted stays the condition that was asked; the
denoiser gets a *corrected* one, scaled by the ratio of asked and obtained volume, and the best draw is kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar

import numpy as np

from nnunet_sbldm.data.conditions import AXES, FEATURES
from nnunet_sbldm.generator.plan import GeneratorPlan

MIN_TOLERANCE, MAX_TOLERANCE = math.log(1.02), math.log(1.15)
TOLERANCE_STD = 0.35
"""Where volumes hardly vary, errors that are small in percent are large beside their spread."""


class Measured(Protocol):
    """A draw whose features [F] were measured."""

    @property
    def obtained(self) -> np.ndarray: ...  # noqa: D102  said above


D = TypeVar("D", bound=Measured)
D_co = TypeVar("D_co", bound=Measured, covariant=True)


class MakeDraws(Protocol[D_co]):
    """Makes some draws of a batch: their positions in the batch, and the condition [F] that the denoiser gets for each."""

    def __call__(self, chosen: Sequence[int], corrected: Sequence[np.ndarray]) -> Iterable[D_co]: ...  # noqa: D102  said above


def draw_to_size(
    plan: GeneratorPlan, asked: Sequence[np.ndarray], corrected: Sequence[np.ndarray], max_corrections: int, make: MakeDraws[D]
) -> list[tuple[D, int]]:
    """Make the draws of a batch, and those of wrong size again.

    Args:
        plan: names and training range of the features.
        asked: [F] conditions that the draws are measured by, NaN where nothing is asked.
        corrected: [F] conditions that the denoiser gets first.
        max_corrections: how often a draw is made again at most.
        make: makes draws.

    Returns:
        For each condition the draw of smallest error, and the number of draws it took.
    """
    corrected, latest = list(corrected), list(make(range(len(corrected)), corrected))
    best, num_draws = list(latest), [1] * len(latest)
    for _ in range(max_corrections):
        further = {i: correction(plan, asked[i], corrected[i], drawn.obtained) for i, drawn in enumerate(latest)}
        again = {i: condition for i, condition in further.items() if condition is not None}
        if not again:
            break
        for i, drawn in zip(again, make(list(again), list(again.values())), strict=True):
            corrected[i], latest[i], num_draws[i] = again[i], drawn, num_draws[i] + 1
            if size_error(plan, asked[i], drawn.obtained) < size_error(plan, asked[i], best[i].obtained):
                best[i] = drawn
    return list(zip(best, num_draws, strict=True))


def size_error(plan: GeneratorPlan, asked: np.ndarray, obtained: np.ndarray) -> float:
    """Mean absolute log ratio of asked and obtained volume over the targets; infinite if one is missing, 0 if none is asked."""
    wanted = np.isfinite(asked[_columns(plan, "volume_ml")])
    ratios = _volume_ratios(plan, asked, obtained)[wanted]
    return float(np.abs(np.log(np.where(np.isfinite(ratios), ratios, np.inf))).mean()) if wanted.any() else 0.0


def tolerance(plan: GeneratorPlan) -> float:
    """Error of the volume that is left alone, see :func:`size_error`: a share of its spread in the training cases."""
    spread = float(np.mean(np.asarray(plan.condition_model.scaling.std)[_columns(plan, "volume_ml")]))
    return min(max(TOLERANCE_STD * spread, MIN_TOLERANCE), MAX_TOLERANCE)


def correction(plan: GeneratorPlan, asked: np.ndarray, corrected: np.ndarray, obtained: np.ndarray) -> np.ndarray | None:
    """What to tell next, [F]: volumes scaled by asked over obtained, extents by its cube root, within the training range.

    Returns:
        None if the size is right, or this would change nothing.
    """
    if size_error(plan, asked, obtained) <= tolerance(plan):
        return None
    ratios = np.nan_to_num(_volume_ratios(plan, asked, obtained), nan=1)
    new, table = corrected.copy(), plan.condition_model.table
    for feature, factor in {"volume_ml": ratios, **{f"extent_{a}_mm": np.cbrt(ratios) for a in AXES}}.items():
        c = _columns(plan, feature)
        low, high = np.fmin(np.fmin.reduce(table[:, c]), asked[c]), np.fmax(np.fmax.reduce(table[:, c]), asked[c])
        new[c] = np.clip(corrected[c] * factor, low, high)
    return None if np.array_equal(new, corrected, equal_nan=True) else new


def _volume_ratios(plan: GeneratorPlan, asked: np.ndarray, obtained: np.ndarray) -> np.ndarray:
    """Asked over obtained volume of every target, NaN where either is missing."""
    volumes = _columns(plan, "volume_ml")
    return np.asarray(asked[volumes] / np.where(obtained[volumes] > 0, obtained[volumes], np.nan))


def _columns(plan: GeneratorPlan, feature: str) -> np.ndarray:
    """Position of a feature of every target in the condition vector."""
    return np.arange(len(plan.targets)) * len(FEATURES) + FEATURES.index(feature)
