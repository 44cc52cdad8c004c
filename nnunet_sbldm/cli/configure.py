"""``sbldm_configure``: a configuration with settings of our trainer, added to nnU-Net's plans."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import fields

from nnunet_sbldm.cli.options import dataset_arguments
from nnunet_sbldm.common.commands import Parser, count, number, run
from nnunet_sbldm.data.paths import DEFAULT_CONFIGURATION
from nnunet_sbldm.mixing.schedule import SCHEDULES
from nnunet_sbldm.mixing.settings import CPU_PRECISIONS, MODES, SOURCES, TRAINER_ATTRIBUTES, MixingSettings


def configure_entry(argv: Sequence[str] | None = None) -> None:
    """``sbldm_configure``: add a configuration with settings of nnUNetTrainerSBLDM to the plans."""
    parser = Parser("Add a configuration with the settings of nnUNetTrainerSBLDM to a dataset's plans.")
    dataset_arguments(parser)
    parser.add_argument(
        "-c",
        default=DEFAULT_CONFIGURATION,
        metavar="CONFIGURATION",
        help=f"[OPTIONAL] configuration to inherit from. Default: {DEFAULT_CONFIGURATION}",
    )
    parser.add_argument(
        "-ratio", type=number, required=True, help="[REQUIRED] share of synthetic cases among drawn cases, 0 to 1"
    )
    parser.add_argument("-name", help="[OPTIONAL] name of the new configuration. Default: CONFIGURATION_sbldmPERCENT")
    parser.add_argument(
        "-schedule", default="constant", help=f"[OPTIONAL] share over the epochs: {', '.join(SCHEDULES)}. Default: constant"
    )
    parser.add_argument(
        "-source",
        default="auto",
        help=f"[OPTIONAL] where synthetic cases come from: {', '.join(SOURCES)}. Default: auto, what the trainer's name says",
    )
    on_the_fly = parser.add_argument_group("source on_the_fly")
    on_the_fly.add_argument(
        "-m", dest="model", metavar="MODEL", help="[OPTIONAL] folder or name of the SBLDM. Default: that of the fold"
    )
    on_the_fly.add_argument(
        "-mode", default=MODES[0], help="[OPTIONAL] generate whole cases, or edit real training cases. Default: generate"
    )
    on_the_fly.add_argument("-sbldm_device", metavar="DEVICE", help="[OPTIONAL] cpu, cuda:1, ... Default: that of the training")
    on_the_fly.add_argument("-pool_size", type=count, help="[OPTIONAL] cases that are kept ready")
    on_the_fly.add_argument("-max_reuse", type=count, help="[OPTIONAL] how often a case is drawn before a new one replaces it")
    on_the_fly.add_argument(
        "-wait_s",
        type=number,
        metavar="SECONDS",
        help="[OPTIONAL] wait so long, at most, for these cases before the first epoch, in very short trainings. Default: 0",
    )
    parser.add_argument(
        "-cpu_precision",
        default=CPU_PRECISIONS[0],
        help="[OPTIONAL] precision of nnU-Net on a CPU: fp32 or bf16, faster on CPUs with AMX or AVX512-BF16. Default: fp32",
    )
    parser.add_argument(
        "--no_final_validation",
        dest="final_validation",
        action="store_false",
        help="[OPTIONAL] do not predict the validation cases after training; those of fold all are its training cases",
    )
    for option in TRAINER_ATTRIBUTES:
        parser.add_argument(f"-{option}", type=count, help="[OPTIONAL] Default: as in nnU-Net")
    args = parser.parse_args(argv)
    run(lambda: _configure(args))


def _configure(args: argparse.Namespace) -> None:
    from nnunet_sbldm.mixing.configure import add_configuration

    if args.model and os.path.isdir(args.model):
        args.model = os.path.abspath(args.model)
    settings = MixingSettings(**{f.name: getattr(args, f.name) for f in fields(MixingSettings)})
    name = add_configuration(args.d, args.p, args.c, settings, args.name)
    print(f"Train it: nnUNetv2_train {args.d} {name} FOLD -p {args.p} -tr nnUNetTrainerSBLDM")
