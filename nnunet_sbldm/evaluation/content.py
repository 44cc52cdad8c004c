"""What ``evaluation.json`` says beside the results: the circumstances, and a row for each synthetic case."""

from __future__ import annotations

import math
import platform
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from scipy.spatial.distance import cdist

from nnunet_sbldm import __version__
from nnunet_sbldm.data.conditions import as_dict, feature_names
from nnunet_sbldm.evaluation.cases import SyntheticCases
from nnunet_sbldm.evaluation.compare import Reference
from nnunet_sbldm.evaluation.results import FEW_CASES, Sets
from nnunet_sbldm.evaluation.settings import EvaluationSettings
from nnunet_sbldm.generator.records import SyntheticRecord
from nnunet_sbldm.quality.appearance import standardised

FORMAT_VERSION = 2


def per_case(
    records: Sequence[SyntheticRecord], training_ids: Sequence[str], sets: Sets, nearest: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Seed, conditions, nearest training cases and distance to the nearest real case in shape and intensity."""
    atypical, names, rows = _distances_to_real(sets), feature_names(sets.targets), []
    for i, record in enumerate(records):
        kinds = {k: {"training_case": training_ids[v["index"]], **v} for k, v in nearest[i].items()}
        rows.append(
            {
                "case_id": record.case_id,
                "seed": record.seed,
                "attempt": record.attempt,
                "rejected_by_gate": list(record.gate.get("reasons", ())),
                "asked": record.condition_asked,
                "obtained": as_dict(names, sets.synthetic.masks.condition[i]),
                "feature_distance": float(atypical[i]),
                "nearest": kinds,
                "flagged": [k for k, v in kinds.items() if v["flagged"]],
            }
        )
    return rows


def _distances_to_real(sets: Sets) -> np.ndarray:
    """[N] root mean square difference of a synthetic case's features to those of the nearest real case."""
    real = [sets.held_out.images.features, sets.training.images.features]
    (held_out, training), synthetic = standardised(real, sets.synthetic.images.features)
    return cdist(synthetic, np.concatenate([held_out, training])).min(axis=1) / np.sqrt(synthetic.shape[1])


def circumstances(settings: EvaluationSettings, reference: Reference, made: SyntheticCases) -> dict[str, Any]:
    """What was evaluated, how, and with what."""
    model, dataset, real = reference.model, reference.dataset, reference.cases
    plan = model.plan
    return {
        "format": FORMAT_VERSION,
        "generator": {"folder": str(model.folder), "hash": model.hash, "preset": plan.preset.name, "fold": plan.fold},
        "dataset": {"name": dataset.name, "plans": dataset.plans_name, "configuration": dataset.configuration},
        "num_cases": {"synthetic": len(made.cases), "held_out": len(real.held_out), "training": len(real.training)},
        "held_out_cases": list(real.held_out.case_ids),
        "training_cases": list(real.training.case_ids),
        "sampler": {**asdict(settings.sampler), "diversity": settings.diversity},
        "seconds_per_draw": made.seconds_per_draw,
        "gate": _gate(settings, made),
        "targets": asdict(settings.goals),
        "nnunet": str(settings.nnunet) if settings.nnunet else None,
        "seed": settings.seed,
        "versions": {
            "nnunet_sbldm": __version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
            "device": model.device.type,
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


def without_nan(value: Any) -> Any:
    """The same JSON with null for numbers that do not exist."""
    if isinstance(value, dict):
        return {k: without_nan(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(v) for v in value]
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value
