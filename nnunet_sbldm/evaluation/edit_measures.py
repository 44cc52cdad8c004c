"""What is measured of an edit: is what was asked there, does the image show it, can one see the border, is the rest untouched?"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from scipy import ndimage

from nnunet_sbldm.editing.edit import EditedDraw
from nnunet_sbldm.editing.maker import EditedCases
from nnunet_sbldm.evaluation.adherence import errors_of_an_edit
from nnunet_sbldm.generator.checkpoint import SBLDMModel
from nnunet_sbldm.generator.outlines import CONNECTED
from nnunet_sbldm.generator.requests import Request
from nnunet_sbldm.ldm.config import SamplerConfig
from nnunet_sbldm.quality.appearance import halo, mask_and_shell
from nnunet_sbldm.quality.seams import seam_scores
from nnunet_sbldm.quality.similarity import coherence
from nnunet_sbldm.types import OUTSIDE, FloatArray

CENTRAL_PERCENTILES = (2.5, 97.5)


def measure_edit(cases: EditedCases, request: Request, sampler: SamplerConfig) -> tuple[dict[str, Any], EditedDraw]:
    """One edit and all that is measured of it, as JSON."""
    start = time.monotonic()
    (drawn,) = cases.draw([request], sampler)
    record = replace(drawn.record(cases.model, sampler), nearest_real_case=cases.nearest(drawn))
    verdict = cases.judge(drawn, record)
    seconds = time.monotonic() - start
    before, after = seams_of(cases, drawn)
    asked, obtained = record.condition_asked, record.condition_obtained
    return {
        "case_id": request.case_id,
        "kind": drawn.task.choice.kind,
        "host": drawn.task.choice.host,
        "mirrored": drawn.task.choice.transform.mirrored,
        "accepted": verdict.accepted,
        "reasons": [r.text for r in verdict.reasons],
        "rules": [r.rule for r in verdict.reasons],
        "seconds": seconds,
        **errors_of_an_edit(asked, obtained, cases.model.plan.targets[0].name),
        "threshold_dice": threshold_dice(cases.model.plan.intensity.normalised(drawn.image), drawn, cases.model),
        "seam_in_range": _within(cases, after, "/seam", CENTRAL_PERCENTILES),
        "host_seam_in_range": _within(cases, before, "/seam", CENTRAL_PERCENTILES),
        "seam_excess": max((after[n] - before[n] for n in before.keys() & after.keys()), default=None),
        "lesion_halo": max((v for n, v in verdict.scores.items() if n.endswith("/lesion_halo")), default=None),
        "host_lesion_halo": halo_of_host(drawn, cases.model),
        **lesion_structure(drawn.image, drawn.focus > 0),
        **{f"host_{k}": v for k, v in lesion_structure(drawn.task.prepared.image, drawn.task.prepared.lesions).items()},
        "texture_in_range": _within(cases, verdict.scores, "/lesion_fine", (0, 100)),
        "unchanged_outside": unchanged_outside(drawn, cases.model),
        "scores": verdict.scores,
    }, drawn


def seams_of(cases: EditedCases, drawn: EditedDraw) -> tuple[dict[str, float], dict[str, float]]:
    """Seam scores of the unedited host and of the edit, in tissue that is free of lesions in both."""
    host = drawn.task.prepared
    tissue = (drawn.label == 0) & ~host.lesions
    scaled = cases.model.plan.intensity.normalised
    before, after = (seam_scores(scaled(i), drawn.task.region.weight, tissue) for i in (host.image, drawn.image))
    return before, after


def halo_of_host(drawn: EditedDraw, model: SBLDMModel) -> float | None:
    """The largest :func:`nnunet_sbldm.quality.appearance.halo` of the host's lesions over channels; None where none has one."""
    host = drawn.task.prepared
    found = halo(host.image, host.lesions, host.label != OUTSIDE, model.plan.grid.spacing_mm)
    return float(np.nanmax(found)) if np.isfinite(found).any() else None


def lesion_structure(image: FloatArray, mask: np.ndarray) -> dict[str, float | None]:
    """Coherence along slices and components of a lesion [D, H, W] in an image [C, D, H, W]; None where there is none."""
    if not mask.any():
        return dict.fromkeys(("lesion_ssim", "lesion_gradient", "lesion_components"))
    similarity, gradient, *_ = (float(v) if np.isfinite(v) else None for v in coherence(image, mask.astype(np.int16), mask))
    return {"lesion_ssim": similarity, "lesion_gradient": gradient,
            "lesion_components": float(ndimage.label(mask, CONNECTED)[1])}


def threshold_dice(image: np.ndarray, drawn: EditedDraw, model: SBLDMModel) -> float | None:
    """Dice of a new lesion's mask and the voxels near it that are nearer in brightness to it than to its surroundings.

    Brightness is that of the channel of largest contrast; None without a lesion.
    """
    spacing_mm = model.plan.grid.spacing_mm
    mask, shell = mask_and_shell(drawn.focus > 0, drawn.label != OUTSIDE, spacing_mm)
    if not mask.any() or not shell.any():
        return None
    inner, outer = np.median(image[:, mask], axis=1), np.median(image[:, shell], axis=1)
    c = int(np.abs(inner - outer).argmax())
    near = (mask | shell) & ((image[c] - (inner[c] + outer[c]) / 2) * np.sign(inner[c] - outer[c]) > 0)
    near = ndimage.binary_fill_holes(near)
    return float(2 * (near & mask).sum() / (near.sum() + mask.sum()))


def unchanged_outside(drawn: EditedDraw, model: SBLDMModel) -> bool:
    """Whether the raw voxels and labels of the written case are the host's wherever the region has no weight."""
    host = drawn.task.prepared.host
    case = drawn.case(model)
    same = (case.image == host.case.image).all(axis=0) & (case.label == host.case.label)
    may_change = np.zeros(same.transpose(host.axes).shape, bool)
    may_change[host.box] = drawn.native_weight > 0
    return bool((same.transpose(host.axes) | may_change).all())


def _within(cases: EditedCases, scores: Mapping[str, float], ending: str, percentiles: tuple[float, float]) -> bool | None:
    """Whether all scores with that ending lie within those percentiles of the real cases; None if there are none."""
    names = [n for n in scores if n.endswith(ending) and n in cases.real.values]
    limits = {n: np.percentile(cases.real.values[n], percentiles) for n in names}
    return all(limits[n][0] <= scores[n] <= limits[n][1] for n in names) if names else None
