"""``sbldm_sample``: synthetic cases and a montage, into a folder."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from nnunet_sbldm.cli.edit_options import edit_arguments, edit_sampler_of, editing_of, host_dataset, host_dataset_arguments
from nnunet_sbldm.cli.options import announce_licence, device_argument, device_of, model_argument, sampler_arguments, sampler_of
from nnunet_sbldm.common.commands import Parser, count, number, positive, run
from nnunet_sbldm.generator.zoo import find_model


def sample_entry(argv: Sequence[str] | None = None) -> None:
    """``sbldm_sample``: write synthetic cases and a montage into a folder."""
    parser = Parser("Write synthetic image/mask pairs, their provenance and a montage into a folder.")
    model_argument(parser)
    parser.add_argument("-o", required=True, type=Path, metavar="DIR", help="[REQUIRED] output folder")
    parser.add_argument("-n", type=count, default=4, help="[OPTIONAL] number of cases. Default: 4")
    edit_arguments(parser)
    host_dataset_arguments(parser)
    parser.add_argument(
        "-label", metavar="L", help="[OPTIONAL] label (number or name) to ask for; the following describe it. Default: the first"
    )
    parser.add_argument("-volume_ml", type=positive, metavar="V", help="[OPTIONAL] volume of that label in ml")
    parser.add_argument(
        "-centroid",
        type=number,
        nargs=3,
        metavar=("X", "Y", "Z"),
        help="[OPTIONAL] centre of that label, as fractions of the imaged anatomy along x, y and z of the file",
    )
    sampler_arguments(parser)
    device_argument(parser)
    args = parser.parse_args(argv)
    run(lambda: _sample(args))


def _sample(args: argparse.Namespace) -> None:
    import torch

    from nnunet_sbldm.editing.samples import write_edits
    from nnunet_sbldm.generator.checkpoint import load_generator
    from nnunet_sbldm.generator.requests import Request, asked_features
    from nnunet_sbldm.generator.sampling import check_asked, write_samples
    from nnunet_sbldm.generator.spec import SpecEntry

    device = device_of(args.device)
    folder = find_model(args.m)
    generator = load_generator(folder, torch.device(device))
    announce_licence(folder)
    editing = editing_of(args)
    volume_ml = args.volume_ml and (args.volume_ml, args.volume_ml)
    centroid = args.centroid and tuple(args.centroid)
    asked = asked_features(generator.plan, SpecEntry(label=args.label, volume_ml=volume_ml, centroid=centroid))
    for warning in check_asked(generator, asked):
        print(f"warning: {warning}", file=sys.stderr)
    requests = [Request(f"sbldm_{args.seed + i:05d}", args.seed + i, asked, args.diversity) for i in range(args.n)]
    if editing:
        picture = write_edits(generator, host_dataset(args, generator), requests, editing, edit_sampler_of(args, device), args.o)
    else:
        picture = write_samples(generator, requests, sampler_of(args, device), args.o)
    print(f"{args.n} synthetic cases are in {args.o}; look at {picture}")
