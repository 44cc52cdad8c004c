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
from typing import TYPE_CHECKING

from nnunet_sbldm.cli_options import (
    DEFAULT_CONFIGURATION,
    Parser,
    count,
    dataset_arguments,
    device_argument,
    device_of,
    number,
    positive,
    preset_argument,
    run,
    sampler_arguments,
    sampler_of,
    seed,
)
from nnunet_sbldm.config import PRESETS
from nnunet_sbldm.edit_commands import evaluate_edits_command
from nnunet_sbldm.edit_options import (
    edit_arguments,
    edit_sampler_of,
    editing_of,
    host_dataset,
    host_dataset_arguments,
)
from nnunet_sbldm.mixing import SOURCES, TRAINER_ATTRIBUTES, MixingSettings
from nnunet_sbldm.schedule import SCHEDULES
from nnunet_sbldm.types import UserError

if TYPE_CHECKING:
    from nnunet_sbldm.dataset_conversion.expand_dataset import Outcome
    from nnunet_sbldm.nnunet import NnunetDataset
    from nnunet_sbldm.production import Job, ProductionSettings
    from nnunet_sbldm.requests import Wish


def train_entry(argv: Sequence[str] | None = None) -> None:
    """``sbldm_train``: train a generator on the training cases of one fold."""
    parser = Parser(
        "Train an SBLDM (both stages) on the training cases of one fold. Interrupted training resumes with the same command."
    )
    dataset_arguments(parser)
    parser.add_argument("-f", required=True, metavar="FOLD", help="[REQUIRED] fold: a number, or all")
    preset_argument(parser)
    parser.add_argument(
        "-cases",
        type=Path,
        metavar="FILE",
        help="[OPTIONAL] text file with one case id per line: train on these cases of the fold alone",
    )
    _groups_argument(parser)
    parser.add_argument("-seed", type=seed, default=0, help="[OPTIONAL] seed of initialisation and training order. Default: 0")
    parser.add_argument("--c", action="store_true", help="[OPTIONAL] continue interrupted training; this is done in any case")
    device_argument(parser)
    args = parser.parse_args(argv)
    run(lambda: _train(args))


def _train(args: argparse.Namespace) -> None:
    from nnunet_sbldm.checkpoint import generator_folder, is_complete
    from nnunet_sbldm.folds import without_patients_of_val
    from nnunet_sbldm.groups import remember_groups, remembered_groups
    from nnunet_sbldm.nnunet import fold_cases, open_dataset, parse_fold
    from nnunet_sbldm.training import train_generator

    dataset, fold = open_dataset(args.d, args.p), parse_fold(args.f)
    case_ids, val = fold_cases(dataset, fold)
    if args.groups:
        remember_groups(dataset, args.groups)
    case_ids = without_patients_of_val(case_ids, val, remembered_groups(dataset.preprocessed))
    if args.cases:
        case_ids = _chosen_cases(args.cases, case_ids, fold)
    done = is_complete(generator_folder(dataset, args.preset, fold))
    folder = train_generator(dataset, fold, PRESETS[args.preset], case_ids, device_of(args.device), args.seed)
    print(f"The SBLDM of fold {fold} {'was already trained' if done else 'is trained'}: {folder}")


def _chosen_cases(file: Path, allowed: Sequence[str], fold: int | str) -> list[str]:
    if not file.is_file():
        raise UserError(f"-cases {file} is not a file.")
    chosen = sorted(set(file.read_text(encoding="utf-8").split()))
    unknown = [c for c in chosen if c not in set(allowed)]
    if unknown:
        raise UserError(
            f"-cases names {', '.join(unknown[:10])}, which {'is' if len(unknown) == 1 else 'are'} not among the "
            f"real training cases of fold {fold}."
        )
    return chosen


def sample_entry(argv: Sequence[str] | None = None) -> None:
    """``sbldm_sample``: write synthetic cases and a montage into a folder."""
    parser = Parser("Write synthetic image/mask pairs, their provenance and a montage into a folder.")
    parser.add_argument("-m", required=True, type=Path, metavar="MODEL", help="[REQUIRED] fold folder of a trained SBLDM")
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

    from nnunet_sbldm.checkpoint import load_generator
    from nnunet_sbldm.edit_samples import write_edits
    from nnunet_sbldm.requests import Request, asked_features
    from nnunet_sbldm.spec import SpecEntry
    from nnunet_sbldm.synthesis import check_asked, write_samples

    device = device_of(args.device)
    generator = load_generator(args.m, torch.device(device))
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


def expand_entry(argv: Sequence[str] | None = None) -> None:
    """``sbldm_expand_dataset``: write synthetic cases into a new dataset, the trainer's pool, or the dataset itself."""
    parser = Parser(
        "Write synthetic cases into a new nnU-Net dataset (-o), into the pool of nnUNetTrainerSBLDM (--pool), or into the "
        "dataset itself (--in_place, taken back by --undo). Running the same command again finishes interrupted work."
    )
    dataset_arguments(parser)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("-o", type=count, metavar="NEW_ID", help="write a new dataset with this id: real and synthetic cases")
    where.add_argument("--pool", action="store_true", help="fill the pool that nnUNetTrainerSBLDM draws from")
    where.add_argument("--in_place", action="store_true", help="add the cases to the folders of the dataset itself")
    where.add_argument("--undo", action="store_true", help="take an in-place expansion back, byte for byte")
    parser.add_argument(
        "-f", nargs="+", default=["0", "1", "2", "3", "4"], metavar="FOLD", help="[OPTIONAL] folds. Default: 0 1 2 3 4"
    )
    _wish_arguments(parser)
    edit_arguments(parser)
    parser.add_argument(
        "-c",
        nargs="+",
        default=[DEFAULT_CONFIGURATION],
        metavar="CONFIGURATION",
        help=f"[OPTIONAL] configurations to preprocess for. Default: {DEFAULT_CONFIGURATION}",
    )
    parser.add_argument("-m", type=Path, metavar="MODEL", help="[OPTIONAL] one SBLDM for all folds. Default: each fold's own")
    preset_argument(parser)
    _groups_argument(parser)
    sampler_arguments(parser)
    device_argument(parser)
    parser.add_argument("--no_gate", action="store_true", help="[OPTIONAL] accept every case unjudged")
    parser.add_argument(
        "-attempts", type=count, default=4, help="[OPTIONAL] draws per case before the gate gives it up. Default: 4"
    )
    parser.add_argument("-np", type=seed, help="[OPTIONAL] processes that preprocess and compress. Default: 2 with a GPU, else 0")
    parser.add_argument("-num_parts", type=count, default=1, help="[OPTIONAL] split the work into parts (array jobs). Default: 1")
    parser.add_argument("-part_id", type=seed, default=0, help="[OPTIONAL] which part this is, from 0. Default: 0")
    parser.add_argument("--dry_run", action="store_true", help="[OPTIONAL] check everything and say what would be written")
    args = parser.parse_args(argv)
    run(lambda: _expand(args))


def _wish_arguments(parser: argparse.ArgumentParser) -> None:
    much = parser.add_mutually_exclusive_group()
    much.add_argument("-ratio", type=positive, help="[OPTIONAL] synthetic cases per real training case of the fold. Default: 1")
    much.add_argument("-n", type=count, help="[OPTIONAL] synthetic cases per fold, instead of -ratio")
    much.add_argument("-spec", type=Path, metavar="FILE", help="[OPTIONAL] JSON list of what to make, instead of -ratio")
    parser.add_argument("-balance", choices=("label",), help="[OPTIONAL] ask for rare labels more often")
    parser.add_argument("-size_range", type=positive, nargs=2, metavar=("LOW", "HIGH"), help="[OPTIONAL] volumes of -label in ml")
    parser.add_argument("-label", metavar="L", help="[OPTIONAL] label that -size_range describes. Default: the first")


def _groups_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-groups",
        type=Path,
        metavar="FILE",
        help="[OPTIONAL] JSON object, case id to patient: scans of one patient never straddle; remembered",
    )


def _expand(args: argparse.Namespace) -> None:
    import torch

    from nnunet_sbldm.dataset_conversion import expand_dataset as expansion
    from nnunet_sbldm.groups import remember_groups
    from nnunet_sbldm.nnunet import dataset_name, open_dataset, parse_fold
    from nnunet_sbldm.requests import range_warnings

    if args.undo:
        removed = expansion.undo(dataset_name(args.d))
        print(f"The dataset is as it was before; {removed} files of synthetic cases were removed.")
        return
    if args.part_id >= args.num_parts:
        raise UserError(f"-part_id goes from 0 to {args.num_parts - 1}; got {args.part_id}.")
    dataset = open_dataset(args.d, args.p)
    if args.groups:
        remember_groups(dataset, args.groups)
    if args.o:
        expansion.expanded_name(dataset, args.o)
    folds = [parse_fold(f) for f in args.f]
    jobs = expansion.plan_jobs(dataset, folds, _wish(args), args.m, args.preset, editing_of(args))
    for job in jobs:
        for warning in range_warnings(job.generator.plan, [r.asked for r in job.requests]):
            print(f"warning: fold {job.fold}: {warning}", file=sys.stderr)
        job.generator.to(torch.device(device_of(args.device)))
    if args.dry_run:
        _announce(args, dataset, jobs)
        return
    settings = _production_settings(args)
    if args.pool:
        outcome = expansion.fill_pool(dataset, jobs, args.c, settings)
    elif args.in_place:
        outcome = expansion.expand_in_place(dataset, jobs, args.c, settings)
    else:
        outcome = expansion.write_dataset(dataset, jobs, args.o, args.c, settings)
    _tell(args, outcome)


def _wish(args: argparse.Namespace) -> Wish:
    from nnunet_sbldm.requests import Wish
    from nnunet_sbldm.spec import read_spec

    spec = read_spec(args.spec) if args.spec else ()
    ratio = args.ratio or (None if args.n or spec else 1.0)
    size_range = tuple(args.size_range) if args.size_range else None
    return Wish(ratio, args.n, spec, args.balance == "label", size_range, args.label, args.diversity, args.seed)


def _production_settings(args: argparse.Namespace) -> ProductionSettings:
    from nnunet_sbldm.production import ProductionSettings

    device = device_of(args.device)
    num_writers = (2 if device == "cuda" else 0) if args.np is None else args.np
    return ProductionSettings(
        edit_sampler_of(args, device), not args.no_gate, args.attempts, num_writers, args.num_parts, args.part_id
    )


def _announce(args: argparse.Namespace, dataset: NnunetDataset, jobs: Sequence[Job]) -> None:
    """What a real run would do; one case is drawn to measure the time, and thrown away."""
    from nnunet_sbldm.dataset_conversion.expand_dataset import estimate_bytes
    from nnunet_sbldm.destinations import views_of
    from nnunet_sbldm.production import seconds_per_draw

    views_of(dataset, args.c)
    settings, num_cases = _production_settings(args), sum(len(job.requests) for job in jobs)
    for job in jobs:
        first, last = job.requests[0].case_id, job.requests[-1].case_id
        print(f"fold {job.fold}: {len(job.requests)} synthetic cases, {first} to {last}, from {job.generator.folder}")
    gigabytes = estimate_bytes(dataset, jobs, len(args.c), with_raw=not args.pool) / 2**30
    minutes = num_cases * seconds_per_draw(jobs[0], dataset, settings.sampler) / 60
    print(f"at most {gigabytes:.2f} GB; about {minutes:.1f} min if every first draw is accepted; nothing was written.")


def _tell(args: argparse.Namespace, outcome: Outcome) -> None:
    if outcome.num_open:
        print(
            f"Part {args.part_id} of {args.num_parts} is done; other parts owe {outcome.num_open} cases; the last one installs."
        )
        return
    made = ", ".join(f"{n} in fold {fold}" for fold, n in outcome.installed.items())
    given_up = sum(t.rejected for t in outcome.tallies.values())
    print(f"Synthetic cases: {made}{f'; the quality gate gave up {given_up}' if given_up else ''}.")
    for folder in outcome.folders:
        print(f"  {folder}")
    trainer = " -tr nnUNetTrainerSBLDM" if args.pool else ""
    print(f"Train on them: nnUNetv2_train {args.o or args.d} {args.c[0]} {args.f[0]} -p {args.p}{trainer}")


def regenerate_entry(argv: Sequence[str] | None = None) -> None:
    """``sbldm_regenerate``: make a synthetic case again from its record and compare."""
    parser = Parser("Make a synthetic case again from its provenance record, and compare it with the stored one.")
    parser.add_argument("dataset", metavar="DATASET", help="[REQUIRED] dataset id or name: real (pool, in place) or expanded")
    parser.add_argument("case", metavar="CASE", help="[REQUIRED] id of the synthetic case")
    parser.add_argument("-m", type=Path, metavar="MODEL", help="[OPTIONAL] its SBLDM, if it was moved. Default: as recorded")
    parser.add_argument("-o", type=Path, metavar="DIR", help="[OPTIONAL] write the case there as .nii.gz")
    device_argument(parser)
    args = parser.parse_args(argv)
    run(lambda: _regenerate(args))


def _regenerate(args: argparse.Namespace) -> None:
    from nnunet_sbldm.regeneration import regenerate

    print(regenerate(args.dataset, args.case, device_of(args.device), args.m, args.o))


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
    on_the_fly.add_argument("-sbldm_device", metavar="DEVICE", help="[OPTIONAL] cpu, cuda:1, ... Default: that of the training")
    on_the_fly.add_argument("-pool_size", type=count, help="[OPTIONAL] cases that are kept ready")
    on_the_fly.add_argument("-max_reuse", type=count, help="[OPTIONAL] how often a case is drawn before a new one replaces it")
    for option in TRAINER_ATTRIBUTES:
        parser.add_argument(f"-{option}", type=count, help="[OPTIONAL] Default: as in nnU-Net")
    args = parser.parse_args(argv)
    run(lambda: _configure(args))


def _configure(args: argparse.Namespace) -> None:
    from nnunet_sbldm.configure import add_configuration

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
        from nnunet_sbldm.demo import run_demo

        run_demo(args.o, args.device)

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
    parser.add_argument("-m", required=True, type=Path, metavar="MODEL", help="[REQUIRED] fold folder of a trained SBLDM")
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

    from nnunet_sbldm.checkpoint import load_generator
    from nnunet_sbldm.evaluation import EvaluationSettings, evaluate
    from nnunet_sbldm.nnunet import open_dataset
    from nnunet_sbldm.quality_targets import DEFAULT_TARGETS, read_targets

    editing_of(args)
    device = device_of(args.device)
    targets = read_targets(args.targets) if args.targets else DEFAULT_TARGETS
    generator = load_generator(args.m, torch.device(device))
    plan, output = generator.plan, args.o or args.m / "evaluation"
    dataset = open_dataset(args.d or plan.dataset_name, args.p or plan.plans_name, plan.configuration)
    settings = EvaluationSettings(
        args.n, sampler_of(args, device), args.seed, args.diversity, not args.no_gate, targets, args.nnunet
    )
    result = evaluate(generator, dataset, settings, output)
    flagged = [c["case_id"] for c in result["synthetic_cases"] if c["flagged"]]
    if flagged:
        print(f"warning: nearer to a training case than any held-out case is: {', '.join(flagged)}", file=sys.stderr)
    print(f"The evaluation is in {output}; look at {output / 'evaluation.html'}")
