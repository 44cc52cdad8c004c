"""Coherence between slices: real held-out cases against what the autoencoder makes of posterior means and posterior samples.

    python benchmarks/coherence.py -d 4 -m nnUNet_results/.../SBLDM__nnUNetPlans__small/fold_0

Reconstructions need no denoiser, so this shows what the first stage alone does to coherence. Every value is divided by that
of the real case before averaging: 1 is as coherent as real.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch

from nnunet_sbldm.data.cases import load_preprocessed
from nnunet_sbldm.data.dataset import open_dataset
from nnunet_sbldm.data.slices import slice_positions
from nnunet_sbldm.data.splits import fold_cases
from nnunet_sbldm.generator.checkpoint import SBLDMModel, load_model
from nnunet_sbldm.generator.zoo import find_model
from nnunet_sbldm.ldm.latents import decode_volume, one_hot_of
from nnunet_sbldm.quality.similarity import COHERENCE, coherence


@torch.inference_mode()
def reconstructed(model: SBLDMModel, image: np.ndarray, classes: np.ndarray, sampled: bool) -> tuple[np.ndarray, np.ndarray]:
    """Image [C, D, H, W] and label [D, H, W] from posterior means or one posterior sample per slice."""
    network = model.autoencoder
    one_hot = one_hot_of(torch.from_numpy(classes.astype(np.int64)), network.num_classes)
    position = torch.from_numpy(slice_positions(len(classes)))
    posterior = network.encode(torch.from_numpy(image).movedim(1, 0), one_hot, position)
    latent = posterior.sample(torch.Generator().manual_seed(0)) if sampled else posterior.mean
    decoded, logits = decode_volume(network, latent.movedim(0, 1))
    return decoded.numpy(), model.plan.encoding.decode(1 + logits[1:].argmax(0).numpy())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-d", required=True)
    parser.add_argument("-m", required=True, help="name or folder of a trained SBLDM")
    args = parser.parse_args()

    dataset, model = open_dataset(args.d), load_model(find_model(args.m))
    plan, rows = model.plan, []
    for case_id in fold_cases(dataset, plan.fold)[1]:
        scaled, classes = plan.to_network(*load_preprocessed(dataset, case_id))
        inside, real_label = classes != 0, plan.encoding.decode(classes)
        real = coherence(scaled, real_label, inside)
        made = [coherence(*reconstructed(model, scaled, classes, sampled), inside) / real for sampled in (False, True)]
        rows.append([np.ones_like(real), *made])
    print(f"{dataset.name}, {args.m}, {len(rows)} unseen cases, relative to real (mean; standard deviation)")
    print(f"{'':20s}" + "".join(f"{n:>22s}" for n in COHERENCE))
    for name, values in zip(("real", "posterior means", "posterior samples"), np.stack(rows, axis=1), strict=True):
        columns = zip(np.nanmean(values, 0), np.nanstd(values, 0), strict=True)
        print(f"{name:20s}" + "".join(f"{m:15.3f}; {s:5.3f}" for m, s in columns))


if __name__ == "__main__":
    main()
