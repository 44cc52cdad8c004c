"""Pictures and HTML of an evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nnunet_sbldm.common.files import write_atomically
from nnunet_sbldm.common.pages import embedded, render
from nnunet_sbldm.common.pictures import Panel, montage
from nnunet_sbldm.common.plots import scatter
from nnunet_sbldm.data.grid import left_right_axis
from nnunet_sbldm.evaluation.sections import SECTIONS
from nnunet_sbldm.types import OUTSIDE

if TYPE_CHECKING:
    from nnunet_sbldm.evaluation.measures import CaseSet

CASES_PER_GROUP = 2
NOT_MEASURED = "\N{EN DASH}"
PLOTTED = ("volume_ml", "centroid_d", "centroid_h", "centroid_w")


def draw_pictures(synthetic: CaseSet, training: CaseSet, result: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Write the PNGs of an evaluation.

    Args:
        synthetic: synthetic cases.
        training: training cases.
        result: content of ``evaluation.json``.
        folder: where to write.

    Returns:
        ``montages``: title and path; ``scatters``: target and path.
    """
    rows = result["synthetic_cases"]
    by_typicality = sorted(range(len(rows)), key=lambda i: rows[i]["feature_distance"])
    middle = max(len(rows) // 2 - CASES_PER_GROUP // 2, 0)
    groups = {
        "Most like a real case": by_typicality[:CASES_PER_GROUP],
        "Median": by_typicality[middle : middle + CASES_PER_GROUP],
        "Least like a real case": by_typicality[::-1][:CASES_PER_GROUP],
    }
    nearest = sorted(range(len(rows)), key=lambda i: rows[i]["nearest"]["pair"]["distance"])[: 2 * CASES_PER_GROUP]
    montages = {"typical": folder / "best_median_worst.png", "nearest": folder / "nearest_to_training.png"}
    names = {v: t.name for t in training.plan.targets if len(t.label_values) == 1 for v in t.label_values}
    panels = [
        ("" if k else title, _beside_nearest(synthetic, training, rows[i], i))
        for title, group in groups.items()
        for k, i in enumerate(group)
    ]
    montage(montages["typical"], panels, names)
    montage(montages["nearest"], [("", _beside_nearest(synthetic, training, rows[i], i)) for i in nearest], names)
    scatters = {t.name: folder / f"condition_{i}.png" for i, t in enumerate(training.plan.targets)}
    for target, path in scatters.items():
        _draw_scatter(path, target, rows)
    return {"montages": montages, "scatters": scatters}


def _beside_nearest(synthetic: CaseSet, training: CaseSet, row: dict[str, Any], index: int) -> list[Panel]:
    """A synthetic case and its nearest training case as a pair; mirrored, if that is how it is near."""
    near = row["nearest"]["pair"]
    flags = f", flagged: {', '.join(row['flagged'])}" if row["flagged"] else ""
    mirrored = ", mirrored" if near["mirrored"] else ""
    title = f"{row['case_id']}{flags}"
    beside = f"nearest training case: {near['training_case']}{mirrored}, distance {near['distance']:.2f}"
    return [_panel(synthetic, index, title), _panel(training, near["index"], beside, near["mirrored"])]


def _panel(cases: CaseSet, index: int, title: str, mirrored: bool = False) -> Panel:
    """First channel of a case in nnU-Net's normalised intensities."""
    image = cases.plan.intensity.normalised(cases.image(index))[0]
    label = np.where(cases.classes(index) == 0, OUTSIDE, cases.label(index)).astype(np.int16)
    if mirrored:
        axis = left_right_axis(cases.plan.template, cases.plan.grid.transpose_forward)
        image, label = np.flip(image, axis), np.flip(label, axis)
    return Panel(image, label, cases.plan.grid.spacing_mm, title, axes=cases.plan.array_axes)


def _draw_scatter(path: Path, target: str, rows: Sequence[dict[str, Any]]) -> None:
    plots = []
    for feature in PLOTTED:
        name = f"{target}/{feature}"
        pairs = [(r["asked"][name], r["obtained"][name]) for r in rows if name in r["asked"] and name in r["obtained"]]
        plots.append((feature, [a for a, _ in pairs], [b for _, b in pairs]))
    scatter(path, plots)


# --- HTML ----------------------------------------------------------------------------------------------------------


def write_evaluation_report(result: dict[str, Any], pictures: dict[str, Any], path: Path) -> None:
    """Write the self-contained HTML.

    Args:
        result: content of ``evaluation.json``.
        pictures: what :func:`draw_pictures` returned.
        path: file to write.
    """
    sections = [{**SECTIONS[name], "rows": [_row(r) for r in results]} for name, results in result["sections"].items()]
    asked = [r["reached"] for results in result["sections"].values() for r in results if r["reached"] is not None]
    values = {
        "result": result,
        "sections": sections,
        "reached": sum(asked),
        "num_targets": len(asked),
        "montages": {k: embedded(p) for k, p in pictures["montages"].items()},
        "scatters": {k: embedded(p) for k, p in pictures["scatters"].items()},
        "flagged": [_flagged_row(c) for c in result["synthetic_cases"] if c["flagged"]],
    }
    html = render("evaluation_report.html.j2", values)
    write_atomically(path, lambda tmp: tmp.write_text(html, encoding="utf-8"))


def _row(result: dict[str, Any]) -> dict[str, Any]:
    details = {k: v for k, v in result["details"].items() if v is not None}
    return {
        "name": result["name"],
        "value": _number(result["value"]),
        "floor": _number(result["floor"]),
        "target": result["target"] or NOT_MEASURED,
        "reached": {None: "", True: "yes", False: "no"}[result["reached"]],
        "num_cases": result["num_cases"],
        "details": "; ".join(f"{k.replace('_', ' ')} {_number(v)}" for k, v in details.items()),
    }


def _flagged_row(case: dict[str, Any]) -> list[str]:
    kinds = {k: case["nearest"][k] for k in case["flagged"]}
    near = [f"{k}: {v['training_case']}{' (mirrored)' if v['mirrored'] else ''} at {v['distance']:.3f}" for k, v in kinds.items()]
    return [case["case_id"], str(case["seed"]), "; ".join(near)]


def _number(value: Any) -> str:
    if value is None:
        return NOT_MEASURED
    if isinstance(value, (list, tuple)):
        return " to ".join(_number(v) for v in value)
    if isinstance(value, int):
        return str(value)
    return f"{value:.3f}" if 0.01 <= abs(value) < 1000 or value == 0 else f"{value:.3g}"
