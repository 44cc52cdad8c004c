"""``sbldm_sample``: synthetic cases and a montage, into a folder."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from nnunet_sbldm.cli.edit_options import edit_arguments, edit_sampler_of, editing_of, host_dataset_arguments
from nnunet_sbldm.cli.options import announce_licence, device_argument, model_argument, sampler_arguments
from nnunet_sbldm.common.commands import Parser, count, number, positive, run

DESCRIPTION = ("label", "volume_ml", "centroid", "extent_mm", "sphericity", "num_components")


def sample_entry(argv: Sequence[str] | None = None) -> None:
    """``sbldm_sample``: write synthetic cases and a montage into a folder."""
    parser = Parser("Write synthetic image/mask pairs, their provenance and a montage into a folder.")
    model_argument(parser)
    parser.add_argument("-o", required=True, type=Path, metavar="DIR", help="[REQUIRED] output folder")
    parser.add_argument("-n", type=count, default=4, help="[OPTIONAL] number of cases. Default: 4")
    edit_arguments(parser)
    host_dataset_arguments(parser)
    description_arguments(parser)
    sampler_arguments(parser)
    parser.add_argument("--no_gate", action="store_true", help="[OPTIONAL] take every first draw, whatever the quality gate says")
    device_argument(parser)
    args = parser.parse_args(argv)
    run(lambda: _sample(args))


def description_arguments(parser: argparse.ArgumentParser) -> None:
    """What the cases shall be like: fields of :class:`nnunet_sbldm.generator.spec.SpecEntry`, named by ``DESCRIPTION``."""
    xyz = ("X", "Y", "Z")
    parser.add_argument(
        "-label", metavar="L", help="[OPTIONAL] label (number or name) to ask for; the following describe it. Default: the first"
    )
    parser.add_argument("-volume_ml", type=positive, metavar="V", help="[OPTIONAL] volume of that label in ml")
    parser.add_argument(
        "-centroid",
        type=number,
        nargs=3,
        metavar=xyz,
        help="[OPTIONAL] centre of that label, as fractions of the imaged anatomy along x, y and z of the file",
    )
    parser.add_argument(
        "-extent_mm", type=positive, nargs=3, metavar=xyz, help="[OPTIONAL] extent of that label along x, y and z of the file"
    )
    parser.add_argument(
        "-sphericity", type=number, metavar="S", help="[OPTIONAL] surface of the ball of equal volume over its surface, 0 to 1"
    )
    parser.add_argument("-num_components", type=count, metavar="N", help="[OPTIONAL] number of its connected components")


def _sample(args: argparse.Namespace) -> None:
    from nnunet_sbldm.api.model import SBLDM
    from nnunet_sbldm.api.sample_folder import SampleFolder
    from nnunet_sbldm.api.settings import SampleSettings, described
    from nnunet_sbldm.common.progress import progress

    model = SBLDM.load(args.m, args.device)
    announce_licence(model.folder)
    editing = editing_of(args)
    entry = described({name: getattr(args, name) for name in DESCRIPTION})
    sampler = edit_sampler_of(args, model.device.type)
    settings = SampleSettings(args.n, entry, args.seed, args.diversity, sampler, use_gate=not args.no_gate)
    hosts = model.hosts(editing, args.d, args.p) if editing else None
    samples = SampleFolder(args.o, model.drawer(settings, hosts))
    for _ in progress(samples.fill(), "editing" if editing else "sampling", args.n - samples.num_decided):
        pass
    print(f"{len(samples.case_ids)} synthetic cases are in {args.o}; look at {samples.montage}")
