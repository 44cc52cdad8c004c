"""The commands about edits: their evaluation, and the blinded montage."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from nnunet_sbldm.cli.edit_options import edit_arguments, edit_sampler_of, editing_of, host_dataset, host_dataset_arguments
from nnunet_sbldm.cli.options import (
    Parser,
    announce_licence,
    count,
    device_argument,
    device_of,
    model_argument,
    output_of,
    run,
    sampler_arguments,
)
from nnunet_sbldm.generator.zoo import find_model
from nnunet_sbldm.types import UserError


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


def blinded_montage_entry(argv: Sequence[str] | None = None) -> None:
    """``sbldm_blinded_montage``: edited and real cases in random order, and the key."""
    parser = Parser(
        "Write montage.png with edited and real cases in random order, and key.json that says which is which: look first, then "
        "compare."
    )
    model_argument(parser)
    parser.add_argument("-o", required=True, type=Path, metavar="DIR", help="[REQUIRED] output folder")
    parser.add_argument("-n", type=count, default=20, help="[OPTIONAL] number of edited and of real cases. Default: 20")
    edit_arguments(parser)
    host_dataset_arguments(parser)
    sampler_arguments(parser)
    device_argument(parser)
    parser.set_defaults(mode="edit")
    args = parser.parse_args(argv)
    run(lambda: _blinded_montage(args))


def _blinded_montage(args: argparse.Namespace) -> None:
    import torch

    from nnunet_sbldm.evaluation.blinded_montage import write_blinded_montage
    from nnunet_sbldm.generator.checkpoint import load_generator

    device, editing = device_of(args.device), editing_of(args)
    if editing is None:
        raise UserError("The blinded montage shows edits; leave out -mode generate.")
    folder = find_model(args.m)
    generator = load_generator(folder, torch.device(device))
    announce_licence(folder)
    dataset = host_dataset(args, generator)
    picture = write_blinded_montage(generator, dataset, editing, args.n, edit_sampler_of(args, device), args.o, args.seed)
    print(f"Look at {picture}, write down which are edited, then compare with {args.o / 'key.json'}")
