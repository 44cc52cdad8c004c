"""Quality of raw draws against sampler, number of steps and guidance.

    python benchmarks/sampling_steps.py -m nnUNet_results/DATASET/SBLDM__nnUNetPlans__small/fold_0 -n 64 -o sampling_steps

draws the same conditions from the same noise under every setting and measures them against real cases that are measured once:
each sampler with each number of steps at the default guidance, then each guidance with the default sampler and number of steps
(``--cross``: all combinations), then each number of corrections of size with all defaults. Killed, it goes on with the same
command. Writes one JSON per setting and ``sampling_steps.csv``, and prints a table; columns:
``nnunet_sbldm.evaluation.compare.headline``.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path

import torch

from nnunet_sbldm.common.devices import best_precision
from nnunet_sbldm.common.files import read_json, sha256_of_json, write_csv, write_json
from nnunet_sbldm.data.dataset import open_dataset
from nnunet_sbldm.evaluation.cases import RealCases, evaluated_cases, numbered_requests
from nnunet_sbldm.evaluation.compare import Reference, score
from nnunet_sbldm.generator.checkpoint import load_model
from nnunet_sbldm.generator.zoo import find_model
from nnunet_sbldm.ldm.config import SamplerConfig

SAMPLERS = {"ddim": ("ddim", 0.0), "ddim_eta1": ("ddim", 1.0), "dpmsolver++": ("dpmsolver++", 0.0)}
COLUMNS = (
    "volume_r",
    "centroid_error",
    "w1_volume",
    "w1_sphericity",
    "neighbour_ssim",
    "gradient_ratio",
    "frechet",
    "frechet_floor",
    "memorisation",
    "flagged",
    "accepted_share",
    "seconds_per_draw",
)


def settings_of(args: argparse.Namespace) -> dict[str, SamplerConfig]:
    """Name -> setting, in the order of measuring."""
    base = SamplerConfig(batch_size=args.batch_size, precision=best_precision(args.device))
    one_by_one = [
        *product(args.samplers, args.steps, [base.guidance_scale]),
        *product([base.name], [base.num_steps], args.guidance),
    ]
    chosen = product(args.samplers, args.steps, args.guidance) if args.cross else one_by_one
    found = {}
    for sampler, num_steps, guidance in chosen:
        name, eta = SAMPLERS[sampler]
        setting = replace(base, name=name, eta=eta, num_steps=num_steps, guidance_scale=guidance, max_corrections=0)
        found[f"{sampler} {num_steps:3d} steps, guidance {guidance:g}"] = setting
    return found | {f"corrections {n}": replace(base, max_corrections=n) for n in args.corrections}


def write_table(results: list[Path], names: dict[str, SamplerConfig], folder: Path) -> None:
    """``sampling_steps.csv`` and a table of what is done so far."""
    rows = [read_json(file) for file in results if file.is_file()]
    write_csv(folder / "sampling_steps.csv", rows)
    width = max(map(len, names))
    print(" " * width, *COLUMNS)
    for row in rows:
        print(f"{row['setting']:{width}s}", *(f"{row[c]:{len(c)}.3f}" for c in COLUMNS), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", required=True, help="name or folder of a trained SBLDM")
    parser.add_argument("-n", type=int, default=64, help="draws per setting")
    parser.add_argument("-samplers", nargs="+", default=list(SAMPLERS), choices=list(SAMPLERS))
    parser.add_argument("-steps", type=int, nargs="+", default=[5, 10, 20, 50])
    parser.add_argument("-guidance", type=float, nargs="+", default=[1.0, 1.5, 2.0, 3.0])
    parser.add_argument("-corrections", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--cross", action="store_true", help="all combinations of these three")
    parser.add_argument("-num_training", type=int, help="training cases to compare with, the first. Default: all")
    parser.add_argument("-num_held_out", type=int, help="held-out cases to compare with, the first. Default: all")
    parser.add_argument("-batch_size", type=int, default=1)
    parser.add_argument("-seed", type=int, default=0)
    parser.add_argument("-o", type=Path, default=Path("benchmark_sampling_steps"))
    parser.add_argument("-device", default="cpu")
    args = parser.parse_args()

    model = load_model(find_model(args.m), torch.device(args.device))
    plan, settings = model.plan, settings_of(args)
    dataset = open_dataset(plan.dataset_name, plan.plans_name, plan.configuration)
    training, held_out = evaluated_cases(model, dataset)
    training, held_out = training[: args.num_training], held_out[: args.num_held_out]
    compared = [model.hash, training, held_out, args.n, args.seed]
    files = [args.o / "results" / f"{sha256_of_json([*compared, asdict(s)])[:16]}.json" for s in settings.values()]
    if not all(f.is_file() for f in files):
        real = RealCases.collect(plan, dataset, training, held_out, args.o / "real")
        reference = Reference.measure(model, dataset, real)
        requests = numbered_requests(args.n, args.seed)
        for (name, sampler), file in zip(settings.items(), files, strict=True):
            if not file.is_file():
                row = score(reference, requests, sampler, args.o / "work", args.seed)
                write_json(file, {"setting": name, **asdict(sampler), **row})
    write_table(files, settings, args.o)


if __name__ == "__main__":
    main()
