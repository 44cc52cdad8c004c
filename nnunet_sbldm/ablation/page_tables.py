"""Tables of a study's page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nnunet_sbldm.ablation.cases import CaseGroup
from nnunet_sbldm.ablation.results import Results
from nnunet_sbldm.ablation.shares import percent
from nnunet_sbldm.ablation.tables import (
    NOT_MEASURED,
    THIRDS,
    Row,
    Table,
    baseline_cells,
    baseline_name,
    p_text,
    points_text,
    range_text,
    score_text,
)


def page_tables(results: Results, confidence: str) -> dict[str, Any]:
    """Tables by name; ``comparisons`` are one per number of real cases.

    Args:
        results: the study's results.
        confidence: level of the intervals, as it is shown.
    """
    rows = results.comparisons
    head = ["arm", "runs", "synthetic draws, asked", "drawn", f"Dice [{confidence} CI]", "difference in points [CI]",
            f"{results.units} better / worse", "p", "p (Holm)", "verdict"]
    return {
        "comparisons": {n: Table(head, [_comparison(row) for row in rows if row["num_cases"] == n])
                        for n in sorted(results.reported.num_cases)},
        "baseline": Table(["arm", "real cases", "difference in points [CI]", "p (Holm)", "verdict"], [
            [row["arm"], str(row["num_cases"]), *baseline_cells(row["baseline"])] for row in rows if row["baseline"]]),
        "baseline_name": baseline_name(rows),
        "baseline_title": next((a.definition.title for a in results.study.arms if a.name == baseline_name(rows)), ""),
        "sizes": Table(["arm", "real cases", *THIRDS], [
            [row["arm"], str(row["num_cases"]), *map(points_text, row["thirds"])] for row in rows if row["thirds"]]),
        "third_sizes": "; ".join(
            "{:.2f} to {:.2f} ml".format(*sizes) if sizes else NOT_MEASURED for sizes in results.third_sizes_ml),
        "metrics": _metrics(results),
        "cases": Table(
            ["cases", "number", "foreground in ml, median (range)", *(f"brightness AUC, {name}" for name in results.channels)],
            [_group(group, len(results.channels)) for group in results.groups]),
        "time": _time(results),
        "unfinished": Table(["job", "state", "reason"], [list(job.values()) for job in results.unfinished]),
    }


def _comparison(row: Row) -> list[str]:
    cases = f"{row['num_better']} / {row['num_worse']} of {row['num_pairs']}" if row["difference"] else NOT_MEASURED
    shares = [percent(row["draws"][k]) for k in ("asked", "drawn")] if row["draws"] else [NOT_MEASURED] * 2
    return [row["arm"], str(row["num_runs"]), *shares, score_text(row["mean"]), points_text(row["difference"]), cases,
            p_text(row["p"]), p_text(row["p_holm"]), row["verdict"] or NOT_MEASURED]


def _metrics(results: Results) -> Table:
    names = list(results.metrics[0]["scores"])
    head = ["arm", "real cases", "training loss", *names, "missed voxels", "false voxels"]
    return Table(head, [_metric_row(row) for row in results.metrics])


def _metric_row(row: Mapping[str, Any]) -> list[str]:
    loss = NOT_MEASURED if row["training_loss"] is None else f"{row['training_loss']:.2f}"
    voxels = [f"{row[k]:.0f}" for k in ("missed_voxels", "false_voxels")]
    most = max((s["num_values"] for s in row["scores"].values() if s), default=0)
    scores = [score_text(s) + (f" of {s['num_values']}" if s and s["num_values"] < most else "") for s in row["scores"].values()]
    return [row["arm"], str(row["num_cases"]), loss, *scores, *voxels]


def _group(group: CaseGroup, num_channels: int) -> list[str]:
    aucs = (range_text(group.aucs(c), ".2f") for c in range(num_channels))
    return [group.name, str(len(group.records)), range_text(group.volumes_ml(), ".2f"), *aucs]


def _time(results: Results) -> Table:
    columns = {"training_seconds": "training", "prediction_seconds": "prediction",
               "generator_seconds": "generator and synthetic cases"}
    on_gpu = results.study.run.device == "cuda"
    return Table(["arm", *columns.values(), "GPU hours"], [
        [row["arm"], *(f"{row[k] / 60:.1f}" for k in columns), f"{row['gpu_hours']:.2f}" if on_gpu else NOT_MEASURED]
        for row in results.time])
