"""The audit of what nnU-Net's loader really drew, one record per epoch."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from nnunet_sbldm.common.files import write_atomically
from nnunet_sbldm.types import UserError

AUDIT_NAME = "sbldm_audit.jsonl"


class DrawAudit:
    """Counts what the loader drew, and stops training if it ever draws a validation case."""

    def __init__(self, real_ids: Collection[str], validation_ids: Collection[str]) -> None:
        """Audit a training on the real cases ``real_ids``; every other case is a synthetic one."""
        self._real_ids, self._validation_ids = frozenset(real_ids), frozenset(validation_ids)
        self._draws = self._synthetic_draws = 0

    def count(self, keys: Iterable[str]) -> None:
        """Count the cases of one batch.

        Raises:
            UserError: a validation case is among them.
        """
        drawn = [str(k) for k in keys]
        held_out = sorted(self._validation_ids.intersection(drawn))
        if held_out:
            raise UserError(f"Validation case(s) {', '.join(held_out)} were drawn for training: "
                            "they stand in train and val of this fold; repair splits_final.json.")
        self._draws += len(drawn)
        self._synthetic_draws += sum(k not in self._real_ids for k in drawn)

    def close_epoch(self, epoch: int, ratio: float) -> dict[str, Any]:
        """The record of an epoch for which ``ratio`` was asked; counting starts again."""
        share = self._synthetic_draws / max(1, self._draws)
        record = {"epoch": epoch, "draws": self._draws, "synthetic_draws": self._synthetic_draws,
                  "share": share, "asked": ratio, "validation_draws": 0}
        self._draws = self._synthetic_draws = 0
        return record


def start_audit_file(folder: Path, first_epoch: int) -> None:
    """Drop the records of epochs that this run is going to train (again)."""
    kept = [json.dumps(record) + "\n" for record in read_audit_file(folder) if record["epoch"] < first_epoch]
    write_atomically(folder / AUDIT_NAME, lambda tmp: tmp.write_text("".join(kept), encoding="utf-8"))


def read_audit_file(folder: Path) -> list[dict[str, Any]]:
    """The records of a training, one per epoch; empty if there are none. A line that was cut by a kill is left out."""
    path = folder / AUDIT_NAME
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def append_to_audit_file(folder: Path, record: Mapping[str, Any]) -> None:
    """Add the record of one epoch."""
    with open(folder / AUDIT_NAME, "a", encoding="utf-8") as f:
        f.write(json.dumps(record) + "\n")
