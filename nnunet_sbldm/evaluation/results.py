"""The numbers of an evaluation: synthetic cases against unseen real ones, each beside the same between real cases.

Held-out cases are the reference. The *floor* of a distance is that of training cases to held-out cases: what a generator
that redraws its training cases perfectly would get. Where a metric depends on the number of cases, both take equally many.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from nnunet_sbldm.data.conditions import Target
from nnunet_sbldm.evaluation.measures import Measures

FEW_CASES = 10
"""With fewer, distances are not judged and the report warns."""


@dataclass(frozen=True)
class Result:
    """One number and what it is to be read beside.

    Attributes:
        id: what was measured, for code: ``MEASURE``, or ``OWNER/MEASURE`` of a label, region, channel or kind of copy. Unique
            within a section of the report.
        name: the same for readers.
        value: of the synthetic cases (of held-out cases for reconstruction).
        floor: the same of real cases.
        num_cases: cases (or pairs of cases) behind the value.
        goal: what was to be reached, in words; empty if nothing is asked.
        reached: whether it is.
        details: further numbers.
    """

    id: str
    name: str
    value: float
    floor: float
    num_cases: int
    goal: str = ""
    reached: bool | None = None
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def measure(self) -> str:
        """The id without its owner."""
        return self.id.rsplit("/", 1)[-1]

    def to_json(self) -> dict[str, Any]:
        """The fields of the result in ``evaluation.json``, where the goal is called ``target``; no number has no verdict."""
        value = asdict(self)
        value["target"] = value.pop("goal")
        return {**value, "reached": None if math.isnan(self.value) else self.reached}


@dataclass(frozen=True)
class Sets:
    """Measures of the three sets of cases.

    Attributes:
        synthetic: synthetic cases.
        held_out: real cases that the generator never saw.
        training: real cases that it was trained on.
        targets: labels or regions.
    """

    synthetic: Measures
    held_out: Measures
    training: Measures
    targets: tuple[Target, ...]


def reconstruction_results(sets: Sets, label_names: Sequence[str]) -> list[Result]:
    """Dice per label, PSNR and SSIM of held-out cases; the floor is that of training cases."""
    held_out, training = sets.held_out.reconstruction, sets.training.reconstruction
    columns = [(f"{n}/dice", f"Dice {n}", held_out.dice[:, i], training.dice[:, i]) for i, n in enumerate(label_names)]
    columns += [
        ("psnr_db", "PSNR (dB)", held_out.psnr_db, training.psnr_db),
        ("ssim", "SSIM", held_out.ssim, training.ssim),
    ]
    return [
        Result(i, n, finite_mean(h), finite_mean(t), int(np.isfinite(h).sum()), details={"worst": _finite(np.min, h)})
        for i, n, h, t in columns
    ]


def finite_mean(values: np.ndarray | Sequence[float]) -> float:
    """Mean of the finite values; NaN if there are none."""
    return _finite(np.mean, values)


def finite_std(values: np.ndarray | Sequence[float]) -> float:
    """Standard deviation of the finite values; NaN if there are none."""
    return _finite(np.std, values)


def _finite(reduce: Callable[[np.ndarray], Any], values: np.ndarray | Sequence[float]) -> float:
    known = np.asarray(values, dtype=float)
    known = known[np.isfinite(known)]
    return float(reduce(known)) if len(known) else float("nan")
