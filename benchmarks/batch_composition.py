"""Batch composition over the epochs of each schedule, measured from draws of nnU-Net's loader; makes docs/images/mixing.png.

    python benchmarks/batch_composition.py -o docs/images/mixing.png

Draws case ids exactly as a training does, for 16 real and 40 synthetic cases, and loads nothing. Needs no dataset.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from types import SimpleNamespace

import matplotlib
import numpy as np
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader

from nnunet_sbldm.mixing.dataset import LoadedCase, MixedDataset, ReadySource
from nnunet_sbldm.mixing.schedule import SCHEDULES, ratio_at

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

NUM_REAL, NUM_SYNTHETIC, BATCH_SIZE, PATCH = 16, 40, 2, (8, 8, 8)
REAL_COLOUR, SYNTHETIC_COLOUR = "#bfc5cc", "#d1495b"


class Names(ReadySource):
    """Cases that are nothing but names."""

    def __init__(self, identifiers: list[str]) -> None:
        self.identifiers = identifiers

    def load_case(self, identifier: str) -> LoadedCase:
        """Nothing is looked at."""
        return None, None, None, {}


def drawn_shares(schedule: str, ratio: float, num_epochs: int, num_iterations: int) -> tuple[np.ndarray, np.ndarray]:
    """Share of synthetic cases asked and drawn, [num_epochs] each."""
    synthetic = [f"synthetic_{i}" for i in range(NUM_SYNTHETIC)]
    dataset = MixedDataset(Names([f"real_{i}" for i in range(NUM_REAL)]), Names(synthetic), ratio)
    loader = nnUNetDataLoader(dataset, BATCH_SIZE, PATCH, PATCH, SimpleNamespace(all_labels=[0, 1], has_ignore_label=False))
    asked = np.array([ratio_at(schedule, ratio, epoch, num_epochs) for epoch in range(num_epochs)])
    drawn = np.zeros(num_epochs)
    for epoch, share in enumerate(asked):
        dataset.set_ratio(share)
        for _ in range(num_iterations):
            for key in loader.get_indices():
                dataset.load_case(key)
                drawn[epoch] += str(key) in synthetic
    return asked, drawn / (num_iterations * BATCH_SIZE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", type=Path, required=True)
    parser.add_argument("-ratio", type=float, default=0.5)
    parser.add_argument("-num_epochs", type=int, default=100)
    parser.add_argument("-num_iterations", type=int, default=250)
    args = parser.parse_args()
    figure, axes = plt.subplots(1, len(SCHEDULES), figsize=(9, 2.6), sharey=True, layout="constrained")
    for axis, schedule in zip(axes, SCHEDULES, strict=True):
        asked, drawn = drawn_shares(schedule, args.ratio, args.num_epochs, args.num_iterations)
        print(f"{schedule}: largest deviation of an epoch {np.abs(drawn - asked).max():.4f}, "
              f"synthetic draws of the whole training {drawn.mean():.4f}")
        axis.set_facecolor(REAL_COLOUR)
        axis.stairs(drawn, fill=True, color=SYNTHETIC_COLOUR)
        axis.text(0.03 * args.num_epochs, 0.04, "synthetic", color="white")
        axis.text(0.97 * args.num_epochs, 0.96, "real", ha="right", va="top")
        axis.set(title=f"{schedule}, {drawn.mean():.0%} of all draws", xlabel="epoch", xlim=(0, args.num_epochs), ylim=(0, 1))
    axes[0].set_ylabel("share of drawn cases")
    figure.savefig(args.o, dpi=120)


if __name__ == "__main__":
    main()
