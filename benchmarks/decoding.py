"""What is fitted to samples and residuals is worth what? Texture, outlines, noise that slices share, each left out.

    python benchmarks/decoding.py -m nnUNet_results/DATASET/SBLDM__nnUNetPlans__small/fold_0 -n 64 -o decoding

draws the same cases (same conditions, same seeds, raw draws) four times, with everything, and without texture, outlines or the
correlation of noise between slices, and measures them against real cases that are measured once. Writes ``decoding.csv`` and
prints a table; columns: see ``nnunet_sbldm.evaluation.compare.headline``.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from nnunet_sbldm.common.devices import best_precision
from nnunet_sbldm.common.files import write_csv
from nnunet_sbldm.data.dataset import open_dataset
from nnunet_sbldm.evaluation.cases import RealCases, evaluated_cases, numbered_requests
from nnunet_sbldm.evaluation.compare import Reference, score
from nnunet_sbldm.generator.checkpoint import load_model
from nnunet_sbldm.generator.outlines import MOST_PROBABLE
from nnunet_sbldm.generator.texture import NO_TEXTURE
from nnunet_sbldm.generator.zoo import find_model
from nnunet_sbldm.ldm.config import SamplerConfig

COLUMNS = ("volume_r", "w1_volume", "w1_sphericity", "w1_roughness", "neighbour_ssim", "gradient_ratio", "banding",
           "frechet", "frechet_floor", "kid", "coverage", "memorisation", "flagged", "accepted_share")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", required=True, help="name or folder of a trained SBLDM")
    parser.add_argument("-n", type=int, default=64, help="draws")
    parser.add_argument("-seed", type=int, default=0)
    parser.add_argument("-o", type=Path, default=Path("benchmark_decoding"))
    parser.add_argument("-device", default="cpu")
    args = parser.parse_args()

    model = load_model(find_model(args.m), torch.device(args.device))
    plan = model.plan
    dataset = open_dataset(plan.dataset_name, plan.plans_name, plan.configuration)
    real = RealCases.collect(plan, dataset, *evaluated_cases(model, dataset), args.o / "real")
    reference = Reference.measure(model, dataset, real)
    sampler = SamplerConfig(precision=best_precision(args.device), max_corrections=0)
    requests = numbered_requests(args.n, args.seed)
    fitted = f"outlines: noise {plan.outlines.strength}, smoothing {plan.outlines.smoothing}"
    print(f"{fitted}; correlation of noise: {plan.noise_correlation}")
    rows = []
    left_out: dict[str, dict[str, Any]] = {
        "nothing": {}, "texture": {"texture": NO_TEXTURE}, "outlines": {"outlines": MOST_PROBABLE},
        "noise in common": {"noise_correlation": 0.0},
    }
    for name, change in left_out.items():
        changed = replace(model, plan=replace(plan, **change))
        row: dict[str, Any] = score(reference.with_model(changed), requests, sampler, args.o / "work", args.seed)
        rows.append({"left_out": name, **row})
        print(name, {c: round(row[c], 3) for c in COLUMNS}, flush=True)
    write_csv(args.o / "decoding.csv", rows)


if __name__ == "__main__":
    main()
