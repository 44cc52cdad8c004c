"""Evaluate edits: is what was asked there, does the image show it, can one see the border, and is the rest of the host untouched?

Every number stands beside what real, unedited cases do.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from nnunet_sbldm.common.files import write_atomically, write_json
from nnunet_sbldm.common.pages import embedded, render
from nnunet_sbldm.common.pictures import Panel
from nnunet_sbldm.common.progress import progress
from nnunet_sbldm.data.conditions import AXES
from nnunet_sbldm.data.dataset import NnunetDataset
from nnunet_sbldm.editing.choices import EditSettings
from nnunet_sbldm.editing.edit import EditedDraw
from nnunet_sbldm.editing.maker import EditedCases, edited_cases
from nnunet_sbldm.editing.samples import draw_edits, edit_panels
from nnunet_sbldm.generator.checkpoint import Generator
from nnunet_sbldm.generator.outlines import CONNECTED
from nnunet_sbldm.generator.requests import Request
from nnunet_sbldm.ldm.config import SamplerConfig
from nnunet_sbldm.quality.appearance import halo, mask_and_shell
from nnunet_sbldm.quality.seams import seam_scores
from nnunet_sbldm.quality.similarity import coherence
from nnunet_sbldm.types import OUTSIDE, FloatArray

MAX_PICTURED = 8
CENTRAL_PERCENTILES = (2.5, 97.5)
NUMBERS = {
    "acceptance_rate": "share of first draws that pass the quality gate",
    "seconds_per_draw": "seconds per edit: sampling, decoding, blending, judging",
    "seconds_per_accepted": "seconds per accepted edit",
    "volume_error": "asked and obtained volume: median of the relative difference",
    "centroid_error": "asked and obtained centre: median of the largest difference along an axis, in fractions of the anatomy",
    "threshold_dice": "mask against the voxels nearer in brightness to the lesion than to its surroundings: median Dice",
    "seam_in_range": "share whose seam scores all lie within the central 95 % of real borders",
    "host_seam_in_range": "the same of the unedited hosts at the same places",
    "seam_excess": "seam score of the edit minus that of the unedited host at the same place: median of the largest channel's",
    "lesion_halo": "share of the lesion's contrast that is left just outside its mask: median of the largest channel's",
    "host_lesion_halo": "the same of the lesions of the unedited hosts",
    "lesion_ssim": "similarity of neighbouring slices (SSIM) inside the lesion: median",
    "host_lesion_ssim": "the same of the lesions of the unedited hosts",
    "lesion_gradient": "differences between neighbouring slices inside the lesion, over those within slices: median",
    "host_lesion_gradient": "the same of the lesions of the unedited hosts",
    "lesion_components": "connected components of the lesion: mean",
    "host_lesion_components": "the same of the lesions of the unedited hosts",
    "texture_in_range": "share whose lesion texture lies within the range of real lesions",
    "unchanged_outside": "share whose raw voxels outside the region are the host's, bit for bit",
}


def evaluate_edits(
    generator: Generator,
    dataset: NnunetDataset,
    editing: EditSettings,
    num_cases: int,
    sampler: SamplerConfig,
    output: Path,
    seed: int = 0,
    diversity: float = 1.0,
) -> dict[str, Any]:
    """Edit hosts, measure every first draw, and write ``edit_evaluation.json``, ``.html`` and a picture.

    Args:
        generator: trained generator, on the device to use.
        dataset: where the hosts are.
        editing: kinds and hosts.
        num_cases: number of edits; their seeds are ``seed``, ``seed + 1``, ...
        sampler: steps, guidance and batch size.
        output: folder to write.
        seed: first seed.
        diversity: width of the condition model's kernels.

    Returns:
        The content of the JSON file.
    """
    cases = edited_cases(generator, dataset, editing)
    requests = [Request(f"sbldm_{seed + i:05d}", seed + i, {}, diversity) for i in range(num_cases)]
    rows: list[dict[str, Any]] = []
    pictured: list[tuple[str, Sequence[Panel]]] = []
    for request in progress(requests, "editing"):
        row, drawn = measure_edit(cases, request, sampler)
        rows.append(row)
        if len(pictured) < MAX_PICTURED:
            pictured.append(("" if row["accepted"] else f"rejected: {row['reasons'][0]}", edit_panels(drawn, generator)))
    real = {n: [min(v), float(np.median(v)), max(v)] for n, v in sorted(cases.real.values.items())}
    result = {
        "generator": {"folder": str(generator.folder), "hash": generator.hash},
        "dataset": dataset.name,
        "editing": {**editing.signature(), "num_hosts": len(cases.settings.hosts)},
        "all": summarise_edits(rows),
        "accepted": {**summarise_edits([r for r in rows if r["accepted"]]), "seconds_per_accepted": None},  # rejected cost, too
        "reasons": dict(Counter(rule for r in rows for rule in r["rules"]).most_common()),
        "real_tissue": real,
        "edits": rows,
    }
    write_json(output / "edit_evaluation.json", result)
    draw_edits(output / "edits.png", pictured, generator)
    write_edit_report(result, output / "edits.png", output / "edit_evaluation.html")
    return result


def measure_edit(cases: EditedCases, request: Request, sampler: SamplerConfig) -> tuple[dict[str, Any], EditedDraw]:
    """One edit and all that is measured of it, as JSON."""
    start = time.monotonic()
    (drawn,) = cases.draw([request], sampler)
    record = replace(drawn.record(cases.generator, sampler), nearest_real_case=cases.nearest(drawn))
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
        **condition_errors(asked, obtained, cases.generator.plan.targets[0].name),
        "threshold_dice": threshold_dice(cases.generator.plan.intensity.normalised(drawn.image), drawn, cases.generator),
        "seam_in_range": _within(cases, after, "/seam", CENTRAL_PERCENTILES),
        "host_seam_in_range": _within(cases, before, "/seam", CENTRAL_PERCENTILES),
        "seam_excess": max((after[n] - before[n] for n in before.keys() & after.keys()), default=None),
        "lesion_halo": max((v for n, v in verdict.scores.items() if n.endswith("/lesion_halo")), default=None),
        "host_lesion_halo": halo_of_host(drawn, cases.generator),
        **lesion_structure(drawn.image, drawn.focus > 0),
        **{f"host_{k}": v for k, v in lesion_structure(drawn.task.prepared.image, drawn.task.prepared.lesions).items()},
        "texture_in_range": _within(cases, verdict.scores, "/lesion_fine", (0, 100)),
        "unchanged_outside": unchanged_outside(drawn, cases.generator),
        "scores": verdict.scores,
    }, drawn


def condition_errors(asked: Mapping[str, float], obtained: Mapping[str, float], target: str) -> dict[str, float | None]:
    """Relative error of the volume and largest error of the centre; None where a lesion was removed, infinite if missing."""
    volume = asked.get(f"{target}/volume_ml")
    if volume is None:
        return {"volume_error": None, "centroid_error": None}
    if f"{target}/volume_ml" not in obtained:
        return {"volume_error": 1.0, "centroid_error": 1.0}
    centres = [f"{target}/centroid_{a}" for a in AXES]
    return {
        "volume_error": abs(obtained[f"{target}/volume_ml"] - volume) / volume,
        "centroid_error": max(abs(obtained[n] - asked[n]) for n in centres),
    }


def seams_of(cases: EditedCases, drawn: EditedDraw) -> tuple[dict[str, float], dict[str, float]]:
    """Seam scores of the unedited host and of the edit, in tissue that is free of lesions in both."""
    host = drawn.task.prepared
    tissue = (drawn.label == 0) & ~host.lesions
    scaled = cases.generator.plan.intensity.normalised
    before, after = (seam_scores(scaled(i), drawn.task.region.weight, tissue) for i in (host.image, drawn.image))
    return before, after


def halo_of_host(drawn: EditedDraw, generator: Generator) -> float | None:
    """The largest :func:`nnunet_sbldm.quality.appearance.halo` of the host's lesions over channels; None where none has one."""
    host = drawn.task.prepared
    found = halo(host.image, host.lesions, host.label != OUTSIDE, generator.plan.grid.spacing_mm)
    return float(np.nanmax(found)) if np.isfinite(found).any() else None


def lesion_structure(image: FloatArray, mask: np.ndarray) -> dict[str, float | None]:
    """Coherence along slices and components of a lesion [D, H, W] in an image [C, D, H, W]; None where there is none."""
    if not mask.any():
        return dict.fromkeys(("lesion_ssim", "lesion_gradient", "lesion_components"))
    similarity, gradient, *_ = (float(v) if np.isfinite(v) else None for v in coherence(image, mask.astype(np.int16), mask))
    return {"lesion_ssim": similarity, "lesion_gradient": gradient,
            "lesion_components": float(ndimage.label(mask, CONNECTED)[1])}


def threshold_dice(image: np.ndarray, drawn: EditedDraw, generator: Generator) -> float | None:
    """Dice of a new lesion's mask and the voxels near it that are nearer in brightness to it than to its surroundings.

    Brightness is that of the channel of largest contrast; None without a lesion.
    """
    spacing_mm = generator.plan.grid.spacing_mm
    mask, shell = mask_and_shell(drawn.focus > 0, drawn.label != OUTSIDE, spacing_mm)
    if not mask.any() or not shell.any():
        return None
    inner, outer = np.median(image[:, mask], axis=1), np.median(image[:, shell], axis=1)
    c = int(np.abs(inner - outer).argmax())
    near = (mask | shell) & ((image[c] - (inner[c] + outer[c]) / 2) * np.sign(inner[c] - outer[c]) > 0)
    near = ndimage.binary_fill_holes(near)
    return float(2 * (near & mask).sum() / (near.sum() + mask.sum()))


def unchanged_outside(drawn: EditedDraw, generator: Generator) -> bool:
    """Whether the raw voxels and labels of the written case are the host's wherever the region has no weight."""
    host = drawn.task.prepared.host
    case = drawn.case(generator)
    same = (case.image == host.case.image).all(axis=0) & (case.label == host.case.label)
    may_change = np.zeros(same.transpose(host.axes).shape, bool)
    may_change[host.box] = drawn.native_weight > 0
    return bool((same.transpose(host.axes) | may_change).all())


def _within(cases: EditedCases, scores: Mapping[str, float], ending: str, percentiles: tuple[float, float]) -> bool | None:
    """Whether all scores with that ending lie within those percentiles of the real cases; None if there are none."""
    names = [n for n in scores if n.endswith(ending) and n in cases.real.values]
    limits = {n: np.percentile(cases.real.values[n], percentiles) for n in names}
    return all(limits[n][0] <= scores[n] <= limits[n][1] for n in names) if names else None


def summarise_edits(rows: Sequence[Mapping[str, Any]]) -> dict[str, float | int | None]:
    """Medians and shares over edits; None where nothing was measured."""
    accepted = sum(r["accepted"] for r in rows)
    seconds = sum(r["seconds"] for r in rows)
    found: dict[str, float | int | None] = {
        "num": len(rows),
        "acceptance_rate": accepted / len(rows) if rows else None,
        "seconds_per_draw": seconds / len(rows) if rows else None,
        "seconds_per_accepted": seconds / accepted if accepted else None,
    }
    for name in list(NUMBERS)[3:]:
        values = [float(r[name]) for r in rows if r[name] is not None]
        middle = np.mean if name.endswith(("range", "outside", "components")) else np.median
        found[name] = float(middle(values)) if values else None
    return found


def write_edit_report(result: Mapping[str, Any], picture: Path, path: Path) -> None:
    """Write the self-contained HTML of an ``edit_evaluation.json``."""

    def shown(value: float | None) -> str:
        return "\N{EN DASH}" if value is None or not math.isfinite(value) else f"{value:.3g}"

    rows = [(text, shown(result["all"][n]), shown(result["accepted"][n])) for n, text in NUMBERS.items()]
    html = render("edit_evaluation.html.j2", {"result": result, "rows": rows, "picture": embedded(picture)})
    write_atomically(path, lambda tmp: tmp.write_text(html, encoding="utf-8"))
