"""Statistics of a study: means with intervals, paired differences to the reference, tests, and where the effect is.

The unit is a patient of the test cases: scans of one patient resemble each other, so their scores are averaged. Every score is
a table [patients, draws, seeds]; intervals resample all three independently (Owen, The pigeonhole bootstrap, Annals of Applied
Statistics 1, 2007), because seeds of one draw share training cases. Tests take each patient's mean over draws and seeds.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from nnunet_sbldm.types import UserError

BATCH = 500
SIGNIFICANCE = 0.05
VERDICTS = ("better", "tends better", "no difference shown", "mixed", "tends worse", "worse")
MIN_PAIRS_TESTED = 6
"""With fewer pairs that differ the smallest possible two-sided p of a signed-rank test is above 0.05."""


@dataclass(frozen=True)
class Interval:
    """A mean and its confidence interval; the bounds are NaN where there are too few values."""

    mean: float
    low: float
    high: float

    def to_json(self) -> dict[str, float | None]:
        """Plain dictionary; NaN becomes None."""
        return {k: None if np.isnan(v) else float(v) for k, v in (("mean", self.mean), ("low", self.low), ("high", self.high))}


def interval_of_mean(table: np.ndarray, num_resamples: int, confidence: float, seed: int = 0) -> Interval:
    """Mean of a table and its percentile bootstrap interval, with patients, draws and seeds resampled independently.

    What there is one of is not resampled: with one draw the interval says nothing of other draws of training cases.

    Args:
        table: [patients, draws, seeds]; NaN is missing.
        num_resamples: bootstrap samples.
        confidence: level, such as 0.95.
        seed: of the resampling.
    """
    known = np.isfinite(table)
    table = table[np.ix_(known.any(axis=(1, 2)), known.any(axis=(0, 2)), known.any(axis=(0, 1)))]
    if len(table) == 0:
        return Interval(float("nan"), float("nan"), float("nan"))
    mean = float(np.nanmean(table))
    if len(table) < 2:
        return Interval(mean, float("nan"), float("nan"))

    resampled = [axis for axis, length in enumerate(table.shape) if length > 1]

    def statistic(*drawn: np.ndarray, axis: int = -1) -> np.ndarray:
        of_axis = dict(zip(resampled, drawn, strict=True))
        patients, draws, seeds = (of_axis.get(axis, np.arange(length)) for axis, length in enumerate(table.shape))
        sample = table[patients[..., :, None, None], draws[..., None, :, None], seeds[..., None, None, :]]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # a sample of missing values alone is NaN
            return np.nanmean(sample, axis=(-3, -2, -1))

    samples = [np.arange(table.shape[axis]) for axis in resampled]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)  # samples of missing values alone are left out below
        result = stats.bootstrap(samples, statistic, n_resamples=num_resamples, batch=BATCH, vectorized=True, paired=False,
                                 confidence_level=confidence, method="percentile", rng=np.random.default_rng(seed))
    low, high = np.nanquantile(result.bootstrap_distribution, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(mean, float(low), float(high))


def patient_means(table: np.ndarray) -> np.ndarray:
    """Means [patients] over draws and seeds of a table [patients, draws, seeds], without patients who have no value."""
    known = table[np.isfinite(table).any(axis=(1, 2))]
    return np.nanmean(known, axis=(1, 2)) if len(known) else np.empty(0)


def signed_rank(differences: np.ndarray) -> tuple[float, int]:
    """Wilcoxon's signed-rank test on the patients' mean differences over draws and seeds; those that are 0 are left out.

    Args:
        differences: [patients, draws, seeds]; NaN is missing.

    Returns:
        Two-sided p, 1 if nobody differs and NaN if fewer than ``MIN_PAIRS_TESTED`` do; and the sign of the sum of ranks.
    """
    means = patient_means(differences)
    changed = means[means != 0]
    if len(changed) < MIN_PAIRS_TESTED:
        return 1.0 if len(means) >= MIN_PAIRS_TESTED and not len(changed) else float("nan"), 0
    return float(stats.wilcoxon(changed).pvalue), int(np.sign(np.sum(np.sign(changed) * stats.rankdata(np.abs(changed)))))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment of a family of p-values; NaN is no test and stays NaN.

    Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 6, 1979.
    """
    tested = sorted((p, i) for i, p in enumerate(p_values) if not np.isnan(p))
    adjusted, largest = [float("nan")] * len(p_values), 0.0
    for rank, (p, i) in enumerate(tested):
        largest = max(largest, min(1.0, p * (len(tested) - rank)))
        adjusted[i] = largest
    return adjusted


def terciles(sizes: np.ndarray) -> list[np.ndarray]:
    """Indices of the small, middle and large third of the patients with any foreground; by rank, so all about equally many."""
    order = [i for i in np.argsort(sizes, kind="stable") if sizes[i] > 0]
    return [np.array(part, dtype=int) for part in np.array_split(order, 3)]


def verdict(difference: Interval, p_adjusted: float, sign_of_ranks: int) -> str:
    """One of ``VERDICTS``: ``better`` and ``worse`` take interval and adjusted test, ``tends`` the interval alone.

    ``mixed``: interval and significant test point in opposite directions, as where few gain much and most lose a little.
    """
    sign = int(difference.low > 0) - int(difference.high < 0)  # NaN bounds are neither
    if not sign:
        return "no difference shown"
    direction = "better" if sign > 0 else "worse"
    if not p_adjusted < SIGNIFICANCE:
        return f"tends {direction}"
    return direction if sign == sign_of_ranks else "mixed"


# --- comparing -----------------------------------------------------------------------------------------------------

Scores = Mapping[tuple[str, int], np.ndarray]
"""(arm, number of cases) -> [patients, draws, seeds]; in one order for all."""


@dataclass(frozen=True)
class Comparison:
    """What to compare.

    Attributes:
        reference: name of the arm that others are compared with.
        arms: names of all arms, in the order of the study.
        num_cases: numbers of real training cases.
        oracles: arm -> its own number of cases.
        sizes_ml: [patients] foreground of the test cases, mean over the scans of each.
        num_resamples: bootstrap samples.
        confidence: confidence level.
    """

    reference: str
    arms: Sequence[str]
    num_cases: Sequence[int]
    oracles: Mapping[str, int]
    sizes_ml: np.ndarray
    num_resamples: int
    confidence: float


def compare(scores: Scores, what: Comparison) -> list[dict[str, Any]]:
    """One row per number of cases and arm, with mean, difference to the reference, p-values, thirds, and a verdict.

    The family of Holm's adjustment is every difference of the study.

    Raises:
        UserError: the reference has no scores at all.
    """
    if not any(arm == what.reference for arm, _ in scores):
        raise UserError(f"No run of {what.reference} is finished, and all other arms are compared with it: run the study first.")
    rows = [_row(scores, what, arm, n) for n in what.num_cases for arm in what.arms if (arm, what.oracles.get(arm, n)) in scores]
    compared = [row for row in rows if row["difference"] is not None]
    for row, adjusted in zip(compared, holm([row["p"] for row in compared]), strict=True):
        row["p_holm"] = adjusted
        row["verdict"] = verdict(row.pop("_interval"), adjusted, row.pop("_sign"))
    return [{k: None if isinstance(v, float) and np.isnan(v) else v for k, v in row.items()} for row in rows]


def _row(scores: Scores, what: Comparison, arm: str, num_cases: int) -> dict[str, Any]:
    own = scores[arm, what.oracles.get(arm, num_cases)]
    reference = scores.get((what.reference, num_cases))
    mean = interval_of_mean(own, what.num_resamples, what.confidence)
    runs = np.isfinite(own).any(axis=0)
    row: dict[str, Any] = {
        "arm": arm, "num_cases": num_cases, "num_runs": int(runs.sum()), "num_folds": int(np.any(runs, axis=1).sum()),
        "mean": mean.to_json(), "difference": None, "p": None, "p_holm": None, "verdict": None, "thirds": None}
    if arm == what.reference or reference is None or not np.isfinite(own - reference).any():
        return row
    differences = own - reference
    interval = interval_of_mean(differences, what.num_resamples, what.confidence)
    per_patient, (p, sign) = patient_means(differences), signed_rank(differences)
    thirds = [differences[i] for i in terciles(what.sizes_ml)]
    return {
        **row, "difference": interval.to_json(), "p": p, "_interval": interval, "_sign": sign,
        "num_better": int((per_patient > 0).sum()), "num_worse": int((per_patient < 0).sum()), "num_pairs": len(per_patient),
        "thirds": [interval_of_mean(t, what.num_resamples, what.confidence).to_json() for t in thirds],
    }
