"""Whether a generator copies its training cases: results of :mod:`nnunet_sbldm.quality.memorisation`."""

from __future__ import annotations

from typing import Any

import numpy as np

from nnunet_sbldm.evaluation.goals import QualityGoals
from nnunet_sbldm.evaluation.results import Result, Sets
from nnunet_sbldm.quality.memorisation import DESCRIPTORS, Memorisation, memorisation, nearest_training_cases


def memorisation_results(
    sets: Sets, rng: np.random.Generator, goals: QualityGoals
) -> tuple[list[Result], list[dict[str, Any]]]:
    """Ratio of nearest distances and flagged cases of each kind, and for each synthetic case its nearest training cases."""
    training = sets.training.descriptors
    synthetic, held_out = (
        nearest_training_cases(m.descriptors, m.mirrored, training) for m in (sets.synthetic, sets.held_out)
    )
    results: list[Result] = []
    per_case: list[dict[str, Any]] = [{} for _ in range(len(sets.synthetic))]
    for kind in DESCRIPTORS:
        found = memorisation(synthetic[kind].distance, held_out[kind].distance, rng)
        results += _memorisation_rows(kind, found, float(synthetic[kind].distance.min()), goals)
        for i, case in enumerate(per_case):
            case[kind] = {
                "index": int(synthetic[kind].index[i]),
                "distance": float(synthetic[kind].distance[i]),
                "mirrored": bool(synthetic[kind].mirrored[i]),
                "flagged": bool(found.flagged[i]),
            }
    return results, per_case


def _memorisation_rows(kind: str, found: Memorisation, nearest: float, goals: QualityGoals) -> list[Result]:
    """Ratio, smallest distance (any case below the floor is flagged) and number of flagged cases."""
    n, details = len(found.flagged), {"ratio_range": found.ratio_range, "half_range": found.half_range}
    goal, reached = f"at least {goals.min_memorisation_ratio:g}", found.ratio >= goals.min_memorisation_ratio
    return [
        Result(f"{kind}/distance_ratio", f"{kind}: ratio of nearest distances", found.ratio, 1.0, n, goal, reached, details),
        Result(f"{kind}/smallest_distance", f"{kind}: smallest distance", nearest, found.threshold, n),
        Result(f"{kind}/flagged", f"{kind}: flagged cases", int(found.flagged.sum()), found.expected_flagged, n),
    ]
