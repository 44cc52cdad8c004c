"""``sbldm_blinded_montage``: edited and real cases in random order, and the key."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from nnunet_sbldm.cli.edit_options import edit_arguments, edit_sampler_of, editing_of, host_dataset_arguments
from nnunet_sbldm.cli.options import announce_licence, device_argument, model_argument, sampler_arguments
from nnunet_sbldm.common.commands import Parser, count, run


def blinded_montage_entry(argv: Sequence[str] | None = None) -> None:
    """``sbldm_blinded_montage``: edited and real cases in random order, and the key."""
    parser = Parser(
        "Write montage.png with edited and real cases in random order, and key.json that says which is which: look first, then "
        "compare."
    )
    model_argument(parser)
    parser.add_argument("-o", required=True, type=Path, metavar="DIR", help="[REQUIRED] output folder")
    parser.add_argument("-n", type=count, default=20, help="[OPTIONAL] number of edited and of real cases. Default: 20")
    edit_arguments(parser, modes=("edit",))
    host_dataset_arguments(parser)
    sampler_arguments(parser)
    device_argument(parser)
    args = parser.parse_args(argv)
    run(lambda: _blinded_montage(args))


def _blinded_montage(args: argparse.Namespace) -> None:
    from nnunet_sbldm.api.hosts import dataset_of
    from nnunet_sbldm.api.model import SBLDM
    from nnunet_sbldm.editing.maker import edited_cases
    from nnunet_sbldm.evaluation.blinded_montage import write_blinded_montage

    editing = editing_of(args)
    assert editing is not None  # the only mode
    model = SBLDM.load(args.m, args.device)
    announce_licence(model.folder)
    sampler, dataset = edit_sampler_of(args, model.device.type), dataset_of(model.trained, args.d, args.p)
    cases = edited_cases(model.trained, dataset, editing)
    picture = write_blinded_montage(cases, dataset, args.n, sampler, args.o, args.seed)
    print(f"Look at {picture}, write down which are edited, then compare with {args.o / 'key.json'}")
