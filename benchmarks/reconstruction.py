"""Reconstruction of unseen cases by the slice autoencoder: Dice per label, PSNR and SSIM.

    python benchmarks/reconstruction.py -d 4 -f 0 -num_cases 40 -preset small

trains the first stage of that preset on the first ``num_cases`` training cases of the fold (resumes if interrupted) and
reconstructs the fold's validation cases. PSNR and SSIM take the image range from the 0.5th to the 99.5th percentile.
"""

from __future__ import annotations

import argparse
import platform
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from nnunet_sbldm.checkpoint import build_autoencoder
from nnunet_sbldm.config import PRESETS
from nnunet_sbldm.grid import FILL, to_grid
from nnunet_sbldm.nnunet import fold_cases, load_preprocessed, open_dataset
from nnunet_sbldm.preparation import prepare
from nnunet_sbldm.reconstruction import reconstruct
from nnunet_sbldm.slices import TrainingArrays
from nnunet_sbldm.training import autoencoder_stage, build_seeded, make_accelerator, train_stage
from nnunet_sbldm.types import OUTSIDE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-d", required=True)
    parser.add_argument("-f", type=int, default=0)
    parser.add_argument("-num_cases", type=int, default=40)
    parser.add_argument("-preset", default="small", choices=PRESETS)
    parser.add_argument("-o", type=Path, default=Path("benchmark_reconstruction"))
    parser.add_argument("-device", default="cpu")
    parser.add_argument("--no_position", action="store_true", help="switch l(i) off")
    args = parser.parse_args()

    dataset = open_dataset(args.d)
    train, val = fold_cases(dataset, args.f)
    preset = PRESETS[args.preset]
    preset = replace(preset, autoencoder=replace(preset.autoencoder, use_position=not args.no_position))
    plan, arrays, _ = prepare(dataset, args.f, preset, train[: args.num_cases], 0, args.o / "arrays")
    arrays = TrainingArrays.open(args.o / "arrays")
    autoencoder = build_seeded(build_autoencoder, plan)
    start = time.monotonic()
    train_stage(make_accelerator(args.device), autoencoder_stage(autoencoder, plan, arrays), args.o, 0)
    minutes = (time.monotonic() - start) / 60

    rows = []
    for case_id in val:
        image, label = load_preprocessed(dataset, case_id)
        classes = plan.encoding.encode(to_grid(label, plan.grid.shape, OUTSIDE))
        scaled = np.where(classes == 0, FILL, to_grid(plan.intensity.scaled(image), plan.grid.shape, 0)).astype(np.float32)
        again = reconstruct(autoencoder, scaled, classes, plan.encoding)
        rows.append([*again.dice, again.psnr_db, again.ssim])
    table = np.array(rows)
    size = sum(p.numel() for p in autoencoder.parameters())
    print(
        f"\n{dataset.name}, preset {args.preset} ({size / 1e6:.2f} M parameters), l(i) {'off' if args.no_position else 'on'}, "
        f"{args.num_cases} training cases, {len(val)} unseen cases, {platform.processor() or platform.machine()}, "
        f"{torch.get_num_threads()} threads, {minutes:.1f} min in this run"
    )
    names = [f"Dice label {plan.encoding.values[k]}" for k in range(2, plan.encoding.num_classes)] + ["PSNR (dB)", "SSIM"]
    for name, mean, low in zip(names, np.nanmean(table, axis=0), np.nanmin(table, axis=0), strict=True):
        print(f"  {name:14s} mean {mean:.4f}  worst {low:.4f}")


if __name__ == "__main__":
    main()
