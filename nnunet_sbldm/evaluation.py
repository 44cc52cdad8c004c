"""Evaluate a generator: its synthetic cases against real cases it never saw, with a real-vs-real floor beside each number.

Writes ``evaluation.json`` (every number), ``evaluation.html`` (self-contained) and ``pictures/*.png``.
"""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.spatial.distance import cdist
from tqdm import tqdm

from nnunet_sbldm import __version__
from nnunet_sbldm.checkpoint import Generator, refuse_mismatch
from nnunet_sbldm.conditions import as_dict, feature_names
from nnunet_sbldm.config import SamplerConfig
from nnunet_sbldm.evaluation_report import draw_pictures, write_evaluation_report
from nnunet_sbldm.features import standardised
from nnunet_sbldm.files import temporary_folder, write_json
from nnunet_sbldm.folds import find_leaks
from nnunet_sbldm.measures import CaseSet, feature_columns, measure_cases
from nnunet_sbldm.nnunet import NnunetDataset, fingerprints_of, fold_cases, load_arrays, load_preprocessed, preprocess_case
from nnunet_sbldm.provenance import SyntheticRecord
from nnunet_sbldm.quality import (
    FEW_CASES,
    Result,
    Sets,
    agreement_results,
    coherence_results,
    condition_results,
    distribution_results,
    diversity_results,
    mask_results,
    memorisation_results,
    reconstruction_results,
)
from nnunet_sbldm.synthesis import Request, synthesise
from nnunet_sbldm.types import FloatArray, LabelArray, UnfitGeneratorError, UserError

FORMAT_VERSION = 1
MIN_CASES = 2
MAX_CASES_NAMED = 20


def evaluate(
    generator: Generator,
    dataset: NnunetDataset,
    num_cases: int,
    sampler: SamplerConfig,
    output: Path,
    seed: int = 0,
    diversity: float = 1.0,
) -> dict[str, Any]:
    """Evaluate a generator and write the report.

    Args:
        generator: trained generator, on the device to use.
        dataset: the dataset it was trained on, in the same configuration.
        num_cases: synthetic cases to make; their seeds are ``seed``, ``seed + 1``, ...
        sampler: steps, guidance and batch size.
        output: folder to write.
        seed: also decides every random choice of the metrics.
        diversity: width of the condition model's kernels.

    Returns:
        The content of ``evaluation.json``.

    Raises:
        UserError: other dataset or preprocessing, fold without held-out cases, or one of them was seen in training.
        UnfitGeneratorError: a synthetic case is empty.
    """
    start = time.monotonic()
    training_ids, held_out_ids = evaluated_cases(generator, dataset)
    if num_cases < MIN_CASES:
        raise UserError(f"An evaluation needs at least {MIN_CASES} synthetic cases, got {num_cases}.")
    requests = [Request(f"sbldm_{seed + i:05d}", seed + i, {}, diversity) for i in range(num_cases)]
    with temporary_folder(output) as work:
        training = _real_cases(generator, dataset, training_ids, work / "training")
        held_out = _real_cases(generator, dataset, held_out_ids, work / "held_out")
        synthetic, records = _synthetic_cases(generator, dataset, requests, sampler, work)
        cases = EvaluatedCases(synthetic, held_out, training, tuple(records))
        sections, per_case = measure_quality(generator, cases, seed)
        result = {
            **_circumstances(generator, dataset, cases, seed),
            "sections": {name: [_result_to_json(r) for r in results] for name, results in sections.items()},
            "synthetic_cases": per_case,
            "seconds": round(time.monotonic() - start, 1),
        }
        write_json(output / "evaluation.json", _without_nan(result))
        pictures = draw_pictures(cases, result, output / "pictures")
    write_evaluation_report(_without_nan(result), pictures, output / "evaluation.html")
    return result


@dataclass(frozen=True)
class EvaluatedCases:
    """The three sets of cases on the grid, and the records of the synthetic ones."""

    synthetic: CaseSet
    held_out: CaseSet
    training: CaseSet
    records: tuple[SyntheticRecord, ...]


# --- cases ---------------------------------------------------------------------------------------------------------


def evaluated_cases(generator: Generator, dataset: NnunetDataset) -> tuple[list[str], list[str]]:
    """Ids of the real cases that the generator saw, and of the held-out cases of its fold.

    Raises:
        UserError: see :func:`evaluate`.
    """
    plan = generator.plan
    refuse_mismatch(generator, dataset)
    if dataset.plans_hash() != plan.plans_hash:
        raise UserError(
            f"The SBLDM in {generator.folder} was trained on {plan.dataset_name} as preprocessed by {plan.plans_name} at that "
            f"time; {dataset.name} with {dataset.plans_name} is preprocessed differently: train the SBLDM again."
        )
    _, held_out = fold_cases(dataset, plan.fold)
    if len(held_out) < MIN_CASES:
        raise UserError(
            f"Fold {plan.fold} of {dataset.name} holds out {len(held_out)} real case(s); an evaluation needs at least "
            f"{MIN_CASES} that the SBLDM never saw: evaluate one that was trained on a numbered fold."
        )
    leaks = find_leaks(generator.seen, fingerprints_of(dataset, held_out).values())
    if leaks:
        named = ", ".join(str(leak) for leak in leaks[:MAX_CASES_NAMED])
        raise UserError(
            f"The SBLDM in {generator.folder} has seen {len(leaks)} of the held-out cases of fold {plan.fold}: {named}; "
            "held-out cases must be unseen, so train it again on this fold."
        )
    known = set(dataset.real_case_ids)
    training = [c.case_id for c in generator.seen if c.case_id in known]
    if len(training) < MIN_CASES:
        raise UserError(f"{dataset.name} has {len(training)} of the {len(generator.seen)} cases that the SBLDM was trained on.")
    return training, held_out


def _real_cases(generator: Generator, dataset: NnunetDataset, case_ids: Sequence[str], folder: Path) -> CaseSet:
    return CaseSet.collect(folder, generator.plan, case_ids, (load_preprocessed(dataset, c) for c in case_ids))


def _synthetic_cases(
    generator: Generator, dataset: NnunetDataset, requests: Sequence[Request], sampler: SamplerConfig, work: Path
) -> tuple[CaseSet, list[SyntheticRecord]]:
    """Synthetic cases, which go through nnU-Net's preprocessing like real ones."""
    records: list[SyntheticRecord] = []

    def preprocessed() -> Iterator[tuple[FloatArray, LabelArray]]:
        for case, record in tqdm(synthesise(generator, requests, sampler), "sampling", len(requests), unit="case"):
            if not case.image.any():
                raise UnfitGeneratorError(f"The SBLDM in {generator.folder} made an empty case (seed {record.seed}).")
            records.append(record)
            with temporary_folder(work) as folder:
                preprocess_case(dataset, case, folder / case.case_id)
                yield load_arrays(folder, case.case_id)

    cases = CaseSet.collect(work / "synthetic", generator.plan, [r.case_id for r in requests], preprocessed())
    return cases, records


# --- numbers -------------------------------------------------------------------------------------------------------


def measure_quality(
    generator: Generator, cases: EvaluatedCases, seed: int
) -> tuple[dict[str, list[Result]], list[dict[str, Any]]]:
    """All results by section, and what there is to say of each synthetic case."""
    plan, rng = generator.plan, np.random.default_rng([seed, 2])
    synthetic = measure_cases(generator, cases.synthetic, "measuring synthetic cases")
    held_out = measure_cases(generator, cases.held_out, "measuring held-out cases")
    training = measure_cases(generator, cases.training, "measuring training cases")
    sets = Sets(synthetic, held_out, training, plan.targets)
    asked = np.array([[r.condition_asked.get(n, np.nan) for n in feature_names(plan.targets)] for r in cases.records])
    columns = feature_columns(generator, cases.held_out)
    memorised, nearest = memorisation_results(sets, rng)
    sections = {
        "reconstruction": reconstruction_results(sets, _class_names(generator)),
        "condition": condition_results(asked, sets),
        "masks": mask_results(sets, rng),
        "agreement": agreement_results(sets, columns, rng),
        "coherence": coherence_results(sets),
        "features": distribution_results(synthetic.features, held_out.features, training.features, rng),
        "latents": distribution_results(synthetic.latents, held_out.latents, training.latents, rng),
        "diversity": diversity_results(cases.synthetic, cases.held_out, cases.training, rng),
        "memorisation": memorised,
    }
    return sections, _per_case(cases, sets, nearest)


def _class_names(generator: Generator) -> list[str]:
    """Names of the foreground labels, in the order of the encoding."""
    names = {v: t.name for t in generator.plan.targets if len(t.label_values) == 1 for v in t.label_values}
    return [names.get(v, f"label {v}") for v in generator.plan.encoding.values[2:]]


def _per_case(cases: EvaluatedCases, sets: Sets, nearest: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Seed, conditions, nearest training cases and distance to the nearest real case in shape and intensity."""
    (held_out, training), synthetic = standardised([sets.held_out.features, sets.training.features], sets.synthetic.features)
    atypical = cdist(synthetic, np.concatenate([held_out, training])).min(axis=1) / np.sqrt(synthetic.shape[1])
    names, rows = feature_names(sets.targets), []
    for i, record in enumerate(cases.records):
        kinds = {k: {"training_case": cases.training.case_ids[v["index"]], **v} for k, v in nearest[i].items()}
        rows.append(
            {
                "case_id": record.case_id,
                "seed": record.seed,
                "asked": record.condition_asked,
                "obtained": as_dict(names, sets.synthetic.condition[i]),
                "feature_distance": float(atypical[i]),
                "nearest": kinds,
                "flagged": [k for k, v in kinds.items() if v["flagged"]],
            }
        )
    return rows


# --- what is written -----------------------------------------------------------------------------------------------


def _circumstances(generator: Generator, dataset: NnunetDataset, cases: EvaluatedCases, seed: int) -> dict[str, Any]:
    plan = generator.plan
    return {
        "format": FORMAT_VERSION,
        "generator": {"folder": str(generator.folder), "hash": generator.hash, "preset": plan.preset.name, "fold": plan.fold},
        "dataset": {"name": dataset.name, "plans": dataset.plans_name, "configuration": dataset.configuration},
        "num_cases": {k: len(getattr(cases, k)) for k in ("synthetic", "held_out", "training")},
        "held_out_cases": list(cases.held_out.case_ids),
        "training_cases": list(cases.training.case_ids),
        "sampler": cases.records[0].sampler,
        "seed": seed,
        "versions": {
            "nnunet_sbldm": __version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
            "device": generator.device.type,
        },
        "warnings": _warnings(cases),
    }


def _warnings(cases: EvaluatedCases) -> list[str]:
    sizes = {"synthetic": len(cases.synthetic), "held-out": len(cases.held_out), "training": len(cases.training)}
    return [
        f"There are only {n} {name} cases: with fewer than {FEW_CASES}, distances between distributions say little."
        for name, n in sizes.items()
        if n < FEW_CASES
    ]


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
