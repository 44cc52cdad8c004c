"""``sbldm_train``: options, checks, and where training starts from."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_sbldm.cli.options import (
    announce_licence,
    dataset_arguments,
    device_argument,
    device_of,
    groups_argument,
    preset_argument,
)
from nnunet_sbldm.common.commands import Parser, positive, run, seed
from nnunet_sbldm.generator.presets import DEFAULT_PRESET, PRESETS, lengthened
from nnunet_sbldm.generator.zoo import find_model, is_complete, name_of
from nnunet_sbldm.types import UserError

if TYPE_CHECKING:
    from nnunet_sbldm.data.dataset import NnunetDataset
    from nnunet_sbldm.training.finetuning import Start


def train_entry(argv: Sequence[str] | None = None) -> None:
    """``sbldm_train``: train a generator on the training cases of one fold."""
    parser = Parser(
        "Train an SBLDM (both stages) on the training cases of one fold. Interrupted training resumes with the same command."
    )
    dataset_arguments(parser)
    parser.add_argument("-f", required=True, metavar="FOLD", help="[REQUIRED] fold: a number, or all")
    preset_argument(parser)
    parser.set_defaults(preset=None)
    parser.add_argument(
        "-length",
        type=positive,
        metavar="X",
        help="[OPTIONAL] train X times the steps of the preset, or of the initial model. Default: 1, or 0.25 with -init",
    )
    parser.add_argument(
        "-init", metavar="MODEL", help="[OPTIONAL] fine-tune this SBLDM, given by its folder or by a name that sbldm_models lists"
    )
    parser.add_argument(
        "-map",
        nargs="+",
        default=[],
        metavar="YOURS=ITS",
        help="[OPTIONAL] channels and labels of the dataset that have another name in the initial SBLDM",
    )
    parser.add_argument(
        "-cases",
        type=Path,
        metavar="FILE",
        help="[OPTIONAL] text file with one case id per line: train on these cases of the fold alone",
    )
    groups_argument(parser)
    parser.add_argument("-seed", type=seed, default=0, help="[OPTIONAL] seed of initialisation and training order. Default: 0")
    parser.add_argument("--c", action="store_true", help="[OPTIONAL] continue interrupted training; this is done in any case")
    device_argument(parser)
    args = parser.parse_args(argv)
    run(lambda: _train(args))


def _train(args: argparse.Namespace) -> None:
    from nnunet_sbldm.data.dataset import open_dataset
    from nnunet_sbldm.data.folds import without_patients_of_val
    from nnunet_sbldm.data.groups import remember_groups, remembered_groups
    from nnunet_sbldm.data.paths import parse_fold
    from nnunet_sbldm.data.splits import fold_cases
    from nnunet_sbldm.generator.checkpoint import generator_folder
    from nnunet_sbldm.training.train import train_generator

    dataset, fold = open_dataset(args.d, args.p), parse_fold(args.f)
    case_ids, val = fold_cases(dataset, fold)
    if args.groups:
        remember_groups(dataset, args.groups)
    case_ids = without_patients_of_val(case_ids, val, remembered_groups(dataset.preprocessed))
    if args.cases:
        case_ids = _chosen_cases(args.cases, case_ids, fold)
    case_ids = _without_copies(dataset, case_ids, val)
    start = _start(args, dataset, fold, val)
    length = {"length": args.length} if args.length else {}
    preset = start.preset(**length) if start else lengthened(PRESETS[args.preset or DEFAULT_PRESET], args.length or 1)
    done = is_complete(generator_folder(dataset, preset.name, fold))
    folder = train_generator(dataset, fold, preset, case_ids, device_of(args.device), args.seed, start)
    print(f"The SBLDM of fold {fold} {'was already trained' if done else 'is trained'}: {folder}")


def _without_copies(dataset: NnunetDataset, case_ids: Sequence[str], val: Sequence[str]) -> list[str]:
    """Those training cases that are no copies of validation cases, which the fold rule would refuse later."""
    from nnunet_sbldm.data.fingerprints import fingerprints_of
    from nnunet_sbldm.data.folds import MAX_CASES_NAMED, find_copies

    copies = find_copies(fingerprints_of(dataset, case_ids).values(), fingerprints_of(dataset, val).values())
    if copies:
        named = ", ".join(list(copies.values())[:MAX_CASES_NAMED])
        print(f"warning: left out of training, {len(copies)} in all, as copies of validation cases: {named}", file=sys.stderr)
    return [c for c in case_ids if c not in copies]


def _start(args: argparse.Namespace, dataset: NnunetDataset, fold: int | str, val: Sequence[str]) -> Start | None:
    """What training starts from, checked against the fold; None for a start from scratch."""
    from nnunet_sbldm.data.fingerprints import fingerprints_of
    from nnunet_sbldm.data.groups import with_remembered_groups
    from nnunet_sbldm.generator.card import read_card
    from nnunet_sbldm.generator.checkpoint import load_generator
    from nnunet_sbldm.training.finetuning import Start

    if not args.init:
        if args.map:
            raise UserError("-map goes with -init.")
        return None
    if args.preset:
        raise UserError("-preset and -init exclude each other: a fine-tuned SBLDM has the size of its initial one.")
    wrong = [pair for pair in args.map if pair.count("=") != 1]
    if wrong:
        raise UserError(f"-map takes pairs such as T2=FLAIR, yours first; got {wrong[0]!r}.")
    folder = find_model(args.init)
    generator = load_generator(folder)
    announce_licence(folder)
    generator = replace(generator, seen=with_remembered_groups(generator.seen, dataset))
    start = Start(generator, name_of(folder), dict(pair.split("=") for pair in args.map), read_card(folder).whole_licence)
    start.refuse_leaks(list(fingerprints_of(dataset, val).values()), fold)
    return start


def _chosen_cases(file: Path, allowed: Sequence[str], fold: int | str) -> list[str]:
    if not file.is_file():
        raise UserError(f"-cases {file} is not a file.")
    lines = (line.strip() for line in file.read_text(encoding="utf-8").splitlines())
    chosen = sorted({line for line in lines if line})
    unknown = [c for c in chosen if c not in set(allowed)]
    if unknown:
        raise UserError(
            f"-cases names {', '.join(unknown[:10])}, which {'is' if len(unknown) == 1 else 'are'} not among the "
            f"real training cases of fold {fold}."
        )
    return chosen
