"""Edits by masked sampling alone, and by denoisers that are also told the host's latents: one generator, trained on both ways.

    python benchmarks/masked_latents.py -m nnUNet_results/DATASET/SBLDM__nnUNetPlans__small/fold_0 -steps 1500 -n 32 -o DIR

trains the denoiser of a finished generator on with its own training cases, for each ``-masked_share`` once: the share of the
samples of which a region alone is to be made. With 0 it stays as it is, with more it has known latents as a further input,
whose weights start at zero. With ``--from_scratch`` denoisers are trained from the start, on the same first stage. Then it edits
the same hosts with the same seeds with the generator as it was and all others, and makes whole cases. Killed, it goes on with
the same command. ``-o`` gets ``masked_latents.csv``, and the evaluation of every arm and kind.
"""

from __future__ import annotations

import argparse
import shutil
from dataclasses import replace
from pathlib import Path

import torch
from ablation_generator import prepared
from editing import whole_cases
from safetensors.torch import load_file

from nnunet_sbldm.common.devices import best_precision
from nnunet_sbldm.common.files import read_json, write_csv, write_json
from nnunet_sbldm.data.dataset import NnunetDataset, open_dataset
from nnunet_sbldm.editing.choices import KINDS, EditSettings
from nnunet_sbldm.evaluation.edits import evaluate_edits
from nnunet_sbldm.generator.checkpoint import Generator, build_denoiser, load_generator
from nnunet_sbldm.generator.plan import GeneratorPlan
from nnunet_sbldm.generator.zoo import find_model, is_complete
from nnunet_sbldm.ldm.config import EDIT_SAMPLER, SamplerConfig
from nnunet_sbldm.ldm.latents import encode_cases, foreground_weights
from nnunet_sbldm.training.loop import make_accelerator, train_stage
from nnunet_sbldm.training.stages import conditions_of, denoiser_stage
from nnunet_sbldm.training.train import build_seeded


def trained(generator: Generator, dataset: NnunetDataset, masked_share: float, args: argparse.Namespace) -> Generator:
    """A copy of the generator whose denoiser was trained on, or anew; loaded where it is there already."""
    device, old = args.device, generator.plan
    folder = args.o / "models" / f"share_{masked_share:g}"
    stage_config = replace(old.preset.denoiser_stage, num_steps=args.steps)
    diffusion = replace(old.preset.diffusion, masked_share=masked_share)
    plan = replace(old, preset=replace(old.preset, denoiser_stage=stage_config, diffusion=diffusion))
    if is_complete(folder):
        return load_generator(folder, torch.device(device))
    cases = [c["case_id"] for c in read_json(generator.folder / "training_cases.json")]
    _, arrays, _ = prepared(dataset, old.fold, old.preset, cases, old.seed, args.o / "arrays")
    latents = torch.stack(list(encode_cases(generator.autoencoder, arrays)))
    weights = foreground_weights(arrays, plan.grid.latent_shape, diffusion.foreground_weight)
    denoiser = build_seeded(build_denoiser, plan)
    if not args.from_scratch:
        denoiser.load_state_dict(widened(generator, plan))
    folder.mkdir(parents=True, exist_ok=True)
    stage = denoiser_stage(denoiser, generator.autoencoder, plan, latents, conditions_of(arrays, plan), weights)
    train_stage(make_accelerator(device), stage, folder, plan.seed)
    for name in ("autoencoder.safetensors", "dataset.json", "training_cases.json"):
        shutil.copyfile(generator.folder / name, folder / name)
    write_json(folder / "generator.json", plan.to_json())
    return load_generator(folder, torch.device(device))


def widened(generator: Generator, plan: GeneratorPlan) -> dict[str, torch.Tensor]:
    """The denoiser's weights, with weights of zero for inputs that it did not have."""
    weights = {k: v.float() for k, v in load_file(generator.folder / "denoiser.safetensors").items()}
    wanted = build_denoiser(plan).state_dict()["conv_in.within.weight"]
    own = weights["conv_in.within.weight"]
    weights["conv_in.within.weight"] = torch.cat([own, torch.zeros_like(wanted[:, own.shape[1] :])], dim=1)
    return weights


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", required=True, help="folder of a trained SBLDM, whose own dataset is preprocessed here")
    parser.add_argument("-steps", type=int, default=1500, help="steps of the denoiser, further ones or all")
    parser.add_argument("-masked_share", type=float, nargs="+", default=[0.0, 0.5])
    parser.add_argument("--from_scratch", action="store_true", help="train denoisers anew")
    parser.add_argument("-n", type=int, default=20, help="edits of each kind, and whole cases")
    parser.add_argument("-kind", nargs="+", default=KINDS)
    parser.add_argument("-o", type=Path, default=Path("masked_latents"))
    parser.add_argument("-device", default="cpu")
    args = parser.parse_args()

    initial = load_generator(find_model(args.m), torch.device(args.device))
    dataset = open_dataset(initial.plan.dataset_name, initial.plan.plans_name, initial.plan.configuration)
    common = {"guidance_scale": SamplerConfig.guidance_scale, "precision": best_precision(args.device)}
    rows = []
    for share in (None, *args.masked_share):
        arm, generator = "as it was", initial
        if share is not None:
            arm, generator = f"masked share {share:g}", trained(initial, dataset, share, args)
        for kind in args.kind:
            edits = replace(EDIT_SAMPLER, **common)
            found = evaluate_edits(generator, dataset, EditSettings((), (kind,)), args.n, edits, args.o / arm / kind)
            rows.append({"arm": arm, "kind": kind, **found["accepted"], "acceptance_rate": found["all"]["acceptance_rate"],
                         "seconds_per_draw": found["all"]["seconds_per_draw"]})
        rows.append({"arm": arm, "kind": "whole", **whole_cases(generator, dataset, args.n, SamplerConfig(**common))})
        write_csv(args.o / "masked_latents.csv", rows)
    columns = ("acceptance_rate", "volume_error", "centroid_error", "seam_in_range", "seam_excess", "texture_in_range",
               "seconds_per_draw")
    print(f"{'arm':18s}{'kind':10s}" + "".join(f"{c:>18s}" for c in columns))
    for row in rows:
        shown = (row.get(c) for c in columns)
        print(f"{row['arm']:18s}{row['kind']:10s}" + "".join(f"{'-' if v is None else f'{v:.3g}':>18s}" for v in shown))


if __name__ == "__main__":
    main()
