"""The commands about models as a whole: list them, show their card, write one into a file, take one from a file."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_sbldm.cli.options import model_argument
from nnunet_sbldm.common.commands import Parser, run
from nnunet_sbldm.generator.zoo import BUNDLED, find_model, known_models
from nnunet_sbldm.types import UserError

if TYPE_CHECKING:
    from nnunet_sbldm.generator.card import ModelCard

COLUMNS = ("name", "licence", "channels", "labels", "field of view, mm", "spacing, mm", "cases", "measured")
STATEMENTS = ("title", "licence", "data")


def models_entry(argv: Sequence[str] | None = None) -> None:
    """``sbldm_models``: the models that have a name, or the card of one."""
    parser = Parser("List the SBLDMs that are bundled or imported (lengths along x, y, z), or print the card of one.")
    parser.add_argument("-m", metavar="MODEL", help="[OPTIONAL] print the card of this one, by name or folder")
    args = parser.parse_args(argv)
    run(lambda: _models(args))


def _models(args: argparse.Namespace) -> None:
    from nnunet_sbldm.generator.card import read_card, rendered

    if args.m:
        print(rendered(read_card(find_model(args.m))))
        return
    models = known_models()
    if not models:
        print("No SBLDM is bundled or imported: train one with sbldm_train, or take one from a file with sbldm_import.")
        return
    rows = [COLUMNS, *(_row(name, folder) for name, folder in models.items())]
    widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    print("\nThe card of one: sbldm_models -m NAME")


def _row(name: str, folder: Path) -> tuple[str, ...]:
    from nnunet_sbldm.generator.card import NOT_STATED, is_non_commercial, read_card

    try:
        card = read_card(folder)
    except UserError as e:
        return (name, str(e), *[""] * (len(COLUMNS) - 2))
    name += "" if folder.parent == BUNDLED else " (imported)"
    licence = f"{card.whole_licence or NOT_STATED}{' (non-commercial)' if is_non_commercial(card) else ''}"
    made = [", ".join(names) for names in (card.channels, card.labels)]
    lengths = ["x".join(f"{v:g}" for v in values) for values in (card.field_of_view_mm, card.spacing_mm)]
    return (name, licence, *made, *lengths, str(card.num_training_cases), _measured(card))


def _measured(card: ModelCard) -> str:
    """The numbers that tell most in the least room; of several labels the worst counts."""
    from nnunet_sbldm.generator.card import measure_of

    known = [m for m in card.evaluation.get("metrics", ()) if m["value"] is not None]
    volume, copies, frechet = ([m for m in known if measure_of(m) == x] for x in ("volume_r", "distance_ratio", "frechet"))
    said = [f"volume r {min(m['value'] for m in volume):.2f}"] if volume else []
    said += [f"Frechet {m['value']:.3g} (real {m['floor']:.3g})" for m in frechet]
    said += [f"memorisation ratio {min(m['value'] for m in copies):.2f}"] if copies else []
    return ", ".join(said)


def export_entry(argv: Sequence[str] | None = None) -> None:
    """``sbldm_export``: write a model into a file."""
    parser = Parser(
        "Write an SBLDM into one file, to share it instead of the data. The list of its training cases becomes salted hashes: "
        "the receiver's commands still refuse to leak, but nobody can read who was in it."
    )
    model_argument(parser)
    parser.add_argument("-o", required=True, type=Path, metavar="FILE.zip", help="[REQUIRED] file to write")
    parser.add_argument("-licence", metavar="TEXT", help="[OPTIONAL] licence of the weights. Default: that of dataset.json")
    parser.add_argument("-title", metavar="TEXT", help="[OPTIONAL] one line for its card. Default: from dataset.json")
    parser.add_argument("-data", metavar="TEXT", help="[OPTIONAL] what it was trained on. Default: from dataset.json")
    parser.add_argument("--fp16", action="store_true", help="[OPTIONAL] half the size, weights rounded to fp16")
    parser.add_argument("--plain_ids", action="store_true", help="[OPTIONAL] list the training cases readably")
    args = parser.parse_args(argv)
    run(lambda: _export(args))


def _export(args: argparse.Namespace) -> None:
    if args.o.suffix != ".zip":
        raise UserError(f"-o names a file that ends in .zip; got {args.o}.")
    from nnunet_sbldm.generator.card import NOT_STATED, read_card
    from nnunet_sbldm.generator.checkpoint import load_model
    from nnunet_sbldm.generator.sharing import Sharing, export_model

    model = load_model(find_model(args.m))
    statements = {k: getattr(args, k) for k in STATEMENTS if getattr(args, k)}
    if statements.get("licence", read_card(model.folder).licence) == NOT_STATED:
        print("warning: no licence is stated, so nobody may use the model: say -licence.", file=sys.stderr)
    export_model(model, args.o, Sharing(statements, args.fp16, args.plain_ids))
    print(f"The SBLDM is in {args.o} ({args.o.stat().st_size / 2**20:.1f} MB); the receiver runs sbldm_import {args.o.name}")


def import_entry(argv: Sequence[str] | None = None) -> None:
    """``sbldm_import``: take a model from a file."""
    parser = Parser("Take an SBLDM from a file that sbldm_export wrote: checked before it is kept; no code in it runs.")
    parser.add_argument("file", type=Path, metavar="FILE.zip", help="[REQUIRED] the file")
    parser.add_argument("-name", help="[OPTIONAL] name for -m. Default: that of the file")
    args = parser.parse_args(argv)
    run(lambda: _import(args))


def _import(args: argparse.Namespace) -> None:
    from nnunet_sbldm.generator.card import licence_note
    from nnunet_sbldm.generator.sharing import import_model

    folder, is_new = import_model(args.file, args.name)
    print(licence_note(folder) or "No licence is stated.")
    print(f"The SBLDM {'is' if is_new else 'was already'} in {folder}; use it with -m {folder.name}")
