"""The quality gate: is a synthetic case one that the real training cases vouch for?

Three questions, each answered in numbers: does it look and is its mask shaped like a training case (bounds), is it what
was asked for (tolerances), and is it more than a copy (distance to the nearest training case)? All thresholds come from
the training cases of the generator alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnunet_sbldm.data.conditions import ANATOMY, LOG_FEATURES, ConditionScaling

MASK_FEATURES = ("volume_ml", "extent_d_mm", "extent_h_mm", "extent_w_mm", "sphericity", "num_components")
"""Condition features that are bounded. Where a tumour lies is not: new places are what synthetic cases are for."""
INTENSITIES = ("mean", "percentile_1", "percentile_99")
TINY = 1e-6
MIN_MARGIN_SHARE, MARGIN_CASES = 0.25, 8
"""Bounds are the range of N training cases, widened on both sides by ``max(MIN_MARGIN_SHARE, MARGIN_CASES / N)`` of it.

The range of few cases is much smaller than that of all patients. With these numbers, about 1 % of further real cases or
fewer lie outside the bounds of a normally distributed feature, for any N from 5 (2 % with heavy tails, 3 % for N = 3).
"""
SIGN_SHARE = 0.25
"""A contrast keeps its sign if every training case has it and stays this share of the range away from zero. Without this
rule, the wide bounds of few cases let inverted contrasts pass."""
MAX_ERROR_STD = 1.0
"""Asked and obtained may differ by this many standard deviations over the training cases: whoever ignores the condition
and always answers the mean of the training cases errs by one."""
BINDING = ("volume_ml", "centroid_d", "centroid_h", "centroid_w")
"""Size and place must be what was asked. The other errors are scored only: a lesion of the right size, in the right place,
that is shaped like a real one is a good case whatever shape was drawn for it."""
MIN_DISTANCE_SHARE = 0.5
"""Of the smallest distance between two training cases: anything nearer to a training case is taken for its copy."""
NEGLIGIBLE = {
    "volume_ml": math.log(1.25),
    "extent_d_mm": math.log(1.25),
    "extent_h_mm": math.log(1.25),
    "extent_w_mm": math.log(1.25),
    "num_components": math.log(2),
    "centroid_d": 0.05,
    "centroid_h": 0.05,
    "centroid_w": 0.05,
    "sphericity": 0.05,
    "std": math.log(1.25),
    "contrast": 0.1,
    "mean": 0.1,
    "percentile_1": 0.2,
    "percentile_99": 0.2,
}
"""No margin and no tolerance is smaller: a factor (as its logarithm) for sizes, a share of the anatomy for centroids, a
share of the anatomy's standard deviation for intensities. It is what voxels and noise alone may do to a feature, most to the
extremes of brightness."""


@dataclass(frozen=True)
class GateReference:
    """What the real training cases allow.

    Attributes:
        num_cases: how many there were.
        low: appearance or mask feature -> smallest accepted value; features that no training case has are left out.
        high: likewise, largest.
        tolerance: condition feature -> largest accepted difference between asked and obtained, of logarithms for sizes.
    """

    num_cases: int
    low: dict[str, float]
    high: dict[str, float]
    tolerance: dict[str, float]


@dataclass(frozen=True)
class Reason:
    """One reason to reject a case.

    Attributes:
        rule: id of the rule that the case breaks: the name of a feature, or a word such as ``copy``.
        text: what was found and what was allowed.
    """

    rule: str
    text: str


@dataclass(frozen=True)
class Verdict:
    """The gate's judgement of one synthetic case.

    Attributes:
        scores: every finite number that the judgement rests on. ``FEATURE``: measured value; ``error/FEATURE``: difference
            between asked and obtained over its tolerance, above 1 is too much; ``distance_ratio``: distance to the nearest
            training case over the smallest one between training cases.
        reasons: why the case is rejected; empty if it is accepted.
    """

    scores: dict[str, float]
    reasons: tuple[Reason, ...]

    @property
    def accepted(self) -> bool:
        """Whether nothing speaks against the case."""
        return not self.reasons

    @staticmethod
    def of_all(verdicts: Iterable[Verdict]) -> Verdict:
        """The scores and reasons of several verdicts of one case; scores that are not finite are left out."""
        verdicts = tuple(verdicts)
        scores = {k: float(v) for verdict in verdicts for k, v in verdict.scores.items() if math.isfinite(v)}
        return Verdict(scores, tuple(r for verdict in verdicts for r in verdict.reasons))

    def to_json(self) -> dict[str, Any]:
        """``scores``, the texts of the ``reasons`` and their ``rules``, for the record of the case."""
        return {"scores": self.scores, "reasons": [r.text for r in self.reasons], "rules": [r.rule for r in self.reasons]}


def rules_of(verdict: Mapping[str, Any]) -> list[str]:
    """The rules that rejected a case, by the verdict in its record.

    Records of earlier versions have no ``rules``: there, the text of a reason begins with its rule.
    """
    if "rules" in verdict:
        return list(verdict["rules"])
    return [text.split(" ")[0].rstrip(":") for text in verdict.get("reasons", ())]


def fit_gate(conditions: np.ndarray, names: Sequence[str], appearances: Sequence[Mapping[str, float]]) -> GateReference:
    """Thresholds from the real training cases.

    Args:
        conditions: [cases, features] condition features in physical units, NaN where missing.
        names: names of these features.
        appearances: :func:`measure_appearance` of every case.
    """
    columns = {n: conditions[:, i] for i, n in enumerate(names) if _feature(n) in MASK_FEATURES}
    for name in sorted({n for a in appearances for n in a}):
        columns[name] = np.array([a.get(name, math.nan) for a in appearances])
    bounds = {n: _bounds(n, known, appearances) for n, c in columns.items() if len(known := c[np.isfinite(c)])}
    spread = ConditionScaling.fit(names, conditions).std
    return GateReference(
        num_cases=len(conditions),
        low={n: low for n, (low, _) in bounds.items()},
        high={n: high for n, (_, high) in bounds.items()},
        tolerance={
            n: max(MAX_ERROR_STD * std, NEGLIGIBLE[_feature(n)])
            for n, std in zip(names, spread, strict=True)
            if not n.endswith("/presence")
        },
    )


def _bounds(name: str, values: np.ndarray, appearances: Sequence[Mapping[str, float]]) -> tuple[float, float]:
    """Range of a feature's values, widened."""
    scaled = [_scaled(name, v) for v in values]
    negligible = NEGLIGIBLE[_feature(name)]
    if _feature(name) in INTENSITIES:
        negligible *= float(np.mean([a[f"{_owner(name)}/std"] for a in appearances]))
    share = max(MIN_MARGIN_SHARE, MARGIN_CASES / len(scaled))
    margin = max(share * (max(scaled) - min(scaled)), negligible)
    low, high = min(scaled) - margin, max(scaled) + margin
    if _feature(name) == "contrast":
        away = SIGN_SHARE * (max(scaled) - min(scaled))
        low, high = (max(low, 0.0) if min(scaled) > away else low), (min(high, 0.0) if max(scaled) < -away else high)
    return _physical(name, low), _physical(name, high)


def _feature(name: str) -> str:
    return name.rsplit("/", 1)[1]


def _owner(name: str) -> str:
    return name.rsplit("/", 1)[0]


def _is_size(name: str) -> bool:
    return _feature(name) in LOG_FEATURES or _feature(name) == "std"


def _scaled(name: str, value: float) -> float:
    return math.log(max(value, TINY)) if _is_size(name) else float(value)


def _physical(name: str, scaled: float) -> float:
    return math.exp(scaled) if _is_size(name) else scaled


def judge(
    reference: GateReference,
    asked: Mapping[str, float],
    obtained: Mapping[str, float],
    appearance: Mapping[str, float],
    nearest_distance: float | None = None,
    real_distances: Sequence[float] | None = None,
) -> Verdict:
    """Accept or reject a synthetic case.

    Args:
        reference: thresholds of the training cases.
        asked: condition feature -> value in physical units that was asked for; features left out may be anything.
        obtained: the same features measured on the mask, missing ones left out.
        appearance: :func:`measure_appearance` of the case.
        nearest_distance: root mean square difference of standardised latents to the nearest training case.
        real_distances: the same of every training case to its nearest other training case.
            Without either of the two, copies are not looked for.
    """
    judgements = (
        _judge_bounds(reference, {**obtained, **appearance}),
        _judge_condition(reference, asked, obtained),
        _judge_distance(nearest_distance, real_distances),
    )
    return Verdict.of_all(judgements)


def _judge_bounds(reference: GateReference, measured: Mapping[str, float]) -> Verdict:
    """Appearance and mask features against their bounds; features of an absent target are not missed."""
    scores, reasons = {}, []
    for name, low in reference.low.items():
        value, high = measured.get(name), reference.high[name]
        if value is None and _feature(name) in (*INTENSITIES, "std"):
            reasons.append(Reason(name, f"{name} cannot be measured"))
        elif value is not None and not math.isfinite(value):
            reasons.append(Reason(name, f"{name} is not finite"))
        elif value is not None:
            scores[name] = value
            if not low <= value <= high:
                reasons.append(Reason(name, f"{name} {value:.3g} obtained, real cases {low:.3g} to {high:.3g}"))
    return Verdict(scores, tuple(reasons))


def _judge_condition(reference: GateReference, asked: Mapping[str, float], obtained: Mapping[str, float]) -> Verdict:
    """Asked against obtained; asking any feature of a target asks for the target."""
    scores, reasons = {}, []
    for target in dict.fromkeys(_owner(n) for n in asked):
        wanted = target == ANATOMY or round(asked.get(f"{target}/presence", 1.0)) == 1
        found = target == ANATOMY or obtained.get(f"{target}/presence") == 1
        if wanted != found:
            text = f"{target} is missing, but was asked" if wanted else f"{target} is there, but was not asked"
            reasons.append(Reason(f"{target}/presence", text))
    for name, tolerance in reference.tolerance.items():
        if name not in asked or name not in obtained:
            continue
        error = abs(_scaled(name, obtained[name]) - _scaled(name, asked[name])) / tolerance
        scores[f"error/{name}"] = error
        if error > 1 and _feature(name) in BINDING:
            reasons.append(Reason(name, f"{name} {obtained[name]:.3g} obtained, {asked[name]:.3g} asked"))
    return Verdict(scores, tuple(reasons))


def _judge_distance(nearest: float | None, real: Sequence[float] | None) -> Verdict:
    """Distance to the nearest training case; an exact copy is refused even if the training cases hold copies."""
    if nearest is None or real is None or len(real) == 0:
        return Verdict({}, ())
    smallest = float(min(real))
    scores = {"distance_ratio": nearest / max(smallest, TINY)}
    if nearest > MIN_DISTANCE_SHARE * smallest:
        return Verdict(scores, ())
    text = f"copy of a training case: distance {nearest:.3g}, training cases at least {smallest:.3g} apart"
    return Verdict(scores, (Reason("copy", text),))
