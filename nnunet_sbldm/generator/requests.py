"""What to make for one fold, decided before anything is made.

A request depends on the seed of the expansion, its fold and its position alone, so a larger number of cases extends
a smaller one: the first n requests are the same.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from nnunet_sbldm.common.seeds import STREAMS, attempt_seed, case_seed
from nnunet_sbldm.data.conditions import FEATURES
from nnunet_sbldm.data.paths import Fold
from nnunet_sbldm.generator.plan import GeneratorPlan
from nnunet_sbldm.generator.spec import SpecEntry, drawn_volume
from nnunet_sbldm.types import UserError

ROUNDING = 1e-9


@dataclass(frozen=True)
class Request:
    """One synthetic case to make.

    Attributes:
        case_id: its identifier.
        seed: decides its condition, where left open, and its noise.
        asked: feature name -> value in physical units; features left out are drawn from the condition model.
        diversity: width of the condition model's kernels, 1 as fitted.
        attempt: 0 at first; a rejected case is drawn again with the next attempt's seed.
        streams: version of the random streams, see :mod:`nnunet_sbldm.common.seeds`.
        ranges: features of ``asked`` that were drawn, with the range that they were drawn from.
    """

    case_id: str
    seed: int
    asked: Mapping[str, float]
    diversity: float = 1.0
    attempt: int = 0
    streams: int = STREAMS
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def noise_seed(self) -> int:
        """Seed of this attempt."""
        return attempt_seed(self.seed, self.attempt, self.streams)

    def with_streams(self, streams: int) -> Request:
        """The same request under another version of the random streams, as its record of that version says it."""
        drawn = {name: drawn_volume(span, self.seed, streams) for name, span in self.ranges.items()}
        return replace(self, asked={**self.asked, **drawn}, streams=streams)

    def identity(self) -> dict[str, Any]:
        """What tells it from other requests, the same in every version of this package."""
        first = self.with_streams(1)
        return {name: getattr(first, name) for name in ("case_id", "seed", "asked", "diversity", "attempt")}


@dataclass(frozen=True)
class ExpansionRequest:
    """What a user asks of an expansion, for every fold; exactly one of the first three is given.

    Attributes:
        ratio: synthetic cases per real training case of the fold.
        num_cases: synthetic cases per fold.
        spec: entries of a ``spec.json``, made for every fold.
        balance: fill rare labels, see :func:`balanced_labels`.
        size_range_ml: volumes of ``label``, drawn log-uniformly between these.
        label: label that ``size_range_ml`` describes, by name or number; None is the first.
        diversity: width of the condition model's kernels, 1 as fitted.
        seed: seed of the whole expansion.
    """

    ratio: float | None = None
    num_cases: int | None = None
    spec: tuple[SpecEntry, ...] = field(default=())
    balance: bool = False
    size_range_ml: tuple[float, float] | None = None
    label: str | None = None
    diversity: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if [self.ratio is None, self.num_cases is None, not self.spec].count(False) != 1:
            raise UserError("Exactly one of -ratio, -n and -spec says how many cases to make.")
        if self.spec and (self.balance or self.size_range_ml or self.label is not None):
            raise UserError("-balance, -size_range and -label go with -ratio or -n; in a -spec every entry says what it wants.")
        if self.label is not None and not self.size_range_ml:
            raise UserError("-label names the label that -size_range describes; give both or neither.")
        if self.size_range_ml and not 0 < self.size_range_ml[0] <= self.size_range_ml[1] < math.inf:
            low, high = self.size_range_ml
            raise UserError(f"-size_range takes LOW and HIGH in ml with 0 < LOW <= HIGH; got {low:g} and {high:g}.")
        if not 0 <= self.diversity < math.inf:
            raise UserError(f"-diversity takes a number from 0; got {self.diversity:g}.")


def plan_requests(
    plan: GeneratorPlan, fold: Fold, num_training_cases: int, wanted: ExpansionRequest, taken_ids: Collection[str]
) -> list[Request]:
    """Decide every synthetic case of one fold.

    Args:
        plan: plan of the generator that will make them.
        fold: fold they train in.
        num_training_cases: real training cases of that fold.
        wanted: what the user asks for.
        taken_ids: ids of the real cases.

    Raises:
        UserError: no case results, a real case has the id of a synthetic one, or a label does not exist.
    """
    entries = _entries(fold, num_training_cases, wanted)
    rare = balanced_labels(plan, len(entries)) if wanted.balance else []
    requests = []
    for i, (origin, entry) in enumerate(entries):
        case_id, seed = f"sbldm_f{fold}_{i:04d}", case_seed(wanted.seed, fold, i)
        if case_id in taken_ids:
            raise UserError(f"The dataset has a real case named {case_id}; rename it, synthetic cases need that name.")
        asked = entry.features(plan, seed, origin)
        if rare:
            asked.setdefault(f"{rare[i]}/{FEATURES[0]}", 1.0)
        requests.append(Request(case_id, seed, asked, wanted.diversity, ranges=entry.ranges(plan, origin)))
    return requests


def _entries(fold: Fold, num_training_cases: int, wanted: ExpansionRequest) -> list[tuple[str, SpecEntry]]:
    """For every case what it shall be like, and which option says so."""
    if wanted.spec:
        return [(f"-spec, entry {n}: label", e) for n, e in enumerate(wanted.spec, 1) for _ in range(e.count)]
    count = wanted.num_cases if wanted.num_cases is not None else round((wanted.ratio or 0) * num_training_cases)
    if count < 1:
        asked = f"-n {count}" if wanted.ratio is None else f"{wanted.ratio:g} synthetic per real case of {num_training_cases}"
        raise UserError(f"Fold {fold}: {asked} makes no case; ask for more.")
    return [("-label", SpecEntry(label=wanted.label, volume_ml=wanted.size_range_ml))] * count


# --- warnings ------------------------------------------------------------------------------------------------------


def range_warnings(plan: GeneratorPlan, asked: Iterable[Mapping[str, float]]) -> list[str]:
    """One sentence for each feature of which some asked values lie outside the training range."""
    values: dict[str, list[float]] = {}
    for one in asked:
        for name, value in one.items():
            values.setdefault(name, []).append(value)
    names, warnings = plan.condition_scaling.names, []
    for name, all_asked in values.items():
        column = plan.condition_model.table[:, names.index(name)]
        known = column[np.isfinite(column)]
        outside = [v for v in all_asked if len(known) and not known.min() <= v <= known.max()]
        if outside:
            what = f"{name}{_outside(outside, len(all_asked))}"
            warnings.append(f"{what} outside the training range {known.min():g} to {known.max():g}.")
    return warnings


def _outside(values: Sequence[float], num_asked: int) -> str:
    if min(values) == max(values) and len(values) == num_asked:
        return f" = {values[0]:g} is"
    verb = "is" if len(values) == 1 else "are"
    return f": {len(values)} of {num_asked} asked values, {min(values):g} to {max(values):g}, {verb}"


# --- balance -------------------------------------------------------------------------------------------------------


def balanced_labels(plan: GeneratorPlan, count: int) -> list[str]:
    """For each of ``count`` cases the label whose presence to ask for, in inverse proportion to its frequency.

    A label in one of four training cases is asked for four times as often as one in every case. Any first n of the cases
    have each label as often as its share of n says, to less than one case. Labels that no training case has
    are not asked for, since the generator never saw them.

    Returns:
        ``count`` names; none at all if every label is in every training case, for then nothing is rare and nothing changes.
    """
    columns = [plan.condition_scaling.names.index(f"{t.name}/{FEATURES[0]}") for t in plan.targets]
    presence = plan.condition_model.table[:, columns].mean(axis=0)  # [targets], share of training cases
    known = [(t.name, float(p)) for t, p in zip(plan.targets, presence, strict=True) if p > 0]
    if not known or all(p == 1 for _, p in known):
        return []
    weights = np.array([1 / p for _, p in known])
    return [known[i][0] for i in apportion(weights / weights.sum(), count)]


def apportion(shares: np.ndarray, count: int) -> list[int]:
    """Deal ``count`` seats one by one, so that after any n of them part i has ``shares[i] * n`` to less than one seat.

    Tijdeman, The chairman assignment problem, Discrete Mathematics 32 (1980): among the parts that are owed enough, the
    one whose claim falls due first.

    Args:
        shares: [parts], positive, sum 1.
        count: number of seats.

    Returns:
        The part of each seat.
    """
    dealt, seats = np.zeros(len(shares)), []
    slack = 1 / max(2 * len(shares) - 2, 1)
    for n in range(1, count + 1):
        owed = shares * n - dealt
        due = np.where(owed >= min(slack, owed.max()) - ROUNDING, (1 - slack - owed) / shares, np.inf)
        seats.append(int(due.argmin()))
        dealt[seats[-1]] += 1
    return seats


def case_id_of(fold: int | str, number: int) -> str:
    """Id of a case that is made on the fly."""
    return f"sbldm_f{fold}_{number:06d}"


def is_case_id(text: str, fold: int | str) -> bool:
    """Whether some number of the fold has this id."""
    return re.fullmatch(rf"sbldm_f{fold}_\d{{6,}}", text) is not None
