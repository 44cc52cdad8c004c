"""Distributions of synthetic and of real cases: features, latents, and the shapes of masks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.stats import wasserstein_distance

from nnunet_sbldm.data.conditions import feature_names
from nnunet_sbldm.evaluation.distances import equal_parts, frechet_distance, kernel_distance, support
from nnunet_sbldm.evaluation.goals import QualityGoals
from nnunet_sbldm.evaluation.measures import contact_columns
from nnunet_sbldm.evaluation.results import FEW_CASES, Result, Sets, finite_mean
from nnunet_sbldm.quality.appearance import standardised

ROUGHNESS = "outline_roughness"
JUDGED = ("volume_ml", "sphericity")
"""Features of masks whose distance has a goal."""


def distribution_results(
    synthetic: np.ndarray, held_out: np.ndarray, training: np.ndarray, rng: np.random.Generator
) -> list[Result]:
    """Frechet and kernel distance, precision, recall, density and coverage of feature vectors [cases, features]."""
    (held_out, training), synthetic = standardised([held_out, training], synthetic)
    size = min(len(synthetic), len(held_out), len(training))

    def over_parts(metric: Callable[[np.ndarray, np.ndarray], Any], other: np.ndarray) -> list[Any]:
        return [metric(a, b) for a, b in equal_parts(held_out, other, size, rng)]

    frechet = [over_parts(frechet_distance, other) for other in (synthetic, training)]
    kernel = [kernel_distance(held_out, other, rng) for other in (synthetic, training)]
    supports = [over_parts(support, other) for other in (synthetic, training)]
    p_values = {"p": kernel[0][1], "floor_p": kernel[1][1]}
    results = [
        Result("frechet", "Frechet distance", finite_mean(frechet[0]), finite_mean(frechet[1]), size, details=_spreads(*frechet)),
        Result("kid", "kernel distance (KID)", kernel[0][0], kernel[1][0], len(synthetic), details=p_values),
    ]
    for name in supports[0][0]:
        values = [[s[name] for s in part] for part in supports]
        results.append(Result(name, name, finite_mean(values[0]), finite_mean(values[1]), size, details=_spreads(*values)))
    return results


def mask_results(sets: Sets, rng: np.random.Generator, goals: QualityGoals) -> list[Result]:
    """Wasserstein-1 distance of every mask feature to the held-out cases, in the feature's unit, and specks."""
    names = [*feature_names(sets.targets), *(f"{t.name}/{ROUGHNESS}" for t in sets.targets), *contact_columns(sets.targets)]
    masks = [m.masks for m in (sets.synthetic, sets.held_out, sets.training)]
    tables = [np.concatenate([m.condition, m.roughness, m.contact], axis=1).T for m in masks]
    results = [_mask_result(n, columns, rng, goals) for n, *columns in zip(names, *tables, strict=True)]
    specks = [int(m.specks.sum()) for m in masks[:2]]
    goal = "no component smaller than any in training"
    return [*results, Result("specks", "specks", specks[0], specks[1], len(sets.synthetic), goal, specks[0] == 0)]


def _mask_result(name: str, columns: list[np.ndarray], rng: np.random.Generator, goals: QualityGoals) -> Result:
    """The distance of one feature, judged if it has a goal; columns are those of synthetic, held-out and training cases."""
    result = wasserstein_result(name, columns, rng)
    if result.measure not in JUDGED or not result.num_cases:
        return result
    reached = result.value <= goals.max_floor_multiple * result.floor if result.num_cases >= FEW_CASES else None
    return replace(result, goal=f"at most {goals.max_floor_multiple:g} x floor", reached=reached)


def wasserstein_result(name: str, columns: Sequence[np.ndarray], rng: np.random.Generator) -> Result:
    """Wasserstein-1 distance of one feature to the held-out cases, in the feature's unit.

    Args:
        name: of the feature, and id of the result.
        columns: its values [cases] in synthetic, held-out and training cases; NaN where a case does not have it.
        rng: draws parts of equal size.
    """
    synthetic, held_out, training = (c[np.isfinite(c)] for c in columns)
    size = min(len(synthetic), len(held_out), len(training))
    means = {"mean_synthetic": synthetic, "mean_held_out": held_out, "mean_training": training}
    details = {k: finite_mean(v) for k, v in means.items()}
    if size == 0:
        return Result(name, name, float("nan"), float("nan"), 0, details=details)
    value, floor = (
        float(np.mean([wasserstein_distance(a, b) for a, b in equal_parts(held_out, other, size, rng)]))
        for other in (synthetic, training)
    )
    return Result(name, name, value, floor, size, details=details)


def _spreads(value: Sequence[float], floor: Sequence[float]) -> dict[str, float]:
    return {"sd": float(np.std(value)), "floor_sd": float(np.std(floor))}
