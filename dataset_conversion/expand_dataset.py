"""``sbldm_expand_dataset``: options, checks and what is said at the end."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_sbldm.cli.edit_options import edit_arguments, edit_sampler_of, editing_of
from nnunet_sbldm.cli.options import (
    announce_licence,
    dataset_arguments,
    device_argument,
    device_of,
    groups_argument,
    sampler_arguments,
    trained_preset_argument,
)
from nnunet_sbldm.common.commands import Parser, count, positive, run, seed
from nnunet_sbldm.data.paths import DEFAULT_CONFIGURATION
from nnunet_sbldm.types import UserError

if TYPE_CHECKING:
    from nnunet_sbldm.api.expansion import Expansion
    from nnunet_sbldm.expansion.parts import Outcome
    from nnunet_sbldm.generator.requests import ExpansionRequest


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
    parser.add_argument(
        "-m", metavar="MODEL", help="[OPTIONAL] one SBLDM for all folds, by folder or name. Default: each fold's own"
    )
    trained_preset_argument(parser)
    groups_argument(parser)
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


def _expand(args: argparse.Namespace) -> None:
    from nnunet_sbldm.api.expansion import IN_PLACE, POOL, ExpansionSettings, plan_expansion
    from nnunet_sbldm.data.paths import dataset_name

    if args.undo:
        _undo(dataset_name(args.d), args.dry_run)
        return
    editing = editing_of(args)
    settings = ExpansionSettings(
        plans=args.p, configurations=tuple(args.c), preset=args.preset, editing=editing,
        sampler=edit_sampler_of(args, device_of(args.device)), device=args.device, use_gate=not args.no_gate,
        max_attempts=args.attempts, num_writers=args.np, num_parts=args.num_parts, part_id=args.part_id, groups=args.groups,
    )
    into = POOL if args.pool else IN_PLACE if args.in_place else args.o
    expansion = plan_expansion(args.d, into, _wanted(args), folds=args.f, model=args.m, settings=settings)
    for folder in dict.fromkeys(job.model.folder for job in expansion.jobs):
        announce_licence(folder)
    if args.dry_run:
        _announce(expansion)
    else:
        _tell(args, expansion.run())


def _undo(name: str, dry_run: bool) -> None:
    from nnunet_sbldm.expansion.in_place import undo

    if dry_run:
        raise UserError("--undo has no --dry_run: leave one of them out.")
    removed, kept = undo(name)
    print(f"The dataset is as it was before; {removed} files of synthetic cases were removed.")
    for folder in kept:
        print(f"warning: {folder} was made for synthetic cases, but stays: it holds other files now.", file=sys.stderr)


def _wanted(args: argparse.Namespace) -> ExpansionRequest:
    from nnunet_sbldm.generator.requests import ExpansionRequest
    from nnunet_sbldm.generator.spec import read_spec

    spec = read_spec(args.spec) if args.spec else ()
    ratio = args.ratio or (None if args.n or spec else 1.0)
    size_range = tuple(args.size_range) if args.size_range else None
    return ExpansionRequest(ratio, args.n, spec, args.balance == "label", size_range, args.label, args.diversity, args.seed)


def _announce(expansion: Expansion) -> None:
    """What a real run would do; one case is drawn to measure the time, and thrown away."""
    from nnunet_sbldm.api.expansion import IN_PLACE, POOL
    from nnunet_sbldm.expansion.destinations import views_of
    from nnunet_sbldm.expansion.in_place import refuse_in_place
    from nnunet_sbldm.expansion.new_dataset import refuse_incomplete
    from nnunet_sbldm.expansion.prepare import estimate_bytes
    from nnunet_sbldm.expansion.production import seconds_per_draw

    dataset, jobs, into, settings = expansion.dataset, expansion.jobs, expansion.into, expansion.settings
    views = views_of(dataset, settings.configurations)
    if into == IN_PLACE:
        refuse_in_place(jobs, views)
    elif into != POOL:
        refuse_incomplete(views)
    for job in jobs:
        first, last = job.requests[0].case_id, job.requests[-1].case_id
        print(f"fold {job.fold}: {len(job.requests)} synthetic cases, {first} to {last}, from {job.model.folder}")
    gigabytes = estimate_bytes(dataset, jobs, views, with_raw=into != POOL) / 2**30
    num_cases = sum(len(job.requests) for job in jobs)
    minutes = num_cases * seconds_per_draw(jobs[0], dataset, settings.production().sampler) / 60
    written = "no case was written" + (", but -groups is remembered" if settings.groups else "")
    print(f"at most {gigabytes:.2f} GB; about {minutes:.1f} min if every first draw is accepted; {written}.")


def _tell(args: argparse.Namespace, outcome: Outcome) -> None:
    from nnunet_sbldm.expansion.ledger import NO_ROOM

    if outcome.num_open:
        print(
            f"Part {args.part_id} of {args.num_parts} is done; other parts owe {outcome.num_open} cases; the last one installs."
        )
        return
    made = ", ".join(f"{n} in fold {fold}" for fold, n in outcome.installed.items())
    no_room = sum(t.reasons[NO_ROOM] for t in outcome.tallies.values())
    given_up = sum(t.rejected for t in outcome.tallies.values()) - no_room
    said = [f"; the quality gate gave up {given_up}"] * bool(given_up) + [f"; no host had room for {no_room}"] * bool(no_room)
    print(f"Synthetic cases: {made}{''.join(said)}.")
    for folder in outcome.folders:
        print(f"  {folder}")
    trainer = " -tr nnUNetTrainerSBLDM" if args.pool else ""
    print(f"Train on them: nnUNetv2_train {args.o or args.d} {args.c[0]} {args.f[0]} -p {args.p}{trainer}")
