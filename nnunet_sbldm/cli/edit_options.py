"""Options of the commands that edit hosts: ``-mode edit`` and what goes with it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from nnunet_sbldm.cli.options import sampler_of
from nnunet_sbldm.common.commands import number
from nnunet_sbldm.ldm.config import EDIT_SAMPLER
from nnunet_sbldm.mixing.settings import MODES
from nnunet_sbldm.types import UserError

if TYPE_CHECKING:
    from nnunet_sbldm.editing.choices import EditSettings
    from nnunet_sbldm.ldm.config import SamplerConfig


def edit_arguments(parser: argparse.ArgumentParser, modes: Sequence[str] = MODES) -> None:
    """``-mode``, ``-kind``, ``-hosts``, ``-deformation`` and ``--no_mirror``; the first of the modes is the default."""
    group = parser.add_argument_group("edit mode")
    group.add_argument(
        "-mode",
        choices=modes,
        default=modes[0],
        help=f"[OPTIONAL] generate whole cases, or edit lesions of real training cases (hosts). Default: {modes[0]}",
    )
    group.add_argument(
        "-kind", nargs="+", metavar="KIND", help="[OPTIONAL] replace, add, remove: each case draws one. Default: replace add"
    )
    group.add_argument(
        "-hosts", nargs="+", metavar="CASE", help="[OPTIONAL] real training cases to edit. Default: all of the fold"
    )
    group.add_argument(
        "-deformation", type=number, metavar="MM", help="[OPTIONAL] bend hosts smoothly by up to MM millimetres. Default: 0"
    )
    group.add_argument("--no_mirror", action="store_true", help="[OPTIONAL] never mirror hosts left to right")


def host_dataset_arguments(parser: argparse.ArgumentParser) -> None:
    """``-d`` and ``-p``: where the hosts are."""
    parser.add_argument(
        "-d", metavar="DATASET", help="[OPTIONAL] edit mode: dataset of the hosts. Default: the one the SBLDM was trained on"
    )
    parser.add_argument("-p", metavar="PLANS", help="[OPTIONAL] edit mode: plans identifier. Default: those of the SBLDM")


def editing_of(args: argparse.Namespace) -> EditSettings | None:
    """The settings that the options ask for, with the hosts that they name; None if whole cases are to be generated.

    Raises:
        UserError: an option of edit mode in another mode, or a bad value.
    """
    from nnunet_sbldm.editing.choices import EditSettings

    given = {"-kind": args.kind, "-hosts": args.hosts, "-deformation": args.deformation, "--no_mirror": args.no_mirror}
    used = [option for option, value in given.items() if value]
    if args.mode != "edit":
        if used:
            raise UserError(f"{used[0]} goes with -mode edit.")
        return None
    kinds = tuple(dict.fromkeys(args.kind or EditSettings.kinds))
    return EditSettings(tuple(dict.fromkeys(args.hosts or ())), kinds, not args.no_mirror, args.deformation or 0.0)


def edit_sampler_of(args: argparse.Namespace, device: str) -> SamplerConfig:
    """Sampler settings of the options, whose defaults depend on the mode; edits are made one at a time."""
    if args.mode == "edit":
        return replace(sampler_of(args, device, EDIT_SAMPLER), batch_size=EDIT_SAMPLER.batch_size)
    return sampler_of(args, device)
