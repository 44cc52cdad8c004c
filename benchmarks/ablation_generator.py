"""Ablation of the generator: the same cases, seed and steps, one thing changed per arm.

    python benchmarks/ablation_generator.py -d 4 -f 0 -num_cases 40 -preset tiny -o ablation

trains every arm (or those named with ``-arms``) and scores raw draws, no quality gate, against the held-out cases of the
fold. Arms that need the same first stage share it. Killed, it goes on with the same command. Writes one JSON per arm and
``ablation.csv``.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from nnunet_sbldm.common.devices import best_precision
from nnunet_sbldm.common.files import read_json, sha256_of_json, write_csv, write_json
from nnunet_sbldm.data.dataset import NnunetDataset, open_dataset
from nnunet_sbldm.data.folds import CaseFingerprint
from nnunet_sbldm.data.slices import TrainingArrays
from nnunet_sbldm.data.splits import fold_cases
from nnunet_sbldm.evaluation.cases import RealCases, numbered_requests
from nnunet_sbldm.evaluation.compare import Reference, score
from nnunet_sbldm.generator.checkpoint import load_model
from nnunet_sbldm.generator.plan import GeneratorPlan
from nnunet_sbldm.generator.presets import PRESETS, Preset
from nnunet_sbldm.generator.zoo import is_complete
from nnunet_sbldm.ldm.config import SamplerConfig
from nnunet_sbldm.training.augmentation import num_copies
from nnunet_sbldm.training.loop import make_accelerator
from nnunet_sbldm.training.preparation import prepare
from nnunet_sbldm.training.request import TrainingRequest
from nnunet_sbldm.training.train import finish, train_stages


def diffusion(**changes: Any) -> Callable[[Preset], Preset]:
    return lambda p: replace(p, diffusion=replace(p.diffusion, **changes))


def denoiser(**changes: Any) -> Callable[[Preset], Preset]:
    return lambda p: replace(p, denoiser=replace(p.denoiser, **changes))


def autoencoder(**changes: Any) -> Callable[[Preset], Preset]:
    return lambda p: replace(p, autoencoder=replace(p.autoencoder, **changes))


ARMS: dict[str, Callable[[Preset], Preset]] = {
    "default": lambda p: p,
    "no_augmentation": lambda p: replace(p, augmentation=replace(p.augmentation, max_copies=0)),
    "x0": diffusion(prediction_type="sample"),
    "epsilon": diffusion(prediction_type="epsilon"),
    "epsilon_linear": diffusion(prediction_type="epsilon", schedule="linear", noise_shift=1.0),
    "v_linear": diffusion(schedule="linear", noise_shift=1.0),
    "noise_shift_1": diffusion(noise_shift=1.0),
    "noise_shift_4": diffusion(noise_shift=4.0),
    "foreground_weight_1": diffusion(foreground_weight=1.0),
    "dropout_0.1": denoiser(dropout=0.1),
    "no_position": autoencoder(use_position=False),
    "latent_noise_0": autoencoder(latent_noise=0.0),
    "latent_noise_0.4": autoencoder(latent_noise=0.4),
    "no_maps": denoiser(use_maps=False),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-d", required=True)
    parser.add_argument("-f", type=int, default=0)
    parser.add_argument("-num_cases", type=int, default=40, help="training cases, the first of the fold")
    parser.add_argument("-preset", default="tiny", choices=PRESETS)
    parser.add_argument("-arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("-steps", type=int, help="steps of the denoiser; default: the preset's")
    parser.add_argument("-n", type=int, default=64, help="draws to score")
    parser.add_argument("-seed", type=int, default=0)
    parser.add_argument("-o", type=Path, default=Path("benchmark_ablation"))
    parser.add_argument("-device", default="cpu")
    args = parser.parse_args()

    dataset = open_dataset(args.d)
    train, held_out = fold_cases(dataset, args.f)
    preset = PRESETS[args.preset]
    if args.steps:
        preset = replace(preset, denoiser_stage=replace(preset.denoiser_stage, num_steps=args.steps))
    request = TrainingRequest(dataset, args.f, preset, train[: args.num_cases], args.seed)
    plan, arrays, seen = prepared(request, args.o / "arrays")
    real = RealCases.collect(plan, dataset, train[: args.num_cases], held_out, args.o / "real")
    for name in args.arms:
        folder, result = args.o / "arms" / name, args.o / "results" / f"{name}.json"
        if result.is_file():
            continue
        start = time.monotonic()
        train_arm(dataset, replace(plan, preset=ARMS[name](preset)), arrays, seen, folder, args.device)
        minutes = (time.monotonic() - start) / 60
        model = load_model(folder, torch.device(args.device))
        reference = Reference.measure(model, dataset, real)
        sampler = SamplerConfig(precision=best_precision(args.device), max_corrections=0)
        requests = numbered_requests(args.n, args.seed)
        scores = score(reference, requests, sampler, args.o, args.seed, use_gate=False)
        write_json(result, {"arm": name, **scores, "minutes": minutes})
        write_table(args.o)


def prepared(request: TrainingRequest, folder: Path) -> tuple[GeneratorPlan, TrainingArrays, list[CaseFingerprint]]:
    """The plan and arrays that all arms share, made once."""
    if not (folder / "plan.json").is_file():
        plan, _, seen = prepare(request, folder)
        write_json(folder / "plan.json", {"plan": plan.to_json(), "seen": [c.to_json() for c in seen]})
    stored = read_json(folder / "plan.json")
    return (
        GeneratorPlan.from_json(stored["plan"]),
        TrainingArrays.open(folder),
        [CaseFingerprint.from_json(c) for c in stored["seen"]],
    )


def train_arm(
    dataset: NnunetDataset, plan: GeneratorPlan, arrays: TrainingArrays, seen: list[CaseFingerprint], folder: Path, device: str
) -> None:
    """Train one arm; its first stage is taken from an arm that trained the same one."""
    if is_complete(folder):
        return
    if num_copies(len(seen), plan.preset.augmentation) == 0:
        arrays = TrainingArrays(arrays.images[: len(seen)], arrays.classes[: len(seen)])
    first_stage = [asdict(part) for part in (plan.preset.autoencoder, plan.preset.autoencoder_stage, plan.preset.augmentation)]
    shared = folder.parents[1] / "autoencoders" / f"{sha256_of_json(first_stage)[:16]}.safetensors"
    folder.mkdir(parents=True, exist_ok=True)
    if shared.is_file():
        shutil.copyfile(shared, folder / "autoencoder.safetensors")
    plan = train_stages(make_accelerator(device), plan, arrays, folder)
    shared.parent.mkdir(exist_ok=True)
    shutil.copyfile(folder / "autoencoder.safetensors", shared)
    finish(folder, dataset, plan, seen)


def write_table(folder: Path) -> None:
    """``ablation.csv`` of all arms with a result."""
    rows = [read_json(f) for f in sorted((folder / "results").glob("*.json"))]
    write_csv(folder / "ablation.csv", rows)


if __name__ == "__main__":
    main()
