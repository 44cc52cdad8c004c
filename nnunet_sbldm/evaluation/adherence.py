"""How well a synthetic mask has the size and place that were asked for."""

from __future__ import annotations

import numpy as np

from nnunet_sbldm.data.conditions import AXES, FEATURES


def condition_errors(asked: np.ndarray, obtained: np.ndarray, extent_mm: np.ndarray) -> dict[str, float]:
    """How well one target's condition was met: over the cases in which it was asked for and is there.

    Args:
        asked: [N, features of one target] in physical units.
        obtained: likewise.
        extent_mm: [N, 3] of the anatomy, the field of view of centroids.
    """
    both = (asked[:, 0] == 1) & (obtained[:, 0] == 1)
    wanted, got = asked[both], obtained[both]
    volume, place = FEATURES.index("volume_ml"), slice(FEATURES.index("centroid_d"), FEATURES.index("centroid_d") + len(AXES))
    apart = got[:, place] - wanted[:, place]
    return {
        "presence as asked": float((asked[:, 0] == obtained[:, 0]).mean()),
        "r of log volume": _correlation(np.log(wanted[:, volume]), np.log(got[:, volume])),
        "median volume error (ml)": _median(np.abs(got[:, volume] - wanted[:, volume])),
        "median volume error (share)": _median(np.abs(got[:, volume] / wanted[:, volume] - 1)),
        "median centroid error (share of field of view)": _median(np.linalg.norm(apart, axis=1)),
        "median centroid error (mm)": _median(np.linalg.norm(apart * extent_mm[both], axis=1)),
    }


def _median(values: np.ndarray) -> float:
    return float(np.median(values)) if len(values) else float("nan")


def _correlation(x: np.ndarray, y: np.ndarray) -> float:
    if len(x) < 2 or x.std() < 1e-12 or y.std() < 1e-12:
        return float("nan")
    return float(np.corrcoef(x, y)[0, 1])
