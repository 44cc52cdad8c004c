"""Writes the pages that follow from the code: the reference of the commands, and the files by room.

    python docs/generate.py            # writes them anew
    python docs/generate.py --check    # exit code 1, and names, where a page is not what the code says

Run it after a change of an option, a module's docstring or a module's name; tests/test_docs.py compares.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
import tomllib
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import patch

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = ROOT / "docs" / "reference" / "commands.md"
FILES = ROOT / "docs" / "explanation" / "files.md"
SOURCES = ("nnunet_sbldm", "dataset_conversion", "trainers")
COMMANDS_HEAD = """# Commands

Options with a value have one dash, flags have two, as in nnU-Net.
Every command also takes `-h` and `--version`.
Exit codes: 0 done, 1 our fault or unfinished jobs of a study, 2 bad input, 3 the generator was judged unfit, 130 interrupted.
The options of the converters and of `nnunet_sbldm.dataset_conversion` are shown by `python -m MODULE -h`.

This page is written by `python docs/generate.py` from the parsers of the commands.
"""
FILES_HEAD = """# Files by room

Each file with the first sentence of its docstring. [The rooms](rooms.md) says what belongs where.

This page is written by `python docs/generate.py`.
"""


class _ParserReachedError(Exception):
    """Carries the parser of a command out of the command."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        super().__init__()
        self.parser = parser


def commands() -> dict[str, str]:
    """Every command of pyproject.toml and where it starts, as ``module:function``."""
    scripts: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    return dict(sorted(scripts.items()))


def parser_of(command: str) -> argparse.ArgumentParser:
    """The parser that a command makes, caught at the moment in which it would parse."""

    def caught(self: argparse.ArgumentParser, *_: Any, **__: Any) -> None:
        self.prog = command
        raise _ParserReachedError(self)

    module, function = commands()[command].split(":")
    with patch.object(argparse.ArgumentParser, "parse_args", caught):
        try:
            getattr(import_module(module), function)([])
        except _ParserReachedError as e:
            return e.parser
    raise RuntimeError(f"{command} has no parser")


def commands_page() -> str:
    """The reference of all commands."""
    return "\n".join([COMMANDS_HEAD, *(_section(parser_of(c)) for c in commands())])


def _section(parser: argparse.ArgumentParser) -> str:
    rows = ["| option | values | meaning |", "|---|---|---|"]
    for group in parser._action_groups:
        for action in group._group_actions:
            if not isinstance(action, argparse._HelpAction | argparse._VersionAction):
                rows.append(_row(parser, action))
    table = [*rows, ""] if len(rows) > 2 else []
    description = re.sub(r"(?<=[.:]) (?=[A-Z])", "\n", " ".join((parser.description or "").split()))
    return "\n".join([f"## {parser.prog}", "", description, "", *table])


def _row(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    name = ", ".join(f"`{o}`" for o in action.option_strings) or f"`{action.metavar or action.dest}`"
    text = parser._get_formatter()._expand_help(action) if action.help else ""
    return f"| {name} | {_values(action)} | {text.replace('|', chr(92) + '|')} |"


def _values(action: argparse.Action) -> str:
    if action.nargs == 0:
        return ""
    if action.choices:
        return ", ".join(f"`{c}`" for c in action.choices)
    if not action.option_strings and not isinstance(action.metavar, tuple):
        return ""
    names = action.metavar if isinstance(action.metavar, tuple) else [action.metavar or action.dest.upper()]
    return " ".join(names) + (" ..." if action.nargs in ("+", "*") else "")


def files_page() -> str:
    """One heading per folder with its files, each with the first sentence of its docstring."""
    folders = sorted({p.parent for top in SOURCES for p in (ROOT / top).rglob("*.py")})
    return "\n".join([FILES_HEAD, *(_files_of(folder) for folder in folders)])


def _files_of(folder: Path) -> str:
    files = [f"- `{p.name}`: {_first_sentence(p)}" for p in sorted(folder.glob("*.py"))]
    return "\n".join([f"## {folder.relative_to(ROOT).as_posix()}", "", *files, ""])


def _first_sentence(file: Path) -> str:
    text = (ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "").split("\n\n")[0]
    return " ".join(re.sub(r":\w+:(?=`)", "", text.replace("``", "`")).split())


def stale_pages() -> dict[Path, str]:
    """The pages that are not what the code says, with what they should be."""
    wanted = {COMMANDS: commands_page(), FILES: files_page()}
    return {p: text for p, text in wanted.items() if not p.is_file() or p.read_text(encoding="utf-8") != text}


def main() -> None:
    """Write or check the pages."""
    parser = argparse.ArgumentParser(description="Write the pages of the documentation that follow from the code.")
    parser.add_argument("--check", action="store_true", help="only say which pages are stale")
    check = parser.parse_args().check
    stale = stale_pages()
    for page, text in stale.items():
        print(f"{'stale' if check else 'written'}: {page.relative_to(ROOT)}")
        if not check:
            page.write_text(text, encoding="utf-8")
    sys.exit(1 if check and stale else 0)


if __name__ == "__main__":
    main()
