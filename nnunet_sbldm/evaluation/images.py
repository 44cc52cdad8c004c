"""How synthetic images look beside real ones: contrast at the mask, coherence of slices, similarity of pairs of cases."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from nnunet_sbldm.evaluation.case_set import CaseSet
from nnunet_sbldm.evaluation.distributions import wasserstein_result
from nnunet_sbldm.evaluation.goals import QualityGoals
from nnunet_sbldm.evaluation.results import Result, Sets, finite_mean, finite_std
from nnunet_sbldm.quality.similarity import COHERENCE, ms_ssim

NUM_DIVERSITY_PAIRS = 100
AGREEMENT = ("contrast", "edge", "halo")
"""Features that say whether the image shows what the mask says."""
JUDGED = ("neighbour_ssim", "gradient_ratio")
"""Measures of coherence that have a goal."""


def agreement_results(sets: Sets, columns: Sequence[str], rng: np.random.Generator) -> list[Result]:
    """Contrast, edge and halo of the image at the mask: means, and the Wasserstein-1 distance with its floor as details."""
    results = []
    images = [m.images for m in (sets.synthetic, sets.held_out, sets.training)]
    tables = [np.concatenate([m.features, m.halo], axis=1).T for m in images]
    for name, *values in zip(columns, *tables, strict=True):
        distance = wasserstein_result(name, values, rng) if name.rsplit("/", 1)[1] in AGREEMENT else None
        if distance is not None:
            synthetic, held_out, training = map(finite_mean, values)
            details = {"wasserstein": distance.value, "wasserstein_floor": distance.floor, "training": training}
            results.append(Result(name, name, synthetic, held_out, distance.num_cases, details=details))
    return results


def coherence_results(sets: Sets, goals: QualityGoals) -> list[Result]:
    """Means of the coherence measures of synthetic and of held-out cases.

    Held-out and training cases are both real and differ, the more the fewer there are: what is judged is how far synthetic
    cases lie outside the range that the two means span.
    """
    results = []
    margin = goals.max_coherence_deviation
    for i, name in enumerate(COHERENCE):
        means = [finite_mean(m.images.coherence[:, i]) for m in (sets.synthetic, sets.held_out, sets.training)]
        value, real, training = means
        low, high = sorted((real, training))
        is_judged = name in JUDGED
        goal = f"within {100 * margin:g} % of real: {low:.3g} to {high:.3g}" if is_judged else ""
        reached = bool(low * (1 - margin) <= value <= high * (1 + margin)) if is_judged else None
        results.append(Result(name, name, value, real, len(sets.synthetic), goal, reached, {"training": training}))
    return results


def diversity_results(synthetic: CaseSet, held_out: CaseSet, training: CaseSet, rng: np.random.Generator) -> list[Result]:
    """Mean MS-SSIM of random pairs within each set."""
    values = [np.array([_pair_ms_ssim(s, i, j) for i, j in random_pairs(len(s), rng)]) for s in (synthetic, held_out, training)]
    means, spreads = [finite_mean(v) for v in values], [finite_std(v) for v in values]
    details = {"sd": spreads[0], "floor_sd": spreads[1], "training": means[2], "training_sd": spreads[2]}
    return [Result("ms_ssim", "MS-SSIM between cases", means[0], means[1], len(values[0]), details=details)]


def random_pairs(num_cases: int, rng: np.random.Generator) -> Iterator[tuple[int, int]]:
    """Different unordered pairs, at most ``NUM_DIVERSITY_PAIRS``."""
    first, second = np.triu_indices(num_cases, 1)
    for k in rng.permutation(len(first))[:NUM_DIVERSITY_PAIRS]:
        yield int(first[k]), int(second[k])


def _pair_ms_ssim(cases: CaseSet, i: int, j: int) -> float:
    return ms_ssim(cases.image(i), cases.image(j), (cases.classes(i) != 0) | (cases.classes(j) != 0))
