"""Cards whose results have a name alone: the version before ids, which bundled models were evaluated with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MEASURES = {
    "r of log volume": "volume_r",
    "median volume error (share)": "volume_error",
    "median centroid error (share of field of view)": "centroid_error",
    "Frechet distance": "frechet",
    "kernel distance (KID)": "kid",
    "MS-SSIM between cases": "ms_ssim",
    "ratio of nearest distances": "distance_ratio",
    "smallest distance": "smallest_distance",
    "flagged cases": "flagged",
}
"""Names whose id is another word."""


def with_ids(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """The evaluation of a card in which every result has an id; those that have one keep it."""
    if "metrics" not in evaluation:
        return dict(evaluation)
    return {**evaluation, "metrics": [{"id": _id_of(m["name"]), **m} for m in evaluation["metrics"]]}


def _id_of(name: str) -> str:
    """``tumour: flagged cases`` -> ``tumour/flagged``, ``Dice tumour`` -> ``tumour/dice``; other names are ids already."""
    if name.startswith("Dice "):
        return f"{name.removeprefix('Dice ')}/dice"
    owner, colon, measure = name.rpartition(": ")
    return f"{owner}/{MEASURES.get(measure, measure)}" if colon else MEASURES.get(name, name)
