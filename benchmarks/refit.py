"""Fits anew, with the code of today, what is measured on samples and training cases once both networks are trained.

    python benchmarks/refit.py -m nnUNet_results/DATASET/SBLDM__nnUNetPlans__small/fold_0 -o refitted

copies the generator and replaces its noise correlation, its outlines and what tissue components may lie in; the weights stay,
and so does what was fitted to the first stage (texture). The dataset must be there, preprocessed as it was for the training. What
an evaluation has measured leaves the model card of the copy: evaluate it again (``sbldm_evaluate``).
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from nnunet_sbldm.common.files import write_json
from nnunet_sbldm.data.dataset import open_dataset
from nnunet_sbldm.data.fingerprints import known_case_ids
from nnunet_sbldm.data.folds import names_of
from nnunet_sbldm.generator.card import read_card, write_card
from nnunet_sbldm.generator.checkpoint import load_model
from nnunet_sbldm.generator.zoo import MANIFEST, find_model
from nnunet_sbldm.training.preparation import prepare
from nnunet_sbldm.training.request import TrainingRequest
from nnunet_sbldm.training.train import fitted_to_samples


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", required=True, help="name or folder of a trained SBLDM")
    parser.add_argument("-o", type=Path, required=True, help="new folder")
    parser.add_argument("-device", default="cpu")
    args = parser.parse_args()

    model = load_model(find_model(args.m), torch.device(args.device))
    old = model.plan
    dataset = open_dataset(old.dataset_name, old.plans_name, old.configuration)
    cases = names_of(model.seen, known_case_ids(dataset))
    with tempfile.TemporaryDirectory() as work:
        fresh, arrays, _ = prepare(TrainingRequest(dataset, old.fold, old.preset, cases, old.seed), Path(work))
        if (fresh.grid, fresh.condition_table) != (old.grid, old.condition_table):
            parser.error(f"{dataset.name} is not what {args.m} was trained on: another grid or other conditions.")
        plan = replace(old, noise_correlation=0.0, component_intensity=fresh.component_intensity)
        plan = fitted_to_samples(plan, arrays, model.autoencoder, model.denoiser)
    shutil.copytree(model.folder, args.o, ignore=shutil.ignore_patterns(MANIFEST))
    write_json(args.o / "generator.json", plan.to_json())
    write_card(args.o, replace(read_card(args.o), evaluation={}))
    for name, before, after in (("noise correlation", old.noise_correlation, plan.noise_correlation),
                                ("noise of outlines", old.outlines.strength, plan.outlines.strength),
                                ("smoothing of outlines", old.outlines.smoothing, plan.outlines.smoothing)):
        print(f"{name}: {before:g} -> {after:g}")


if __name__ == "__main__":
    main()
