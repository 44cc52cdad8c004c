"""The numbers of an evaluation: synthetic cases against unseen real ones, each beside the same between real cases.

Held-out cases are the reference. The *floor* of a distance is that of training cases to held-out cases: what a generator
that redraws its training cases perfectly would get. Where a metric depends on the number of cases, both take equally many.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.stats import wasserstein_distance

from nnunet_sbldm.data.conditions import ANATOMY_FEATURES, FEATURES, Target, feature_names
from nnunet_sbldm.evaluation.goals import QualityTargets
from nnunet_sbldm.evaluation.measures import CaseSet, Measures, contact_columns
from nnunet_sbldm.quality.adherence import condition_errors
from nnunet_sbldm.quality.appearance import standardised
from nnunet_sbldm.quality.distances import equal_parts, frechet_distance, kernel_distance, support
from nnunet_sbldm.quality.memorisation import KINDS, Memorisation, memorisation, nearest_training_cases
from nnunet_sbldm.quality.similarity import COHERENCE, ms_ssim

NUM_DIVERSITY_PAIRS = 100
ROUGHNESS = "outline_roughness"
FEW_CASES = 10
"""With fewer, targets of distances are not judged and the report warns."""


@dataclass(frozen=True)
class Result:
    """One number and what it is to be read beside.

    Attributes:
        name: what was measured.
        value: of the synthetic cases (of held-out cases for reconstruction).
        floor: the same of real cases.
        num_cases: cases (or pairs of cases) behind the value.
        target: what was to be reached, in words; empty if nothing is asked.
        reached: whether it is.
        details: further numbers.
    """

    name: str
    value: float
    floor: float
    num_cases: int
    target: str = ""
    reached: bool | None = None
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Sets:
    """Measures of the three sets of cases.

    Attributes:
        synthetic: synthetic cases.
        held_out: real cases that the generator never saw.
        training: real cases that it was trained on.
        targets: labels or regions.
    """

    synthetic: Measures
    held_out: Measures
    training: Measures
    targets: tuple[Target, ...]


def reconstruction_results(sets: Sets, label_names: Sequence[str]) -> list[Result]:
    """Dice per label, PSNR and SSIM of held-out cases; the floor is that of training cases."""
    names = [*(f"Dice {n}" for n in label_names), "PSNR (dB)", "SSIM"]
    held_out, training = sets.held_out.reconstruction, sets.training.reconstruction
    return [
        Result(n, _mean(h), _mean(t), int(np.isfinite(h).sum()), details={"worst": _finite(np.min, h)})
        for n, h, t in zip(names, held_out.T, training.T, strict=True)
    ]


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
        Result("Frechet distance", _mean(frechet[0]), _mean(frechet[1]), size, details=_spreads(*frechet)),
        Result("kernel distance (KID)", kernel[0][0], kernel[1][0], len(synthetic), details=p_values),
    ]
    for name in supports[0][0]:
        values = [[s[name] for s in part] for part in supports]
        results.append(Result(name, _mean(values[0]), _mean(values[1]), size, details=_spreads(*values)))
    return results


def mask_results(sets: Sets, rng: np.random.Generator, targets: QualityTargets) -> list[Result]:
    """Wasserstein-1 distance of every mask feature to the held-out cases, in the feature's unit, and specks."""
    names = [*feature_names(sets.targets), *(f"{t.name}/{ROUGHNESS}" for t in sets.targets), *contact_columns(sets.targets)]
    measured = (sets.synthetic, sets.held_out, sets.training)
    tables = [np.concatenate([m.condition, m.roughness, m.contact], axis=1).T for m in measured]
    results = [_wasserstein_result(n, s, h, t, rng, targets) for n, s, h, t in zip(names, *tables, strict=True)]
    specks = [int(m.specks.sum()) for m in (sets.synthetic, sets.held_out)]
    asked = "no component smaller than any in training"
    return [*results, Result("specks", specks[0], specks[1], len(sets.synthetic), asked, specks[0] == 0)]


def _wasserstein_result(
    name: str,
    synthetic: np.ndarray,
    held_out: np.ndarray,
    training: np.ndarray,
    rng: np.random.Generator,
    targets: QualityTargets,
) -> Result:
    synthetic, held_out, training = (c[np.isfinite(c)] for c in (synthetic, held_out, training))
    size = min(len(synthetic), len(held_out), len(training))
    details = {"mean_synthetic": _mean(synthetic), "mean_held_out": _mean(held_out), "mean_training": _mean(training)}
    if size == 0:
        return Result(name, float("nan"), float("nan"), 0, details=details)
    value, floor = (
        float(np.mean([wasserstein_distance(a, b) for a, b in equal_parts(held_out, other, size, rng)]))
        for other in (synthetic, training)
    )
    if name.rsplit("/", 1)[1] not in ("volume_ml", "sphericity"):
        return Result(name, value, floor, size, details=details)
    asked = f"at most {targets.max_floor_multiple:g} x floor"
    reached = value <= targets.max_floor_multiple * floor if size >= FEW_CASES else None
    return Result(name, value, floor, size, asked, reached, details)


def condition_results(
    asked: np.ndarray, sets: Sets, targets: QualityTargets, before_gate: tuple[np.ndarray, np.ndarray] | None = None
) -> list[Result]:
    """Asked against obtained size and place per target; the floor is a real mask before and after the autoencoder.

    Args:
        asked: [N, F] conditions of the synthetic cases in physical units, NaN where missing.
        sets: measures.
        targets: what is to be reached.
        before_gate: [M, F] asked and [M, F] obtained of all first draws, where a gate chose among them; their errors are
            details of the results, since a gate that rejects what was not asked flatters the others.
    """
    results: list[Result] = []
    synthetic, held_out = sets.synthetic, sets.held_out
    for i, target in enumerate(sets.targets):
        block = slice(i * len(FEATURES), (i + 1) * len(FEATURES))
        got = condition_errors(asked[:, block], synthetic.condition[:, block], _extent_mm(synthetic))
        again = held_out.reconstructed_condition[:, block]
        floor = condition_errors(held_out.condition[:, block], again, _extent_mm(held_out))
        n = int(((asked[:, block.start] == 1) & (synthetic.condition[:, block.start] == 1)).sum())
        all_draws = _errors_before_gate(before_gate, block) if before_gate else {}
        for name, value in got.items():
            target_text, reached = _condition_target(name, value, targets)
            details = {"first_draws": all_draws[name]} if all_draws else {}
            results.append(Result(f"{target.name}: {name}", value, floor[name], n, target_text, reached, details))
    return results


def _errors_before_gate(before_gate: tuple[np.ndarray, np.ndarray], block: slice) -> dict[str, float]:
    asked, obtained = before_gate
    return condition_errors(asked[:, block], obtained[:, block], obtained[:, -len(ANATOMY_FEATURES) :])


def _extent_mm(measures: Measures) -> np.ndarray:
    """[N, 3] of the anatomy, which ends the condition vector."""
    return measures.condition[:, -len(ANATOMY_FEATURES) :]


def _condition_target(name: str, value: float, targets: QualityTargets) -> tuple[str, bool | None]:
    if name == "r of log volume":
        return f"at least {targets.min_volume_correlation:g}", value >= targets.min_volume_correlation
    if name.endswith("(share of field of view)"):
        return f"at most {targets.max_centroid_error:g}", value <= targets.max_centroid_error
    return "", None


def coherence_results(sets: Sets, targets: QualityTargets) -> list[Result]:
    """Means of the coherence measures of synthetic and of held-out cases.

    Held-out and training cases are both real and differ, the more the fewer there are: what is judged is how far synthetic
    cases lie outside the range that the two means span.
    """
    results = []
    for i, name in enumerate(COHERENCE):
        value, real, training = (_mean(m.coherence[:, i]) for m in (sets.synthetic, sets.held_out, sets.training))
        asked = name in ("neighbour_ssim", "gradient_ratio")
        low, high = sorted((real, training))
        text = f"within {100 * targets.max_coherence_deviation:g} % of real: {low:.3g} to {high:.3g}" if asked else ""
        margin = targets.max_coherence_deviation
        reached = bool(low * (1 - margin) <= value <= high * (1 + margin)) if asked else None
        results.append(Result(name, value, real, len(sets.synthetic), text, reached, {"training": training}))
    return results


def agreement_results(
    sets: Sets, columns: Sequence[str], rng: np.random.Generator, targets: QualityTargets
) -> list[Result]:
    """Contrast, edge and halo of the image at the mask: means, and the Wasserstein-1 distance with its floor as details."""
    results = []
    measured = (sets.synthetic, sets.held_out, sets.training)
    tables = [np.concatenate([m.features, m.halo], axis=1).T for m in measured]
    for name, synthetic, held_out, training in zip(columns, *tables, strict=True):
        if name.rsplit("/", 1)[1] not in ("contrast", "edge", "halo"):
            continue
        distance = _wasserstein_result(name, synthetic, held_out, training, rng, targets)
        details = {"wasserstein": distance.value, "wasserstein_floor": distance.floor, "training": _mean(training)}
        results.append(Result(name, _mean(synthetic), _mean(held_out), distance.num_cases, details=details))
    return results


def diversity_results(synthetic: CaseSet, held_out: CaseSet, training: CaseSet, rng: np.random.Generator) -> list[Result]:
    """Mean MS-SSIM of random pairs within each set."""
    values = [np.array([_pair_ms_ssim(s, i, j) for i, j in random_pairs(len(s), rng)]) for s in (synthetic, held_out, training)]
    details = {"sd": _std(values[0]), "floor_sd": _std(values[1]), "training": _mean(values[2]), "training_sd": _std(values[2])}
    return [Result("MS-SSIM between cases", _mean(values[0]), _mean(values[1]), len(values[0]), details=details)]


def random_pairs(num_cases: int, rng: np.random.Generator) -> Iterator[tuple[int, int]]:
    """Different unordered pairs, at most ``NUM_DIVERSITY_PAIRS``."""
    first, second = np.triu_indices(num_cases, 1)
    for k in rng.permutation(len(first))[:NUM_DIVERSITY_PAIRS]:
        yield int(first[k]), int(second[k])


def _pair_ms_ssim(cases: CaseSet, i: int, j: int) -> float:
    return ms_ssim(cases.image(i), cases.image(j), (cases.classes(i) != 0) | (cases.classes(j) != 0))


def memorisation_results(
    sets: Sets, rng: np.random.Generator, targets: QualityTargets
) -> tuple[list[Result], list[dict[str, Any]]]:
    """Ratio of nearest distances and flagged cases of each kind, and for each synthetic case its nearest training cases."""
    training = sets.training.descriptors()
    synthetic, held_out = (
        nearest_training_cases(m.descriptors(), m.descriptors(mirrored=True), training) for m in (sets.synthetic, sets.held_out)
    )
    results: list[Result] = []
    per_case: list[dict[str, Any]] = [{} for _ in range(len(sets.synthetic))]
    for kind in KINDS:
        found = memorisation(synthetic[kind].distance, held_out[kind].distance, rng)
        results += _memorisation_rows(kind, found, float(synthetic[kind].distance.min()), targets)
        for i, case in enumerate(per_case):
            case[kind] = {
                "index": int(synthetic[kind].index[i]),
                "distance": float(synthetic[kind].distance[i]),
                "mirrored": bool(synthetic[kind].mirrored[i]),
                "flagged": bool(found.flagged[i]),
            }
    return results, per_case


def _memorisation_rows(kind: str, found: Memorisation, nearest: float, targets: QualityTargets) -> list[Result]:
    """Ratio, smallest distance (any case below the floor is flagged) and number of flagged cases."""
    n, details = len(found.flagged), {"ratio_range": found.ratio_range, "half_range": found.half_range}
    asked, reached = f"at least {targets.min_memorisation_ratio:g}", found.ratio >= targets.min_memorisation_ratio
    return [
        Result(f"{kind}: ratio of nearest distances", found.ratio, 1.0, n, asked, reached, details),
        Result(f"{kind}: smallest distance", nearest, found.threshold, n),
        Result(f"{kind}: flagged cases", int(found.flagged.sum()), found.expected_flagged, n),
    ]


# --- small sums ----------------------------------------------------------------------------------------------------


def _finite(reduce: Callable[[np.ndarray], Any], values: np.ndarray | Sequence[float]) -> float:
    known = np.asarray(values, dtype=float)
    known = known[np.isfinite(known)]
    return float(reduce(known)) if len(known) else float("nan")


def _mean(values: np.ndarray | Sequence[float]) -> float:
    return _finite(np.mean, values)


def _std(values: np.ndarray) -> float:
    return _finite(np.std, values)


def _spreads(value: Sequence[float], floor: Sequence[float]) -> dict[str, float]:
    return {"sd": float(np.std(value)), "floor_sd": float(np.std(floor))}
