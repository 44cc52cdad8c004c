"""The trace of a training on the fly: one line of JSON per case made, its number and its whole provenance record.

The cases themselves are gone when the training ends; with their records they can be made again.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nnunet_sbldm.generator.records import SyntheticRecord

TRACE_NAME = "sbldm_on_the_fly.jsonl"


def add_to_trace(path: Path, number: int, record: SyntheticRecord) -> None:
    """Add a case."""
    line = json.dumps({"number": number, **asdict(record)})
    with open(path, "ab+") as f:
        f.seek(max(0, f.tell() - 1))
        is_cut = f.read(1) not in (b"", b"\n")  # by a full disk or a kill
        f.write(f"{chr(10) * is_cut}{line}\n".encode())


def read_trace(path: Path) -> list[dict[str, Any]]:
    """Every whole line: the number of a case and the fields of its record; empty if there is no trace."""
    cases = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        with suppress(ValueError):  # cut by a full disk or a kill
            cases.append(json.loads(line))
    return cases


def next_number(path: Path) -> int:
    """Number of the first case that is not in the trace yet."""
    return max((case["number"] for case in read_trace(path)), default=-1) + 1
