"""Evaluate a generator: its synthetic cases against real cases it never saw, with a real-vs-real floor beside each number.

Writes ``evaluation.json`` (every number), ``evaluation.html`` (self-contained) and ``pictures/*.png``.
"""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.spatial.distance import cdist

from nnunet_sbldm import __version__
from nnunet_sbldm.common.files import temporary_folder, write_json
from nnunet_sbldm.data.cases import load_arrays, load_preprocessed
from nnunet_sbldm.data.conditions import as_dict, feature_names
from nnunet_sbldm.data.dataset import NnunetDataset
from nnunet_sbldm.evaluation.cases import (
    MIN_CASES,
    RealCases,
    SyntheticCases,
    evaluated_cases,
    make_cases,
    numbered_requests,
)
from nnunet_sbldm.evaluation.compare import Reference, Sections, compare
from nnunet_sbldm.evaluation.goals import DEFAULT_TARGETS, QualityTargets
from nnunet_sbldm.evaluation.measures import CaseSet
from nnunet_sbldm.evaluation.nnunet_encoder import NnunetEncoder, load_encoder
from nnunet_sbldm.evaluation.report import draw_pictures, write_evaluation_report
from nnunet_sbldm.evaluation.results import (
    FEW_CASES,
    Result,
    Sets,
    distribution_results,
    diversity_results,
    reconstruction_results,
)
from nnunet_sbldm.generator.card import refresh_card
from nnunet_sbldm.generator.checkpoint import Generator
from nnunet_sbldm.generator.records import SyntheticRecord
from nnunet_sbldm.ldm.config import SamplerConfig
from nnunet_sbldm.quality.appearance import standardised
from nnunet_sbldm.types import UserError

FORMAT_VERSION = 2


@dataclass(frozen=True)
class EvaluationSettings:
    """How to evaluate.

    Attributes:
        num_cases: synthetic cases to ask for; their seeds are ``seed``, ``seed + 1``, ...
        sampler: steps, guidance and batch size.
        seed: also decides every random choice of the metrics.
        diversity: width of the condition model's kernels.
        use_gate: evaluate what an expansion would write, drawn again where the quality gate rejects; otherwise raw draws.
        targets: what is to be reached.
        nnunet: folder of a trained nnU-Net whose encoder gives features, if there is one.
    """

    num_cases: int = 64
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    seed: int = 0
    diversity: float = 1.0
    use_gate: bool = True
    targets: QualityTargets = DEFAULT_TARGETS
    nnunet: Path | None = None


def evaluate(generator: Generator, dataset: NnunetDataset, settings: EvaluationSettings, output: Path) -> dict[str, Any]:
    """Evaluate a generator and write the report.

    Args:
        generator: trained generator, on the device to use.
        dataset: the dataset it was trained on, in the same configuration.
        settings: what to draw and how to judge it.
        output: folder to write.

    Returns:
        The content of ``evaluation.json``.

    Raises:
        UserError: other dataset or preprocessing, fold without held-out cases, one of them was seen in training, or an
            unsuitable nnU-Net.
        UnfitGeneratorError: a synthetic case is empty, or the quality gate accepts fewer than two.
    """
    start = time.monotonic()
    training_ids, held_out_ids = evaluated_cases(generator, dataset)
    if settings.num_cases < MIN_CASES:
        raise UserError(f"An evaluation needs at least {MIN_CASES} synthetic cases, got {settings.num_cases}.")
    plan = generator.plan
    encoder = load_encoder(settings.nnunet, dataset, plan.fold, generator.device) if settings.nnunet else None
    requests = numbered_requests(settings.num_cases, settings.seed, settings.diversity)
    with temporary_folder(output) as work:
        reference = Reference.measure(
            generator, dataset, RealCases.collect(plan, dataset, training_ids, held_out_ids, work / "real")
        )
        made = make_cases(generator, dataset, requests, settings.sampler, reference.nearest, work, settings.use_gate)
        rng = np.random.default_rng([settings.seed, 2])
        sections, per_case = measure_quality(generator, reference, made.cases, made.records, rng, settings.targets, made.draws)
        if encoder:
            sections["nnunet"] = encoder_results(encoder, dataset, reference, made, rng)
        result = {
            **_circumstances(generator, dataset, settings, reference, made),
            "sections": {name: [_result_to_json(r) for r in results] for name, results in sections.items()},
            "synthetic_cases": per_case,
            "seconds": round(time.monotonic() - start, 1),
        }
        write_json(output / "evaluation.json", _without_nan(result))
        refresh_card(generator.folder, _without_nan(result))
        pictures = draw_pictures(made.cases, reference.cases.training, result, output / "pictures")
    write_evaluation_report(_without_nan(result), pictures, output / "evaluation.html")
    return result


# --- numbers -------------------------------------------------------------------------------------------------------


def measure_quality(
    generator: Generator,
    reference: Reference,
    synthetic: CaseSet,
    records: Sequence[SyntheticRecord],
    rng: np.random.Generator,
    targets: QualityTargets = DEFAULT_TARGETS,
    draws: Sequence[SyntheticRecord] = (),
) -> tuple[Sections, list[dict[str, Any]]]:
    """All results by section, and what there is to say of each synthetic case; arguments as for :func:`compare`."""
    real = reference.cases
    compared = compare(generator, reference, synthetic, records, rng, targets, draws)
    sections = {
        "reconstruction": reconstruction_results(compared.sets, _class_names(generator)),
        **compared.sections,
        "diversity": diversity_results(synthetic, real.held_out, real.training, rng),
    }
    return sections, _per_case(records, real.training.case_ids, compared.sets, compared.nearest)


def encoder_results(
    encoder: NnunetEncoder, dataset: NnunetDataset, reference: Reference, made: SyntheticCases, rng: np.random.Generator
) -> list[Result]:
    """Distribution of the features of a trained nnU-Net's encoder, of the cases as nnU-Net's preprocessing leaves them."""
    tables = []
    for cases, title in ((reference.cases.held_out, "held-out cases"), (reference.cases.training, "training cases")):
        images = (load_preprocessed(dataset, c)[0] for c in cases.case_ids)
        tables.append(encoder.table(images, len(cases), f"nnU-Net features of {title}"))
    images = (load_arrays(made.preprocessed, c)[0] for c in made.cases.case_ids)
    synthetic = encoder.table(images, len(made.cases), "nnU-Net features of synthetic cases")
    return distribution_results(synthetic, tables[0], tables[1], rng)


def _class_names(generator: Generator) -> list[str]:
    """Names of the foreground labels, in the order of the encoding."""
    names = {v: t.name for t in generator.plan.targets if len(t.label_values) == 1 for v in t.label_values}
    return [names.get(v, f"label {v}") for v in generator.plan.encoding.values[2:]]


def _per_case(
    records: Sequence[SyntheticRecord], training_ids: Sequence[str], sets: Sets, nearest: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Seed, conditions, nearest training cases and distance to the nearest real case in shape and intensity."""
    (held_out, training), synthetic = standardised([sets.held_out.features, sets.training.features], sets.synthetic.features)
    atypical = cdist(synthetic, np.concatenate([held_out, training])).min(axis=1) / np.sqrt(synthetic.shape[1])
    names, rows = feature_names(sets.targets), []
    for i, record in enumerate(records):
        kinds = {k: {"training_case": training_ids[v["index"]], **v} for k, v in nearest[i].items()}
        rows.append(
            {
                "case_id": record.case_id,
                "seed": record.seed,
                "attempt": record.attempt,
                "rejected_by_gate": list(record.gate.get("reasons", ())),
                "asked": record.condition_asked,
                "obtained": as_dict(names, sets.synthetic.condition[i]),
                "feature_distance": float(atypical[i]),
                "nearest": kinds,
                "flagged": [k for k, v in kinds.items() if v["flagged"]],
            }
        )
    return rows


# --- what is written -----------------------------------------------------------------------------------------------


def _circumstances(
    generator: Generator, dataset: NnunetDataset, settings: EvaluationSettings, reference: Reference, made: SyntheticCases
) -> dict[str, Any]:
    plan, real = generator.plan, reference.cases
    return {
        "format": FORMAT_VERSION,
        "generator": {"folder": str(generator.folder), "hash": generator.hash, "preset": plan.preset.name, "fold": plan.fold},
        "dataset": {"name": dataset.name, "plans": dataset.plans_name, "configuration": dataset.configuration},
        "num_cases": {"synthetic": len(made.cases), "held_out": len(real.held_out), "training": len(real.training)},
        "held_out_cases": list(real.held_out.case_ids),
        "training_cases": list(real.training.case_ids),
        "sampler": {**asdict(settings.sampler), "diversity": settings.diversity},
        "seconds_per_draw": made.seconds_per_draw,
        "gate": _gate(settings, made),
        "targets": asdict(settings.targets),
        "nnunet": str(settings.nnunet) if settings.nnunet else None,
        "seed": settings.seed,
        "versions": {
            "nnunet_sbldm": __version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
            "device": generator.device.type,
        },
        "warnings": _warnings(reference, made),
    }


def _gate(settings: EvaluationSettings, made: SyntheticCases) -> dict[str, Any]:
    """What the quality gate says of all draws, whether or not it decided which cases were evaluated."""
    first = [not r.gate.get("reasons") for r in made.draws if r.attempt == 0]
    return {
        "used": settings.use_gate,
        "draws": made.tally.attempts,
        "evaluations": made.tally.evaluations,
        "cases_asked": settings.num_cases,
        "first_draws_accepted_share": sum(first) / len(first),
        "cases_accepted_share": made.tally.accepted / settings.num_cases,
        "reasons": dict(made.tally.reasons.most_common()),
    }


def _warnings(reference: Reference, made: SyntheticCases) -> list[str]:
    real = reference.cases
    sizes = {"synthetic": len(made.cases), "held-out": len(real.held_out), "training": len(real.training)}
    few = [
        f"There are only {n} {name} cases: with fewer than {FEW_CASES}, distances between distributions say little."
        for name, n in sizes.items()
        if n < FEW_CASES
    ]
    missing = made.num_requests - len(made.cases)
    gone = f"The quality gate gave up {missing} of {made.num_requests} cases; the numbers are of the others."
    return [*few, gone] if missing else few


def _result_to_json(result: Result) -> dict[str, Any]:
    value = asdict(result)
    if math.isnan(result.value):
        value["reached"] = None
    return value


def _without_nan(value: Any) -> Any:
    """The same JSON with null for numbers that do not exist."""
    if isinstance(value, dict):
        return {k: _without_nan(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(v) for v in value]
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value
