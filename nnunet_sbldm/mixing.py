"""Mixing synthetic cases into nnU-Net's training draws: settings, the dataset that carries the ratio, and the audit.

nnU-Net's loader draws case ids uniformly, with replacement, from ``dataset.identifiers``. Repeating ids a few times
there sets the share of synthetic draws on every worker and every rank; nothing else of the loader is touched.

Light on purpose: nnU-Net's background workers import it.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from numbers import Real
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from nnunet_sbldm.files import write_atomically
from nnunet_sbldm.types import UserError

SETTINGS_KEY = "sbldm"
"""Key of the settings block in a configuration of the plans."""

SHARE_TOLERANCE = 0.005
"""Largest deviation of the share of synthetic ids from the ratio asked."""

AUDIT_NAME = "sbldm_audit.jsonl"


@dataclass(frozen=True)
class MixingSettings:
    """How a training mixes synthetic cases in, and how long it runs.

    Attributes:
        ratio: share of synthetic cases among the drawn cases, 0 to 1.
        num_epochs: epochs; None leaves nnU-Net's 1000.
        num_iterations_per_epoch: training batches per epoch; None leaves nnU-Net's 250.
        num_val_iterations_per_epoch: validation batches per epoch; None leaves nnU-Net's 50.
    """

    ratio: float = 0.25
    num_epochs: int | None = None
    num_iterations_per_epoch: int | None = None
    num_val_iterations_per_epoch: int | None = None

    def __post_init__(self) -> None:
        is_number = isinstance(self.ratio, Real) and not isinstance(self.ratio, bool)
        if not is_number or not 0 <= self.ratio <= 1:
            raise UserError("ratio is the share of synthetic cases among the drawn cases, a number from 0 to 1; "
                            f"got {self.ratio!r}.")
        for name, value in self.overrides().items():
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise UserError(f"{name} is a whole number from 1; got {value!r}.")

    def overrides(self) -> dict[str, int]:
        """Attributes of nnU-Net's trainer that these settings replace."""
        return {name: value for name, value in asdict(self).items() if name != "ratio" and value is not None}

    def to_block(self) -> dict[str, Any]:
        """The settings block as it stands in the plans."""
        return {"ratio": self.ratio, **self.overrides()}

    @staticmethod
    def from_configuration(configuration: Mapping[str, Any]) -> MixingSettings:
        """Read the ``sbldm`` block of a resolved nnU-Net configuration; without one the defaults hold.

        Raises:
            UserError: not a block, unknown key, value out of range.
        """
        block = configuration.get(SETTINGS_KEY, {})
        if not isinstance(block, Mapping):
            raise UserError(f"The {SETTINGS_KEY} entry of a configuration is a block such as {{\"ratio\": 0.5}}; got {block!r}.")
        known = [f.name for f in fields(MixingSettings)]
        for key in block:
            if key not in known:
                nearest = difflib.get_close_matches(key, known, n=1, cutoff=0)[0]
                raise UserError(f"The {SETTINGS_KEY} block of the configuration has an unknown key {key!r}: "
                                f"did you mean {nearest!r}? Valid keys are {', '.join(known)}.")
        return MixingSettings(**block)


# --- the dataset ---------------------------------------------------------------------------------------------------


class CaseSource(Protocol):
    """What nnU-Net's loader asks of a dataset."""

    identifiers: Any

    def load_case(self, identifier: str) -> Any:
        """Image, segmentation, segmentation of the previous stage, and properties of a case."""
        ...


class MixedDataset:
    """Real and synthetic cases behind the interface of nnU-Net's datasets.

    Attributes:
        identifiers: [N] str, real ids first; each real id stands there equally often, and so does each synthetic id.
    """

    def __init__(self, real: CaseSource, synthetic: CaseSource | None, ratio: float) -> None:
        """Mix two of nnU-Net's datasets.

        Args:
            real: the real training cases.
            synthetic: the synthetic cases; None trains on real cases alone, whatever the ratio.
            ratio: share of synthetic ids in ``identifiers``, met to within ``SHARE_TOLERANCE``.

        Raises:
            UserError: a synthetic case has the id of a real one.
        """
        self._real, self._synthetic = real, synthetic
        self._synthetic_ids = frozenset(map(str, synthetic.identifiers)) if synthetic is not None and ratio > 0 else frozenset()
        clashes = sorted(self._synthetic_ids.intersection(map(str, real.identifiers)))
        if clashes:
            raise UserError(f"{len(clashes)} synthetic case(s) have the id of a real one ({', '.join(clashes[:5])}): "
                            "rename the real case(s).")
        real_copies, synthetic_copies = multiplicities(len(real.identifiers), len(self._synthetic_ids), ratio)
        ids = [*list(real.identifiers) * real_copies, *sorted(self._synthetic_ids) * synthetic_copies]
        self.identifiers = np.array(ids, dtype=str)

    def load_case(self, identifier: str) -> Any:
        """Load one case from where it belongs."""
        source = self._synthetic if str(identifier) in self._synthetic_ids else self._real
        assert source is not None  # without a synthetic dataset there are no synthetic ids
        return source.load_case(identifier)

    @property
    def synthetic_ids(self) -> frozenset[str]:
        """Ids of the synthetic cases that can be drawn."""
        return self._synthetic_ids


def multiplicities(num_real: int, num_synthetic: int, ratio: float) -> tuple[int, int]:
    """How often to list each real and each synthetic id so that the synthetic share is ``ratio``.

    The smallest pair (a, b) with ``|b S / (a R + b S) - ratio| <= SHARE_TOLERANCE`` for R real and S synthetic cases.
    One of the two is at most 25: rounding the larger to an integer when the smaller is k moves the share by at most
    ``ratio (1 - ratio) / 2k <= 1 / 8k``.
    """
    if ratio == 0 or num_synthetic == 0:
        return 1, 0
    if ratio == 1:
        return 0, 1
    exact = ratio / (1 - ratio) * num_real / num_synthetic  # b / a
    k = 0
    while True:
        k += 1
        a, b = (k, round(k * exact)) if exact >= 1 else (round(k / exact), k)
        if abs(b * num_synthetic / (a * num_real + b * num_synthetic) - ratio) <= SHARE_TOLERANCE:
            return a, b


# --- the audit -----------------------------------------------------------------------------------------------------


class DrawAudit:
    """Counts what the loader really drew, and stops training if it ever draws a validation case."""

    def __init__(self, synthetic_ids: Collection[str], validation_ids: Collection[str]) -> None:
        self._synthetic_ids, self._validation_ids = frozenset(synthetic_ids), frozenset(validation_ids)
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
        self._synthetic_draws += sum(k in self._synthetic_ids for k in drawn)

    def close_epoch(self, epoch: int, ratio: float) -> dict[str, Any]:
        """The record of an epoch; counting starts again."""
        share = self._synthetic_draws / max(1, self._draws)
        record = {"epoch": epoch, "draws": self._draws, "synthetic_draws": self._synthetic_draws,
                  "share": share, "asked": ratio, "validation_draws": 0}
        self._draws = self._synthetic_draws = 0
        return record


def start_audit_file(folder: Path, first_epoch: int) -> None:
    """Drop the records of epochs that this run is going to train (again)."""
    path = folder / AUDIT_NAME
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
    kept = [line for line in lines if line.endswith("\n") and json.loads(line)["epoch"] < first_epoch]
    write_atomically(path, lambda tmp: tmp.write_text("".join(kept), encoding="utf-8"))


def append_to_audit_file(folder: Path, record: Mapping[str, Any]) -> None:
    """Add the record of one epoch."""
    with open(folder / AUDIT_NAME, "a", encoding="utf-8") as f:
        f.write(json.dumps(record) + "\n")
