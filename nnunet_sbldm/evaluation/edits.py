"""Evaluate edits: is what was asked there, does the image show it, can one see the border, and is the rest of the host untouched?

Every number stands beside what real, unedited cases do.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_sbldm.common.files import write_atomically, write_json
from nnunet_sbldm.common.pages import embedded, render
from nnunet_sbldm.common.pictures import Panel
from nnunet_sbldm.common.progress import progress
from nnunet_sbldm.data.dataset import NnunetDataset
from nnunet_sbldm.editing.choices import EditSettings
from nnunet_sbldm.editing.maker import EditedCases, edited_cases
from nnunet_sbldm.editing.samples import draw_edits, edit_panels
from nnunet_sbldm.evaluation.cases import numbered_requests
from nnunet_sbldm.evaluation.edit_measures import measure_edit
from nnunet_sbldm.evaluation.settings import EvaluationSettings
from nnunet_sbldm.generator.checkpoint import SBLDMModel

MAX_PICTURED = 8
OF_A_RUN = {
    "acceptance_rate": "share of first draws that pass the quality gate",
    "seconds_per_draw": "seconds per edit: sampling, decoding, blending, judging",
    "seconds_per_accepted": "seconds per accepted edit",
}
"""Numbers of all edits together, and what they are called in the report."""


@dataclass(frozen=True)
class EditNumber:
    """How the numbers of several edits become one.

    Attributes:
        summary: mean (of shares and counts) or median.
        text: what it is called in the report.
    """

    summary: Callable[[Sequence[float]], Any]
    text: str


OF_AN_EDIT = {
    "volume_error": EditNumber(np.median, "asked and obtained volume: median of the relative difference"),
    "centroid_error": EditNumber(
        np.median, "asked and obtained centre: median of the largest difference along an axis, in fractions of the anatomy"
    ),
    "threshold_dice": EditNumber(
        np.median, "mask against the voxels nearer in brightness to the lesion than to its surroundings: median Dice"
    ),
    "seam_in_range": EditNumber(np.mean, "share whose seam scores all lie within the central 95 % of real borders"),
    "host_seam_in_range": EditNumber(np.mean, "the same of the unedited hosts at the same places"),
    "seam_excess": EditNumber(
        np.median, "seam score of the edit minus that of the unedited host at the same place: median of the largest channel's"
    ),
    "lesion_halo": EditNumber(
        np.median, "share of the lesion's contrast that is left just outside its mask: median of the largest channel's"
    ),
    "host_lesion_halo": EditNumber(np.median, "the same of the lesions of the unedited hosts"),
    "lesion_ssim": EditNumber(np.median, "similarity of neighbouring slices (SSIM) inside the lesion: median"),
    "host_lesion_ssim": EditNumber(np.median, "the same of the lesions of the unedited hosts"),
    "lesion_gradient": EditNumber(
        np.median, "differences between neighbouring slices inside the lesion, over those within slices: median"
    ),
    "host_lesion_gradient": EditNumber(np.median, "the same of the lesions of the unedited hosts"),
    "lesion_components": EditNumber(np.mean, "connected components of the lesion: mean"),
    "host_lesion_components": EditNumber(np.mean, "the same of the lesions of the unedited hosts"),
    "texture_in_range": EditNumber(np.mean, "share whose lesion texture lies within the range of real lesions"),
    "unchanged_outside": EditNumber(np.mean, "share whose raw voxels outside the region are the host's, bit for bit"),
}
"""Numbers of every edit, by their name in :func:`nnunet_sbldm.evaluation.edit_measures.measure_edit`."""
NUMBERS = {**OF_A_RUN, **{name: number.text for name, number in OF_AN_EDIT.items()}}
"""All numbers of the report, and what they are called there."""


def evaluate_edits(
    model: SBLDMModel, dataset: NnunetDataset, editing: EditSettings, settings: EvaluationSettings, output: Path
) -> dict[str, Any]:
    """Edit hosts, measure every first draw, and write ``edit_evaluation.json``, ``.html`` and a picture.

    Args:
        model: trained model, on the device to use.
        dataset: where the hosts are.
        editing: kinds and hosts.
        settings: number of edits, sampler, seed and diversity; the rest is for whole cases.
        output: folder to write.

    Returns:
        The content of the JSON file.
    """
    cases = edited_cases(model, dataset, editing)
    rows: list[dict[str, Any]] = []
    pictured: list[tuple[str, Sequence[Panel]]] = []
    for request in progress(numbered_requests(settings.num_cases, settings.seed, settings.diversity), "editing"):
        row, drawn = measure_edit(cases, request, settings.sampler)
        rows.append(row)
        if len(pictured) < MAX_PICTURED:
            pictured.append(("" if row["accepted"] else f"rejected: {row['reasons'][0]}", edit_panels(drawn, model)))
    result = _result(cases, dataset, editing, rows)
    write_json(output / "edit_evaluation.json", result)
    draw_edits(output / "edits.png", pictured, model)
    write_edit_report(result, output / "edits.png", output / "edit_evaluation.html")
    return result


def _result(
    cases: EditedCases, dataset: NnunetDataset, editing: EditSettings, rows: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """The content of the JSON file."""
    model = cases.model
    return {
        "generator": {"folder": str(model.folder), "hash": model.hash},
        "dataset": dataset.name,
        "editing": {**editing.signature(), "num_hosts": len(cases.settings.hosts)},
        "all": summarise_edits(rows),
        "accepted": {**summarise_edits([r for r in rows if r["accepted"]]), "seconds_per_accepted": None},  # rejected cost, too
        "reasons": dict(Counter(rule for r in rows for rule in r["rules"]).most_common()),
        "real_tissue": {n: [min(v), float(np.median(v)), max(v)] for n, v in sorted(cases.real.values.items())},
        "edits": list(rows),
    }


def summarise_edits(rows: Sequence[Mapping[str, Any]]) -> dict[str, float | int | None]:
    """The numbers of several edits; None where nothing was measured."""
    accepted, seconds = sum(r["accepted"] for r in rows), sum(r["seconds"] for r in rows)
    found: dict[str, float | int | None] = {
        "num": len(rows),
        "acceptance_rate": accepted / len(rows) if rows else None,
        "seconds_per_draw": seconds / len(rows) if rows else None,
        "seconds_per_accepted": seconds / accepted if accepted else None,
    }
    for name, number in OF_AN_EDIT.items():
        values = [float(r[name]) for r in rows if r[name] is not None]
        found[name] = float(number.summary(values)) if values else None
    return found


def write_edit_report(result: Mapping[str, Any], picture: Path, path: Path) -> None:
    """Write the self-contained HTML of an ``edit_evaluation.json``."""

    def shown(value: float | None) -> str:
        return "\N{EN DASH}" if value is None or not math.isfinite(value) else f"{value:.3g}"

    rows = [(text, shown(result["all"][n]), shown(result["accepted"][n])) for n, text in NUMBERS.items()]
    html = render("edit_evaluation.html.j2", {"result": result, "rows": rows, "picture": embedded(picture)})
    write_atomically(path, lambda tmp: tmp.write_text(html, encoding="utf-8"))
