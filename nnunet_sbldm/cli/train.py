"""``sbldm_train``: options, checks, and where training starts from."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from nnunet_sbldm.cli.options import (
    announce_licence,
    dataset_arguments,
    device_argument,
    device_of,
    groups_argument,
    preset_argument,
)
from nnunet_sbldm.common.commands import Parser, positive, run, seed
from nnunet_sbldm.generator.zoo import find_model
from nnunet_sbldm.types import UserError


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
    from nnunet_sbldm.api.training import TrainingSettings, train_model

    wrong = [pair for pair in args.map if pair.count("=") != 1]
    if wrong:
        raise UserError(f"-map takes pairs such as T2=FLAIR, yours first; got {wrong[0]!r}.")
    mapping = dict(pair.split("=") for pair in args.map)
    cases = _case_ids(args.cases) if args.cases else None
    settings = TrainingSettings(
        args.d, args.f, args.p, args.preset, args.length, args.init, mapping, cases, args.groups, args.seed
    )
    if args.init:
        announce_licence(find_model(args.init))
    folder, is_new = train_model(settings, device_of(args.device))
    print(f"The SBLDM of fold {args.f} {'is trained' if is_new else 'was already trained'}: {folder}")


def _case_ids(file: Path) -> list[str]:
    if not file.is_file():
        raise UserError(f"-cases {file} is not a file.")
    lines = (line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines())
    return [line for line in lines if line]
