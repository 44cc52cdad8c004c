"""``sbldm_evaluate``: whole cases, or edits, beside real ones."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from nnunet_sbldm.cli.edit_options import edit_arguments, edit_sampler_of, editing_of
from nnunet_sbldm.cli.options import announce_licence, device_argument, model_argument, sampler_arguments, sampler_of
from nnunet_sbldm.common.commands import Parser, count, run
from nnunet_sbldm.types import UserError


def evaluate_entry(argv: Sequence[str] | None = None) -> None:
    """``sbldm_evaluate``: synthetic cases against real cases that the generator never saw."""
    parser = Parser(
        "Evaluate an SBLDM: synthetic cases against real held-out cases, with a real-vs-real floor beside each number. "
        "Writes evaluation.json, evaluation.html and pictures."
    )
    model_argument(parser)
    parser.add_argument("-d", metavar="DATASET", help="[OPTIONAL] dataset id or name. Default: the one it was trained on")
    parser.add_argument("-p", metavar="PLANS", help="[OPTIONAL] plans identifier. Default: those it was trained with")
    parser.add_argument("-n", type=count, default=64, help="[OPTIONAL] number of synthetic cases. Default: 64")
    parser.add_argument("-o", type=Path, metavar="DIR", help="[OPTIONAL] output folder. Default: MODEL/evaluation")
    parser.add_argument(
        "-targets", type=Path, metavar="FILE", help="[OPTIONAL] JSON object of numbers to reach, where not the defaults"
    )
    parser.add_argument(
        "-nnunet", type=Path, metavar="FOLDER", help="[OPTIONAL] trained nnU-Net (TRAINER__PLANS__CONFIGURATION) for features"
    )
    parser.add_argument("--no_gate", action="store_true", help="[OPTIONAL] evaluate raw draws, not those that pass the gate")
    edit_arguments(parser)
    sampler_arguments(parser)
    device_argument(parser)
    args = parser.parse_args(argv)
    run(lambda: evaluate_edits_command(args) if args.mode == "edit" else _evaluate(args))


def _evaluate(args: argparse.Namespace) -> None:
    from nnunet_sbldm.api.model import SBLDM
    from nnunet_sbldm.evaluation.goals import DEFAULT_GOALS, read_goals
    from nnunet_sbldm.evaluation.settings import EvaluationSettings

    editing_of(args)
    goals = read_goals(args.targets) if args.targets else DEFAULT_GOALS
    model = SBLDM.load(args.m, args.device)
    sampler = sampler_of(args, model.device.type)
    settings = EvaluationSettings(args.n, sampler, args.seed, args.diversity, not args.no_gate, goals, args.nnunet)
    announce_licence(model.folder)
    evaluation = model.evaluate(args.d, plans=args.p, folder=args.o, settings=settings)
    if evaluation.near_copies:
        copies = ", ".join(evaluation.near_copies)
        print(f"warning: nearer to a training case than any held-out case is: {copies}", file=sys.stderr)
    print(f"The evaluation is in {evaluation.folder}; look at {evaluation.folder / 'evaluation.html'}")


def evaluate_edits_command(args: argparse.Namespace) -> None:
    """``sbldm_evaluate -mode edit``."""
    from nnunet_sbldm.api.model import SBLDM
    from nnunet_sbldm.evaluation.settings import EvaluationSettings

    editing = editing_of(args)
    if editing is None:
        raise UserError("Edits are evaluated with -mode edit.")
    given = {"-targets": args.targets, "-nnunet": args.nnunet, "--no_gate": args.no_gate}
    unfit = [option for option, value in given.items() if value]
    if unfit:
        raise UserError(f"{unfit[0]} is for whole cases; leave it out with -mode edit.")
    model = SBLDM.load(args.m, args.device)
    announce_licence(model.folder)
    settings = EvaluationSettings(args.n, edit_sampler_of(args, model.device.type), args.seed, args.diversity)
    evaluation = model.evaluate_edits(args.d, plans=args.p, editing=editing, folder=args.o, settings=settings)
    print(f"The evaluation is in {evaluation.folder}; look at {evaluation.folder / 'edit_evaluation.html'}")
