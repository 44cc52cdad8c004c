"""Editing hosts: what is asked and what comes out, what the borders look like, and how long it takes beside whole cases.

    python benchmarks/editing.py -m nnUNet_results/DATASET/SBLDM__nnUNetPlans__small/fold_0 -n 40 -o editing_benchmark

edits training cases of the generator's fold and makes as many whole cases; ``-o`` gets ``edit_evaluation.json``, ``.html``,
``edits.png`` and ``benchmark.json``. On the phantom, whose tumours are brighter than everything around them, ``threshold_dice``
is the agreement of a mask with the rendered tumour.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from nnunet_sbldm.common.devices import best_precision
from nnunet_sbldm.common.files import write_json
from nnunet_sbldm.data.dataset import NnunetDataset, open_dataset
from nnunet_sbldm.editing.choices import KINDS, EditSettings
from nnunet_sbldm.evaluation.adherence import errors_of_an_edit
from nnunet_sbldm.evaluation.edits import NUMBERS, evaluate_edits
from nnunet_sbldm.evaluation.settings import EvaluationSettings
from nnunet_sbldm.expansion.ledger import ExpansionJob, ProductionSettings, Tally
from nnunet_sbldm.expansion.production import judged_draws, reference_of
from nnunet_sbldm.generator.checkpoint import SBLDMModel, load_model
from nnunet_sbldm.generator.requests import Request
from nnunet_sbldm.generator.zoo import find_model
from nnunet_sbldm.ldm.config import EDIT_SAMPLER, SAMPLERS, SamplerConfig


def whole_cases(model: SBLDMModel, dataset: NnunetDataset, num: int, sampler: SamplerConfig) -> dict[str, float | None]:
    """The same numbers of whole cases, drawn once each."""
    job, tally = ExpansionJob(model.plan.fold, model, ()), Tally()
    requests = [Request(f"whole_{i:04d}", i, {}) for i in range(num)]
    reference, target = reference_of(job, dataset), model.plan.targets[0].name
    list(judged_draws(job, requests[:1], reference, ProductionSettings(sampler, max_attempts=1), Tally()))  # start-up
    start, errors = time.monotonic(), []
    for _, record in judged_draws(job, requests, reference, ProductionSettings(sampler, max_attempts=1), tally):
        accepted = not record.gate["reasons"]
        errors.append((accepted, *errors_of_an_edit(record.condition_asked, record.condition_obtained, target).values()))
    seconds = time.monotonic() - start
    chosen = np.array([e[1:] for e in errors if e[0] and e[1] is not None], dtype=float).reshape(-1, 2)
    return {
        "acceptance_rate": tally.accepted / num,
        "seconds_per_draw": seconds / num,
        "seconds_per_accepted": seconds / tally.accepted if tally.accepted else None,
        "volume_error": float(np.median(chosen[:, 0])) if len(chosen) else None,
        "centroid_error": float(np.median(chosen[:, 1])) if len(chosen) else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", required=True, help="name or folder of a trained SBLDM")
    parser.add_argument("-d", help="dataset of the hosts; default: that of the generator")
    parser.add_argument("-n", type=int, default=40, help="edits of each kind, and whole cases")
    parser.add_argument("-kind", nargs="+", default=KINDS)
    parser.add_argument("-steps", type=int, default=EDIT_SAMPLER.num_steps, help="of edits")
    parser.add_argument("-guidance", type=float, default=SamplerConfig.guidance_scale)
    parser.add_argument("-sampler", default=EDIT_SAMPLER.name, choices=SAMPLERS, help="of edits")
    parser.add_argument("-deformation", type=float, default=0.0)
    corrections = (EDIT_SAMPLER.max_corrections, SamplerConfig.max_corrections)
    parser.add_argument("-corrections", type=int, nargs=2, default=corrections, help="of edits, and of whole cases")
    parser.add_argument("-o", type=Path, default=Path("editing_benchmark"))
    parser.add_argument("-device", default="cpu")
    args = parser.parse_args()

    model = load_model(find_model(args.m), torch.device(args.device))
    plan = model.plan
    dataset = open_dataset(args.d or plan.dataset_name, plan.plans_name, plan.configuration)
    common = {"guidance_scale": args.guidance, "precision": best_precision(args.device)}
    sampler = SamplerConfig(max_corrections=args.corrections[1], **common)
    edits = replace(EDIT_SAMPLER, name=args.sampler, num_steps=args.steps, max_corrections=args.corrections[0], **common)
    results = {}
    for kind in args.kind:
        editing = EditSettings((), (kind,), deformation_mm=args.deformation)
        found = evaluate_edits(model, dataset, editing, EvaluationSettings(args.n, edits), args.o / kind)
        results[kind] = {"all": found["all"], "accepted": found["accepted"], "reasons": found["reasons"]}
    results["whole"] = {"accepted": whole_cases(model, dataset, args.n, sampler)}
    write_json(args.o / "benchmark.json", results)
    print(f"{'':24s}" + "".join(f"{k:>12s}" for k in results))
    for name in NUMBERS:
        first = [r.get("all", r["accepted"]).get(name) if "rate" in name or "seconds" in name else r["accepted"].get(name)
                 for r in results.values()]
        print(f"{name:24s}" + "".join(f"{'-' if v is None else f'{v:.3g}':>12s}" for v in first))
    for kind in args.kind:
        print(kind, "rejected for", results[kind]["reasons"])


if __name__ == "__main__":
    main()
