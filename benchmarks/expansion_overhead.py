"""Seconds per case of an expansion by stage: sampling, judging, writing and preprocessing.

    python benchmarks/expansion_overhead.py -d 4 -f 0 -preset small -n 12 -np 0 1

Writes new datasets with the id given by -o, one per number of writers, in turn, and removes them again.
"""

from __future__ import annotations

import argparse
import shutil
import time

import torch

from nnunet_sbldm.cli.options import device_of
from nnunet_sbldm.common.devices import best_precision
from nnunet_sbldm.data.dataset import open_dataset
from nnunet_sbldm.data.paths import parse_fold
from nnunet_sbldm.expansion.ledger import ProductionSettings
from nnunet_sbldm.expansion.new_dataset import write_dataset
from nnunet_sbldm.expansion.prepare import plan_jobs
from nnunet_sbldm.generator.requests import ExpansionRequest
from nnunet_sbldm.ldm.config import SamplerConfig


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-d", required=True)
    parser.add_argument("-f", default="0")
    parser.add_argument("-preset", default="small")
    parser.add_argument("-n", type=int, default=12)
    parser.add_argument("-np", type=int, nargs="+", default=[0, 1])
    parser.add_argument("-o", type=int, default=999)
    parser.add_argument("-device")
    args = parser.parse_args()
    dataset, device = open_dataset(args.d), device_of(args.device)
    jobs = plan_jobs(dataset, [parse_fold(args.f)], ExpansionRequest(num_cases=args.n), preset=args.preset)
    jobs[0].model.to(torch.device(device))
    print(f"{dataset.name}, preset {args.preset}, {args.n} cases, {device}, {torch.get_num_threads()} threads, seconds per case:")
    for num_writers in args.np:
        settings = ProductionSettings(SamplerConfig(precision=best_precision(device)), use_gate=True, num_writers=num_writers)
        start = time.monotonic()
        outcome = write_dataset(dataset, jobs, args.o, ["3d_fullres"], settings)
        total = time.monotonic() - start
        (tally,) = outcome.tallies.values()
        stages = ", ".join(f"{name} {seconds / args.n:.2f}" for name, seconds in tally.seconds.items())
        rest = total - sum(tally.seconds.values())
        print(
            f"  {num_writers} writers: {total / args.n:.2f} in all; {stages}, rest (linking real cases, start of writers) "
            f"{rest / args.n:.2f}; {tally.attempts} draws for {tally.accepted} accepted"
        )
        for folder in outcome.folders:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
