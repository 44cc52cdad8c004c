"""Evaluate a generator: its synthetic cases against real cases it never saw, with a real-vs-real floor beside each number.

Writes ``evaluation.json`` (every number), ``evaluation.html`` (self-contained) and ``pictures/*.png``.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_sbldm.common.files import temporary_folder, write_json
from nnunet_sbldm.common.seeds import EvaluationStream, rng_of
from nnunet_sbldm.data.cases import load_arrays, load_preprocessed
from nnunet_sbldm.data.dataset import NnunetDataset
from nnunet_sbldm.evaluation.case_set import CaseSet
from nnunet_sbldm.evaluation.cases import (
    MIN_CASES,
    RealCases,
    SyntheticCases,
    evaluated_cases,
    make_cases,
    numbered_requests,
)
from nnunet_sbldm.evaluation.compare import Reference, Sections, compare_with_real
from nnunet_sbldm.evaluation.content import circumstances, per_case, without_nan
from nnunet_sbldm.evaluation.distributions import distribution_results
from nnunet_sbldm.evaluation.goals import DEFAULT_GOALS, QualityGoals
from nnunet_sbldm.evaluation.images import diversity_results
from nnunet_sbldm.evaluation.nnunet_encoder import NnunetEncoder, load_encoder
from nnunet_sbldm.evaluation.report import draw_pictures, write_evaluation_report
from nnunet_sbldm.evaluation.results import Result, reconstruction_results
from nnunet_sbldm.evaluation.settings import EvaluationSettings
from nnunet_sbldm.generator.card import refresh_card
from nnunet_sbldm.generator.checkpoint import SBLDMModel
from nnunet_sbldm.generator.records import SyntheticRecord
from nnunet_sbldm.types import UserError


def evaluate(model: SBLDMModel, dataset: NnunetDataset, settings: EvaluationSettings, output: Path) -> dict[str, Any]:
    """Evaluate a generator and write the report.

    Args:
        model: trained model, on the device to use.
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
    training_ids, held_out_ids = evaluated_cases(model, dataset)
    if settings.num_cases < MIN_CASES:
        raise UserError(f"An evaluation needs at least {MIN_CASES} synthetic cases, got {settings.num_cases}.")
    plan = model.plan
    encoder = load_encoder(settings.nnunet, dataset, plan.fold, model.device) if settings.nnunet else None
    requests = numbered_requests(settings.num_cases, settings.seed, settings.diversity)
    with temporary_folder(output) as work:
        reference = Reference.measure(
            model, dataset, RealCases.collect(plan, dataset, training_ids, held_out_ids, work / "real")
        )
        made = make_cases(dataset, reference.nearest, requests, settings.sampler, work, settings.use_gate)
        rng = rng_of(settings.seed, EvaluationStream.COMPARISON)
        sections, rows = measure_quality(reference, made.cases, made.records, rng, settings.goals, made.draws)
        if encoder:
            sections["nnunet"] = encoder_results(encoder, dataset, reference, made, rng)
        result = {
            **circumstances(settings, reference, made),
            "sections": {name: [r.to_json() for r in results] for name, results in sections.items()},
            "synthetic_cases": rows,
            "seconds": round(time.monotonic() - start, 1),
        }
        write_json(output / "evaluation.json", without_nan(result))
        refresh_card(model.folder, without_nan(result))
        pictures = draw_pictures(made.cases, reference.cases.training, result, output / "pictures")
    write_evaluation_report(without_nan(result), pictures, output / "evaluation.html")
    return result


# --- numbers -------------------------------------------------------------------------------------------------------


def measure_quality(
    reference: Reference,
    synthetic: CaseSet,
    records: Sequence[SyntheticRecord],
    rng: np.random.Generator,
    goals: QualityGoals = DEFAULT_GOALS,
    draws: Sequence[SyntheticRecord] = (),
) -> tuple[Sections, list[dict[str, Any]]]:
    """All results by section, and what there is to say of each synthetic case; arguments as for :func:`compare_with_real`."""
    real = reference.cases
    compared = compare_with_real(reference, synthetic, records, rng, goals, draws)
    sections = {
        "reconstruction": reconstruction_results(compared.sets, _class_names(reference.model)),
        **compared.sections,
        "diversity": diversity_results(synthetic, real.held_out, real.training, rng),
    }
    return sections, per_case(records, real.training.case_ids, compared.sets, compared.nearest)


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


def _class_names(model: SBLDMModel) -> list[str]:
    """Names of the foreground labels, in the order of the encoding."""
    names = {v: t.name for t in model.plan.targets if len(t.label_values) == 1 for v in t.label_values}
    return [names.get(v, f"label {v}") for v in model.plan.encoding.values[2:]]
