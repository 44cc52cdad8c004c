"""``sbldm_evaluate``: whole cases, or edits, beside real ones."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from nnunet_sbldm.cli.edit_options import edit_arguments, edit_sampler_of, editing_of, host_dataset
from nnunet_sbldm.cli.options import (
    announce_licence,
    device_argument,
    device_of,
    model_argument,
    output_of,
    sampler_arguments,
    sampler_of,
)
from nnunet_sbldm.common.commands import Parser, count, run
from nnunet_sbldm.generator.zoo import find_model
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
    import torch

    from nnunet_sbldm.data.dataset import open_dataset
    from nnunet_sbldm.evaluation.evaluate import EvaluationSettings, evaluate
    from nnunet_sbldm.evaluation.goals import DEFAULT_TARGETS, read_targets
    from nnunet_sbldm.generator.checkpoint import load_generator

    editing_of(args)
    device = device_of(args.device)
    targets = read_targets(args.targets) if args.targets else DEFAULT_TARGETS
    folder = find_model(args.m)
    output = output_of(args, folder, "evaluation")
    generator = load_generator(folder, torch.device(device))
    announce_licence(folder)
    plan = generator.plan
    dataset = open_dataset(args.d or plan.dataset_name, args.p or plan.plans_name, plan.configuration)
    settings = EvaluationSettings(
        args.n, sampler_of(args, device), args.seed, args.diversity, not args.no_gate, targets, args.nnunet
    )
    result = evaluate(generator, dataset, settings, output)
    flagged = [c["case_id"] for c in result["synthetic_cases"] if c["flagged"]]
    if flagged:
        print(f"warning: nearer to a training case than any held-out case is: {', '.join(flagged)}", file=sys.stderr)
    print(f"The evaluation is in {output}; look at {output / 'evaluation.html'}")


def evaluate_edits_command(args: argparse.Namespace) -> None:
    """``sbldm_evaluate -mode edit``."""
    import torch

    from nnunet_sbldm.evaluation.edits import evaluate_edits
    from nnunet_sbldm.generator.checkpoint import load_generator

    device, editing = device_of(args.device), editing_of(args)
    if editing is None:
        raise UserError("Edits are evaluated with -mode edit.")
    given = {"-targets": args.targets, "-nnunet": args.nnunet, "--no_gate": args.no_gate}
    unfit = [option for option, value in given.items() if value]
    if unfit:
        raise UserError(f"{unfit[0]} is for whole cases; leave it out with -mode edit.")
    folder = find_model(args.m)
    output = output_of(args, folder, "edit_evaluation")
    generator = load_generator(folder, torch.device(device))
    announce_licence(folder)
    sampler = edit_sampler_of(args, device)
    evaluate_edits(generator, host_dataset(args, generator), editing, args.n, sampler, output, args.seed, args.diversity)
    print(f"The evaluation is in {output}; look at {output / 'edit_evaluation.html'}")
