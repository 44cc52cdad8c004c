"""Reconstruction of unseen cases by the slice autoencoder: Dice per label, PSNR and SSIM.

    python benchmarks/reconstruction.py -d 4 -f 0 -num_cases 40 -preset small

trains the first stage of that preset on the first ``num_cases`` training cases of the fold (resumes if interrupted) and
reconstructs the fold's validation cases. SSIM and the first PSNR take the image range from the
0.5th to the 99.5th percentile inside the anatomy. ``-crop`` and ``-steps`` train it on crops of another size, for another number
of steps: give every combination an ``-o`` of its own.
"""

from __future__ import annotations

import argparse
import platform
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from nnunet_sbldm.data.cases import load_preprocessed
from nnunet_sbldm.data.dataset import open_dataset
from nnunet_sbldm.data.labels import IGNORED
from nnunet_sbldm.data.slices import TrainingArrays
from nnunet_sbldm.data.splits import fold_cases
from nnunet_sbldm.evaluation.reconstruction import RANGE_PERCENTILES, reconstruct
from nnunet_sbldm.generator.checkpoint import build_autoencoder
from nnunet_sbldm.generator.presets import PRESETS
from nnunet_sbldm.training.loop import make_accelerator, train_stage
from nnunet_sbldm.training.preparation import prepare
from nnunet_sbldm.training.request import TrainingRequest
from nnunet_sbldm.training.stages import autoencoder_stage
from nnunet_sbldm.training.train import build_seeded

PSNR_DEFINITIONS = (
    "PSNR (dB), inside, 0.5th to 99.5th percentile",
    "PSNR (dB), whole grid, the same range",
    "PSNR (dB), inside, minimum to maximum",
)


def psnr_by_definition(psnr_db: float, image: np.ndarray, classes: np.ndarray) -> tuple[float, float, float]:
    """The strictest PSNR and two usual ones, which differ from it by constants of the case."""
    inside = (classes != 0) & (classes != IGNORED)
    spans = [np.ptp(np.percentile(c[inside], RANGE_PERCENTILES)) for c in image]
    wider = float(np.mean([20 * np.log10(np.ptp(c[inside]) / s) for c, s in zip(image, spans, strict=True)]))
    return psnr_db, psnr_db - 10 * float(np.log10(inside.mean())), psnr_db + wider


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-d", required=True)
    parser.add_argument("-f", type=int, default=0)
    parser.add_argument("-num_cases", type=int, default=40)
    parser.add_argument("-preset", default="small", choices=PRESETS)
    parser.add_argument("-o", type=Path, default=Path("benchmark_reconstruction"))
    parser.add_argument("-device", default="cpu")
    parser.add_argument("-crop", type=int, help="largest side of its training crops in pixels; default: the preset's")
    parser.add_argument("-steps", type=int, help="default: the preset's")
    parser.add_argument("--no_position", action="store_true", help="switch l(i) off")
    args = parser.parse_args()

    dataset = open_dataset(args.d)
    train, val = fold_cases(dataset, args.f)
    preset = PRESETS[args.preset]
    side, num_steps = args.crop or preset.autoencoder.crop_pixels, args.steps or preset.autoencoder_stage.num_steps
    preset = replace(
        preset,
        autoencoder=replace(preset.autoencoder, use_position=not args.no_position, crop_pixels=side),
        autoencoder_stage=replace(preset.autoencoder_stage, num_steps=num_steps),
    )
    plan, arrays, _ = prepare(TrainingRequest(dataset, args.f, preset, train[: args.num_cases]), args.o / "arrays")
    arrays = TrainingArrays.open(args.o / "arrays")
    autoencoder = build_seeded(build_autoencoder, plan)
    start = time.process_time()
    train_stage(make_accelerator(args.device), autoencoder_stage(autoencoder, plan, arrays), args.o, 0)
    minutes = (time.process_time() - start) / 60

    rows = []
    for case_id in val:
        scaled, classes = plan.to_network(*load_preprocessed(dataset, case_id))
        again = reconstruct(autoencoder, scaled, classes, plan.encoding)
        rows.append([*again.dice, *psnr_by_definition(again.psnr_db, scaled, classes), again.ssim])
    table = np.array(rows)
    size = sum(p.numel() for p in autoencoder.parameters())
    print(
        f"\n{dataset.name}, preset {args.preset} ({size / 1e6:.2f} M parameters), l(i) {'off' if args.no_position else 'on'}, "
        f"{num_steps} steps, crops of {side} pixels, "
        f"{args.num_cases} training cases, {len(val)} unseen cases, {platform.processor() or platform.machine()}, "
        f"{torch.get_num_threads()} threads, {minutes:.1f} CPU minutes in this run"
    )
    names = [f"Dice label {plan.encoding.values[k]}" for k in range(2, plan.encoding.num_classes)] + [*PSNR_DEFINITIONS, "SSIM"]
    for name, mean, low in zip(names, np.nanmean(table, axis=0), np.nanmin(table, axis=0), strict=True):
        print(f"  {name:46s} mean {mean:.4f}  worst {low:.4f}")


if __name__ == "__main__":
    main()
