"""Synthetic cases of one generator and sampler, measured against real cases that are measured once.

The evaluation is one such comparison with a report; a comparison of samplers or of generators is many, each of which is
a row of numbers:

    real = RealCases.collect(generator.plan, dataset, training_ids, held_out_ids, folder)  # once per dataset and grid
    reference = Reference.measure(generator, dataset, real)                                # once per generator
    row = score(generator, dataset, reference, requests, sampler, folder)                  # once per setting
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_sbldm.common.files import temporary_folder
from nnunet_sbldm.data.conditions import feature_names
from nnunet_sbldm.data.dataset import NnunetDataset
from nnunet_sbldm.evaluation.cases import RealCases, make_cases
from nnunet_sbldm.evaluation.goals import DEFAULT_TARGETS, QualityTargets
from nnunet_sbldm.evaluation.measures import CaseSet, Measures, feature_columns, halo_columns, measure_cases
from nnunet_sbldm.evaluation.results import (
    ROUGHNESS,
    Result,
    Sets,
    agreement_results,
    coherence_results,
    condition_results,
    distribution_results,
    mask_results,
    memorisation_results,
)
from nnunet_sbldm.generator.checkpoint import Generator
from nnunet_sbldm.generator.nearest import NearestRealCase
from nnunet_sbldm.generator.records import SyntheticRecord
from nnunet_sbldm.generator.requests import Request
from nnunet_sbldm.ldm.config import SamplerConfig

Sections = dict[str, list[Result]]


@dataclass(frozen=True)
class Reference:
    """Real cases as one generator's autoencoder sees them.

    Attributes:
        cases: the cases.
        training: measures of the training cases.
        held_out: measures of the held-out cases.
        nearest: latents of the training cases, for the quality gate.
    """

    cases: RealCases
    training: Measures
    held_out: Measures
    nearest: NearestRealCase

    @staticmethod
    def measure(generator: Generator, dataset: NnunetDataset, cases: RealCases) -> Reference:
        """Measure all real cases."""
        return Reference(
            cases,
            measure_cases(generator, cases.training, "measuring training cases"),
            measure_cases(generator, cases.held_out, "measuring held-out cases"),
            NearestRealCase(generator, dataset),
        )


@dataclass(frozen=True)
class Comparison:
    """Numbers of a comparison.

    Attributes:
        sections: results by section.
        nearest: for every synthetic case its nearest training cases.
        sets: the measures behind the results.
    """

    sections: Sections
    nearest: list[dict[str, Any]]
    sets: Sets


def compare(
    generator: Generator,
    reference: Reference,
    synthetic: CaseSet,
    records: Sequence[SyntheticRecord],
    rng: np.random.Generator,
    targets: QualityTargets = DEFAULT_TARGETS,
    draws: Sequence[SyntheticRecord] = (),
) -> Comparison:
    """Measure synthetic cases and compare them with the reference.

    Args:
        generator: its autoencoder and plan serve to measure.
        reference: real cases, measured with the same generator.
        synthetic: synthetic cases on the grid.
        records: one per synthetic case.
        rng: draws parts, permutations and resamples.
        targets: what is to be reached.
        draws: records of all draws, if the cases were chosen among them.
    """
    plan, measured = generator.plan, measure_cases(generator, synthetic, "measuring synthetic cases")
    held_out, training = reference.held_out, reference.training
    sets = Sets(measured, held_out, training, plan.targets)
    names = feature_names(plan.targets)
    asked = _table([r.condition_asked for r in records], names)
    first = [r for r in draws if r.attempt == 0]
    before_gate = _table([r.condition_asked for r in first], names), _table([r.condition_obtained for r in first], names)
    columns = [*feature_columns(generator, reference.cases.held_out), *halo_columns(plan)]
    memorised, nearest = memorisation_results(sets, rng, targets)
    sections = {
        "condition": condition_results(asked, sets, targets, before_gate if first else None),
        "masks": mask_results(sets, rng, targets),
        "agreement": agreement_results(sets, columns, rng, targets),
        "coherence": coherence_results(sets, targets),
        "features": distribution_results(measured.features, held_out.features, training.features, rng),
        "latents": distribution_results(measured.latents, held_out.latents, training.latents, rng),
        "memorisation": memorised,
    }
    return Comparison(sections, nearest, sets)


def _table(rows: Sequence[Mapping[str, float]], names: Sequence[str]) -> np.ndarray:
    """[rows, names], NaN where a row has no such name."""
    return np.array([[row.get(n, np.nan) for n in names] for row in rows]).reshape(-1, len(names))


def score(
    generator: Generator,
    dataset: NnunetDataset,
    reference: Reference,
    requests: Sequence[Request],
    sampler: SamplerConfig,
    work: Path,
    seed: int = 0,
    use_gate: bool = False,
) -> dict[str, float]:
    """Draw cases and put their quality into one row of numbers; arguments as for :func:`make_cases`.

    Returns:
        What :func:`headline` makes of the comparison, and ``accepted_share`` (of draws, by the quality gate) and
        ``seconds_per_draw`` (sampling and decoding).
    """
    with temporary_folder(work) as folder:
        made = make_cases(generator, dataset, requests, sampler, reference.nearest, folder, use_gate)
        comparison = compare(generator, reference, made.cases, made.records, np.random.default_rng([seed, 2]))
    row = headline(comparison.sections, [t.name for t in generator.plan.targets])
    return {**row, "accepted_share": made.accepted_share, "seconds_per_draw": made.seconds_per_draw}


def headline(sections: Sections, targets: Sequence[str]) -> dict[str, float]:
    """The numbers that settings are compared by; of several labels or regions the worst counts.

    Returns:
        ``volume_r`` and ``centroid_error`` (also per target, ``volume_r/TARGET``), ``volume_error`` (share);
        ``w1_volume``, ``w1_sphericity``, ``w1_roughness`` (of outlines) in multiples of the floor; ``specks``;
        ``neighbour_ssim``, ``gradient_ratio`` and ``banding`` as multiples of real cases; ``frechet`` and ``kid`` of the
        features with their floors, ``coverage``; ``frechet_latents`` and its floor; ``memorisation`` (the smallest ratio of
        image, mask and pair) and ``flagged``.
    """
    found = {name: {r.name: r for r in results} for name, results in sections.items()}
    condition, masks, coherence = found["condition"], found["masks"], found["coherence"]
    features, latents, memorised = found["features"], found["latents"], found["memorisation"]
    volume_r = {t: condition[f"{t}: r of log volume"].value for t in targets}
    centroid = {t: condition[f"{t}: median centroid error (share of field of view)"].value for t in targets}
    return {
        "volume_r": _worst(min, volume_r.values()),
        "centroid_error": _worst(max, centroid.values()),
        "volume_error": _worst(max, (condition[f"{t}: median volume error (share)"].value for t in targets)),
        "w1_volume": _worst(max, (_multiple(masks[f"{t}/volume_ml"]) for t in targets)),
        "w1_sphericity": _worst(max, (_multiple(masks[f"{t}/sphericity"]) for t in targets)),
        "w1_roughness": _worst(max, (_multiple(masks[f"{t}/{ROUGHNESS}"]) for t in targets)),
        "specks": masks["specks"].value,
        **{name: _multiple(coherence[name]) for name in ("neighbour_ssim", "gradient_ratio", "banding")},
        "frechet": features["Frechet distance"].value,
        "frechet_floor": features["Frechet distance"].floor,
        "kid": features["kernel distance (KID)"].value,
        "kid_floor": features["kernel distance (KID)"].floor,
        "coverage": features["coverage"].value,
        "frechet_latents": latents["Frechet distance"].value,
        "frechet_latents_floor": latents["Frechet distance"].floor,
        "memorisation": _worst(min, _values(memorised, "ratio of nearest distances")),
        "flagged": _worst(max, _values(memorised, "flagged cases")),
        **{f"volume_r/{t}": v for t, v in volume_r.items()},
        **{f"centroid_error/{t}": v for t, v in centroid.items()},
    }


def _values(results: Mapping[str, Result], ending: str) -> list[float]:
    return [r.value for name, r in results.items() if name.endswith(ending)]


def _worst(choose: Callable[[Iterable[float]], float], values: Iterable[float]) -> float:
    known = [v for v in values if np.isfinite(v)]
    return float(choose(known)) if known else float("nan")


def _multiple(result: Result) -> float:
    return result.value / result.floor if result.floor else float("nan")
