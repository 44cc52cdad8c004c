"""``sbldm_regenerate``: a synthetic case once more, from its record."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from nnunet_sbldm.cli.options import device_argument, device_of
from nnunet_sbldm.common.commands import Parser, run
from nnunet_sbldm.generator.zoo import find_model


def regenerate_entry(argv: Sequence[str] | None = None) -> None:
    """``sbldm_regenerate``: make a synthetic case again from its record and compare."""
    parser = Parser("Make a synthetic case again from its provenance record, and compare it with the stored one.")
    parser.add_argument(
        "place",
        metavar="DATASET",
        help="[REQUIRED] dataset id or name, real (pool, in place) or expanded; or results folder of a fold trained on the fly",
    )
    parser.add_argument("case", metavar="CASE", help="[REQUIRED] id of the synthetic case")
    parser.add_argument("-m", metavar="MODEL", help="[OPTIONAL] its SBLDM, if it was moved. Default: as recorded")
    parser.add_argument("-o", type=Path, metavar="DIR", help="[OPTIONAL] write the case there as .nii.gz")
    device_argument(parser)
    args = parser.parse_args(argv)
    run(lambda: _regenerate(args))


def _regenerate(args: argparse.Namespace) -> None:
    from nnunet_sbldm.expansion.regenerate import regenerate

    model = find_model(args.m) if args.m else None
    print(regenerate(args.place, args.case, device_of(args.device), model, args.o))
