"""The commands, in nnU-Net's dialect: one dash for options with a value, two for flags.

Entry points parse first and import the heavy parts afterwards, so that ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from nnunet_sbldm.cli.blinded_montage import evaluate_edits_command
from nnunet_sbldm.cli.edit_options import (
    edit_arguments,
    edit_sampler_of,
    editing_of,
    host_dataset,
    host_dataset_arguments,
)
from nnunet_sbldm.cli.options import (
    DEFAULT_CONFIGURATION,
    Parser,
    announce_licence,
    count,
    dataset_arguments,
    device_argument,
    device_of,
    model_argument,
    number,
    output_of,
    positive,
    run,
    sampler_arguments,
    sampler_of,
)
from nnunet_sbldm.cli.train import train_entry
from nnunet_sbldm.dataset_conversion.expand_dataset import expand_entry
from nnunet_sbldm.generator.zoo import find_model
from nnunet_sbldm.mixing.schedule import SCHEDULES
from nnunet_sbldm.mixing.settings import CPU_PRECISIONS, MODES, SOURCES, TRAINER_ATTRIBUTES, MixingSettings
from nnunet_sbldm.types import UserError

__all__ = [
    "configure_entry",
    "demo_entry",
    "evaluate_entry",
    "expand_entry",
    "regenerate_entry",
    "sample_entry",
    "train_entry",
    "trainers_entry",
]


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


def demo_entry(argv: Sequence[str] | None = None) -> None:
    """``sbldm_demo``: the whole job on the embedded phantom."""
    parser = Parser(
        "The whole job on an embedded phantom: plan, preprocess, train an SBLDM, fill the pool, train nnU-Net, predict, report."
    )
    parser.add_argument("-o", required=True, type=Path, metavar="DIR", help="[REQUIRED] output folder; rerunning resumes")
    parser.add_argument("-device", default="cpu", choices=("cpu", "cuda", "mps"), help="[OPTIONAL] Default: cpu")
    args = parser.parse_args(argv)

    def main() -> None:
        from nnunet_sbldm.cli.demo import run_demo

        run_demo(args.o, device_of(args.device))

    run(main)


def trainers_entry(argv: Sequence[str] | None = None) -> None:
    """``sbldm_trainers``: print the folder for nnU-Net's ``nnUNet_extTrainer``."""
    parser = Parser('Print the folder of our trainers: export nnUNet_extTrainer="$(sbldm_trainers)".')
    parser.parse_args(argv)

    def main() -> None:
        from importlib.util import find_spec

        spec = find_spec("nnunet_sbldm.trainers")
        if spec is None or not spec.submodule_search_locations:
            raise UserError("The trainers are not installed; install the package with pip.")
        print(os.path.abspath(spec.submodule_search_locations[0]))

    run(main)


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
