"""Synthetic cases of one generator and sampler, measured against real cases that are measured once.

The evaluation is one such comparison with a report; a comparison of samplers or of generators is many, each of which is
a row of numbers:

    real = RealCases.collect(generator.plan, dataset, training_ids, held_out_ids, folder)  # once per dataset and grid
    reference = Reference.measure(generator, dataset, real)                                # once per generator
    row = score(reference, requests, sampler, folder)                                      # once per setting
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_sbldm.common.files import temporary_folder
from nnunet_sbldm.common.seeds import EvaluationStream, rng_of
from nnunet_sbldm.data.conditions import feature_names
from nnunet_sbldm.data.dataset import NnunetDataset
from nnunet_sbldm.evaluation.adherence import condition_results
from nnunet_sbldm.evaluation.case_set import CaseSet
from nnunet_sbldm.evaluation.cases import RealCases, make_cases
from nnunet_sbldm.evaluation.copies import memorisation_results
from nnunet_sbldm.evaluation.distributions import ROUGHNESS, distribution_results, mask_results
from nnunet_sbldm.evaluation.goals import DEFAULT_GOALS, QualityGoals
from nnunet_sbldm.evaluation.images import agreement_results, coherence_results
from nnunet_sbldm.evaluation.measures import Measures, feature_columns, halo_columns, measure_cases
from nnunet_sbldm.evaluation.results import Result, Sets
from nnunet_sbldm.generator.checkpoint import SBLDMModel
from nnunet_sbldm.generator.nearest import NearestRealCase
from nnunet_sbldm.generator.records import SyntheticRecord
from nnunet_sbldm.generator.requests import Request
from nnunet_sbldm.ldm.config import SamplerConfig

Sections = dict[str, list[Result]]


@dataclass(frozen=True)
class Reference:
    """Real cases as one generator's autoencoder sees them.

    Attributes:
        dataset: the dataset that the cases and the generator are of.
        cases: the cases.
        training: measures of the training cases.
        held_out: measures of the held-out cases.
        nearest: latents of the training cases, for the quality gate, with the generator that they are of.
    """

    dataset: NnunetDataset
    cases: RealCases
    training: Measures
    held_out: Measures
    nearest: NearestRealCase

    @property
    def model(self) -> SBLDMModel:
        """The generator whose autoencoder measures."""
        return self.nearest.model

    def with_model(self, model: SBLDMModel) -> Reference:
        """The same real cases for a generator that has the networks of this one, but differs in how it draws or decodes."""
        nearest = copy(self.nearest)
        nearest.model = model
        return replace(self, nearest=nearest)

    @staticmethod
    def measure(model: SBLDMModel, dataset: NnunetDataset, cases: RealCases) -> Reference:
        """Measure all real cases."""
        return Reference(
            dataset,
            cases,
            measure_cases(model, cases.training, "measuring training cases"),
            measure_cases(model, cases.held_out, "measuring held-out cases"),
            NearestRealCase(model, dataset),
        )


@dataclass(frozen=True)
class ComparedCases:
    """Numbers of synthetic cases beside real ones.

    Attributes:
        sections: results by section.
        nearest: for every synthetic case its nearest training cases.
        sets: the measures behind the results.
    """

    sections: Sections
    nearest: list[dict[str, Any]]
    sets: Sets


def compare_with_real(
    reference: Reference,
    synthetic: CaseSet,
    records: Sequence[SyntheticRecord],
    rng: np.random.Generator,
    goals: QualityGoals = DEFAULT_GOALS,
    draws: Sequence[SyntheticRecord] = (),
) -> ComparedCases:
    """Measure synthetic cases and compare them with the reference.

    Args:
        reference: real cases, measured with the generator of the synthetic ones.
        synthetic: synthetic cases on the grid.
        records: one per synthetic case.
        rng: draws parts, permutations and resamples.
        goals: what is to be reached.
        draws: records of all draws, if the cases were chosen among them.
    """
    plan = reference.model.plan
    measured = measure_cases(reference.model, synthetic, "measuring synthetic cases")
    held_out, training = reference.held_out, reference.training
    sets = Sets(measured, held_out, training, plan.targets)
    names = feature_names(plan.targets)
    asked = _table([r.condition_asked for r in records], names)
    first = [r for r in draws if r.attempt == 0]
    before_gate = _table([r.condition_asked for r in first], names), _table([r.condition_obtained for r in first], names)
    columns = [*feature_columns(reference.model, reference.cases.held_out), *halo_columns(plan)]
    memorised, nearest = memorisation_results(sets, rng, goals)
    made, unseen, seen = (m.images for m in (measured, held_out, training))
    sections = {
        "condition": condition_results(asked, sets, goals, before_gate if first else None),
        "masks": mask_results(sets, rng, goals),
        "agreement": agreement_results(sets, columns, rng),
        "coherence": coherence_results(sets, goals),
        "features": distribution_results(made.features, unseen.features, seen.features, rng),
        "latents": distribution_results(made.latents, unseen.latents, seen.latents, rng),
        "memorisation": memorised,
    }
    return ComparedCases(sections, nearest, sets)


def _table(rows: Sequence[Mapping[str, float]], names: Sequence[str]) -> np.ndarray:
    """[rows, names], NaN where a row has no such name."""
    return np.array([[row.get(n, np.nan) for n in names] for row in rows]).reshape(-1, len(names))


def score(
    reference: Reference,
    requests: Sequence[Request],
    sampler: SamplerConfig,
    work: Path,
    seed: int = 0,
    use_gate: bool = False,
) -> dict[str, float]:
    """Draw cases and put their quality into one row of numbers.

    Args:
        reference: real cases, measured with the generator that draws.
        requests: what to draw.
        sampler: steps, guidance and batch size.
        work: where to work; emptied again.
        seed: decides every random choice of the metrics.
        use_gate: as for :func:`nnunet_sbldm.evaluation.cases.make_cases`.

    Returns:
        What :func:`headline` makes of the comparison, and ``accepted_share`` (of draws, by the quality gate) and
        ``seconds_per_draw`` (sampling and decoding).
    """
    with temporary_folder(work) as folder:
        made = make_cases(reference.dataset, reference.nearest, requests, sampler, folder, use_gate)
        compared = compare_with_real(reference, made.cases, made.records, rng_of(seed, EvaluationStream.COMPARISON))
    row = headline(compared.sections, [t.name for t in reference.model.plan.targets])
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
    found = {name: {r.id: r for r in results} for name, results in sections.items()}
    condition, masks, coherence = found["condition"], found["masks"], found["coherence"]
    features, latents, memorised = found["features"], found["latents"], sections["memorisation"]
    volume_r = {t: condition[f"{t}/volume_r"].value for t in targets}
    centroid = {t: condition[f"{t}/centroid_error"].value for t in targets}
    shapes = {"w1_volume": "volume_ml", "w1_sphericity": "sphericity", "w1_roughness": ROUGHNESS}
    return {
        "volume_r": _worst(min, volume_r.values()),
        "centroid_error": _worst(max, centroid.values()),
        "volume_error": _worst(max, (condition[f"{t}/volume_error"].value for t in targets)),
        **{name: _worst(max, (_multiple(masks[f"{t}/{shape}"]) for t in targets)) for name, shape in shapes.items()},
        "specks": masks["specks"].value,
        **{name: _multiple(coherence[name]) for name in ("neighbour_ssim", "gradient_ratio", "banding")},
        **{name: features[name].value for name in ("frechet", "kid", "coverage")},
        **{f"{name}_floor": features[name].floor for name in ("frechet", "kid")},
        "frechet_latents": latents["frechet"].value,
        "frechet_latents_floor": latents["frechet"].floor,
        "memorisation": _worst(min, (r.value for r in memorised if r.measure == "distance_ratio")),
        "flagged": _worst(max, (r.value for r in memorised if r.measure == "flagged")),
        **{f"volume_r/{t}": v for t, v in volume_r.items()},
        **{f"centroid_error/{t}": v for t, v in centroid.items()},
    }


def _worst(choose: Callable[[Iterable[float]], float], values: Iterable[float]) -> float:
    known = [v for v in values if np.isfinite(v)]
    return float(choose(known)) if known else float("nan")


def _multiple(result: Result) -> float:
    return result.value / result.floor if result.floor else float("nan")
