"""The quality gate for edits: the gate's own questions about the new lesion, and whether the edit can be told from its host."""

from __future__ import annotations

from collections.abc import Mapping

from nnunet_sbldm.editing.real_lesions import MIN_DISTANCE_SHARE, RealLesions
from nnunet_sbldm.quality.gate import TINY, Reason, Verdict

MAX_CUT_SHARE = 0.05
"""Of a new lesion's voxels in the fading border of its region: more of them, and the border has cut it off."""


def judge_edit(real: RealLesions, scores: Mapping[str, float], cut_share: float, nearest: Mapping[str, object]) -> Verdict:
    """Accept or reject an edit by what the real cases allow.

    Args:
        real: measured real cases.
        scores: seam, texture and contrast scores of the edit, named as in ``real``.
        cut_share: share of the new lesion in the fading border.
        nearest: the most similar real lesion, see :meth:`RealLesions.nearest`.
    """
    reasons = []
    for name, value in scores.items():
        bounds = real.bounds(name)
        if bounds is not None and not bounds[0] <= value <= bounds[1]:
            text = f"{name} {value:.3g} obtained, real tissue {bounds[0]:.3g} to {bounds[1]:.3g}"
            reasons.append(Reason(name, text))
    if cut_share > MAX_CUT_SHARE:
        reasons.append(Reason("cut", f"cut: {cut_share:.0%} of the lesion lies in the border of the region"))
    own = Verdict({**scores, "cut_share": cut_share}, tuple(reasons))
    return Verdict.of_all((own, _judge_copy(real, nearest)))


def _judge_copy(real: RealLesions, nearest: Mapping[str, object]) -> Verdict:
    smallest = real.smallest_distance
    if not nearest or smallest is None:
        return Verdict({}, ())
    distance = float(nearest["lesion_distance"])  # type: ignore[arg-type]
    scores = {"lesion_distance_ratio": distance / max(smallest, TINY)}
    if distance > MIN_DISTANCE_SHARE * smallest:
        return Verdict(scores, ())
    text = f"copy of the lesion of {nearest['case_id']}: distance {distance:.3g}, real lesions at least {smallest:.3g} apart"
    return Verdict(scores, (Reason("copy", text),))
