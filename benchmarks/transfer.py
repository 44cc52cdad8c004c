"""Fine-tuning against training from scratch: the same few cases, a quarter of the steps.

    python benchmarks/transfer.py -d 4 -f 0 -init MODEL -num_cases 5 10 20 -o transfer

trains on the first n training cases of the fold, for every n: from scratch (all steps, and a quarter of them) and fine-tuned from
MODEL (a quarter), and scores raw draws, no quality gate, against the held-out cases of the fold. All arms have MODEL's size, and
their steps are shares of MODEL's. For an honest test MODEL must not have seen the cases: those that it has seen are left out, and
a MODEL that has seen a held-out case is refused. So take one of another dataset, or one trained on other cases of the same fold:

    sbldm_train -d 4 -f 0 -preset small -cases others.txt

Killed, it goes on with the same command. Generators lie below ``DIR/ARM/nCASES``; writes one JSON per arm and n, and
``transfer.csv``.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from nnunet_sbldm.common.devices import best_precision
from nnunet_sbldm.common.files import read_json, write_csv, write_json
from nnunet_sbldm.data.dataset import NnunetDataset, open_dataset
from nnunet_sbldm.data.fingerprints import fingerprints_of
from nnunet_sbldm.data.folds import find_leaks
from nnunet_sbldm.data.paths import Fold
from nnunet_sbldm.data.splits import fold_cases
from nnunet_sbldm.evaluation.cases import RealCases, numbered_requests
from nnunet_sbldm.evaluation.compare import Reference, score
from nnunet_sbldm.generator.checkpoint import load_model
from nnunet_sbldm.generator.presets import Preset, lengthened
from nnunet_sbldm.generator.zoo import find_model, name_of
from nnunet_sbldm.ldm.config import SamplerConfig
from nnunet_sbldm.training.finetuning import InitialModel
from nnunet_sbldm.training.request import TrainingRequest
from nnunet_sbldm.training.train import train_generator


@dataclass(frozen=True)
class Arm:
    """One way to train.

    Attributes:
        name: its name.
        length: steps, as share of the initial model's.
        is_fine_tuned: whether it starts from the initial model.
    """

    name: str
    length: float
    is_fine_tuned: bool

    def preset(self, initial: InitialModel, factor: float) -> Preset:
        """The initial model's size, with ``factor`` times the steps of this arm."""
        length = factor * self.length
        return initial.preset(length) if self.is_fine_tuned else lengthened(initial.model.plan.preset, length)


ARMS = (Arm("scratch_1", 1.0, False), Arm("scratch_0.25", 0.25, False), Arm("fine_tuned_0.25", 0.25, True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-d", required=True)
    parser.add_argument("-f", type=int, default=0)
    parser.add_argument("-init", required=True, help="folder or name of the initial model")
    parser.add_argument("-map", nargs="+", default=[], metavar="YOURS=ITS")
    parser.add_argument("-num_cases", type=int, nargs="+", default=[5, 10, 20])
    parser.add_argument("-cases", type=Path, help="text file with one case id per line: train on the first of these instead")
    parser.add_argument("-arms", nargs="+", default=[a.name for a in ARMS], choices=[a.name for a in ARMS])
    parser.add_argument("-length", type=float, default=1.0, help="factor on the steps of all arms, for less than a night")
    parser.add_argument("-n", type=int, default=64, help="draws to score")
    parser.add_argument("-seed", type=int, default=0)
    parser.add_argument("-o", type=Path, default=Path("benchmark_transfer"))
    parser.add_argument("-device", default="cpu")
    args = parser.parse_args()

    dataset, folder = open_dataset(args.d), find_model(args.init)
    initial = InitialModel(load_model(folder), name_of(folder), dict(pair.split("=") for pair in args.map))
    allowed = args.cases.read_text(encoding="utf-8").split() if args.cases else None
    unseen, held_out = unseen_cases(dataset, args.f, initial, allowed)
    if max(args.num_cases) > len(unseen):
        raise SystemExit(f"Only {len(unseen)} training cases are unseen by {initial.name}; -num_cases asks for more.")
    for num_cases in args.num_cases:
        for arm in (a for a in ARMS if a.name in args.arms):
            result = args.o / "results" / f"{arm.name}_n{num_cases}.json"
            if not result.is_file():
                row = run_arm(dataset, initial, arm, unseen[:num_cases], held_out, args)
                write_json(result, {"arm": arm.name, "num_cases": num_cases, "initial": initial.model.hash, **row})
            write_table(args.o)


def unseen_cases(
    dataset: NnunetDataset, fold: Fold, initial: InitialModel, allowed: Sequence[str] | None
) -> tuple[list[str], list[str]]:
    """Training cases of the fold that the initial model has not seen, by id, content and patient, and its held-out cases."""
    train, held_out = fold_cases(dataset, fold)
    initial.refuse_leaks(list(fingerprints_of(dataset, held_out).values()), fold)
    seen = {leak.validation_case for leak in find_leaks(initial.model.seen, fingerprints_of(dataset, train).values())}
    return [c for c in train if c not in seen and (allowed is None or c in allowed)], held_out


def run_arm(
    dataset: NnunetDataset, initial: InitialModel, arm: Arm, case_ids: list[str], held_out: list[str], args: argparse.Namespace
) -> dict[str, float]:
    """Train one arm, if it is not trained yet, and score it."""
    home = args.o / arm.name / f"n{len(case_ids)}"
    home.mkdir(parents=True, exist_ok=True)
    os.environ["nnUNet_results"] = str(home.resolve())  # generators of all arms and numbers of cases have one name
    preset = arm.preset(initial, args.length)
    began = time.monotonic()
    beginning = initial if arm.is_fine_tuned else None
    folder = train_generator(TrainingRequest(dataset, args.f, preset, case_ids, args.seed, beginning), args.device)
    minutes = (time.monotonic() - began) / 60
    model = load_model(folder, torch.device(args.device))
    own = fingerprints_of(dataset, case_ids).values()
    model = replace(model, seen=tuple(own))  # what it is compared with is the same in all arms
    reference = Reference.measure(
        model, dataset, RealCases.collect(model.plan, dataset, case_ids, held_out, home / "real")
    )
    sampler = SamplerConfig(precision=best_precision(args.device), max_corrections=0)
    scores = score(reference, numbered_requests(args.n, args.seed), sampler, home, args.seed)
    return {"num_steps": preset.denoiser_stage.num_steps, **scores, "minutes": minutes}


def write_table(folder: Path) -> None:
    """``transfer.csv`` of all results."""
    rows = sorted((read_json(f) for f in (folder / "results").glob("*.json")), key=lambda r: (r["num_cases"], r["arm"]))
    write_csv(folder / "transfer.csv", rows)


if __name__ == "__main__":
    main()
