"""The report of a study: CSV, JSON, a Markdown table, a methods paragraph, and one HTML file with everything inside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from nnunet_sbldm.ablation.jobs import StudyJob
from nnunet_sbldm.ablation.methods import methods_paragraph
from nnunet_sbldm.ablation.page_tables import page_tables
from nnunet_sbldm.ablation.pictures import best_median_worst, case_plot, difference_plot, learning_curves
from nnunet_sbldm.ablation.results import Results, collect_results
from nnunet_sbldm.ablation.scores import RUN
from nnunet_sbldm.ablation.settings import StudyEvaluation
from nnunet_sbldm.ablation.setup import STUDY_FILE
from nnunet_sbldm.ablation.statistics import VERDICTS
from nnunet_sbldm.ablation.study import Study
from nnunet_sbldm.ablation.tables import comparison_table, numbers_table
from nnunet_sbldm.common.files import read_json, write_atomically, write_json
from nnunet_sbldm.common.pages import embedded, render
from nnunet_sbldm.types import UserError

CASE_COLUMNS = {"draw": "fold", "Dice": "dice", "NSD": "nsd", "HD95": "hd95"}
"""Columns that ``cases.csv`` calls otherwise."""


def write_study_report(study: Study, jobs: Sequence[StudyJob], folder: Path) -> Path:
    """Write ``report/`` into a study's folder from the runs that are finished.

    Returns:
        ``report/report.html``; beside it ``cases.csv``, ``results.json``, ``table.csv``, ``table.md``, ``methods.txt``, pictures.

    Raises:
        UserError: no run of the reference is finished, a generator has seen a test case, or other surface distances are asked
            for than were measured.
    """
    stored = read_json(folder / STUDY_FILE)
    _refuse_other_distances(study.evaluation, stored["study"]["evaluation"])
    results, output = collect_results(study, jobs, folder), folder / "report"
    methods = methods_paragraph(results.reported, stored["versions"], len(results.cases), results.units)
    page = _page(results, methods, output)
    _write_csv(output / "cases.csv", results.scores.rename(columns=CASE_COLUMNS), missing="nan")
    _write_csv(output / "table.csv", numbers_table(results.comparisons), missing="")
    _write_text(output / "table.md", comparison_table(results.comparisons, study.evaluation.confidence).markdown())
    _write_text(output / "methods.txt", methods + "\n")
    write_json(output / "results.json", _results_json(results, stored, methods))
    _write_text(output / "report.html", page)
    return output / "report.html"


def _refuse_other_distances(wanted: StudyEvaluation, measured: dict[str, Any]) -> None:
    """Raise a :class:`UserError` where a study that was changed since it ran asks for surface distances that nobody measured."""
    if wanted.surface_distances and any(measured[k] != getattr(wanted, k) for k in ("surface_distances", "tolerance_mm")):
        raise UserError(f"Surface distances at {wanted.tolerance_mm:g} mm are not measured: sbldm_ablation run measures them.")


def _results_json(results: Results, stored: Mapping[str, Any], methods: str) -> dict[str, Any]:
    return {
        **stored, "study": results.study.to_json(), "test_cases": results.cases, "generators_checked": results.num_generators,
        "comparisons": results.comparisons, "draws": results.shares.rename(columns=CASE_COLUMNS).to_dict("records"),
        "warnings": results.warnings, "metrics": results.metrics, "cases": [g.to_json() for g in results.groups],
        "time": results.time, "unfinished": results.unfinished, "methods": methods}


def _write_csv(path: Path, table: pd.DataFrame, missing: str) -> None:
    write_atomically(path, lambda tmp: table.to_csv(tmp, index=False, na_rep=missing, lineterminator="\r\n"))


def _write_text(path: Path, text: str) -> None:
    write_atomically(path, lambda tmp: tmp.write_text(text, encoding="utf-8"))


# --- the page ------------------------------------------------------------------------------------------------------


def _page(results: Results, methods: str, output: Path) -> str:
    confidence = f"{100 * results.study.evaluation.confidence:g} %"
    rows = results.comparisons
    return render("study.html.j2", {
        "results": results, "study": results.study, "confidence": confidence, "methods": methods,
        "verdicts": {v: [f"{row['arm']} at {row['num_cases']}" for row in rows if row["verdict"] == v] for v in VERDICTS},
        "tables": page_tables(results, confidence), "plots": _plots(results, output), "pictures": _pictures(results, output),
    })


def _plots(results: Results, output: Path) -> dict[str, str]:
    """Name -> plot, embedded; empty where there is nothing to draw."""
    files = {name: output / f"{name}.png" for name in ("learning_curves", "differences", "cases")}
    learning_curves(results.comparisons, files["learning_curves"])
    case_plot(results.groups, results.channels, files["cases"])
    drawn = difference_plot(results.comparisons, files["differences"])
    return {name: embedded(file) if drawn or name != "differences" else "" for name, file in files.items()}


def _pictures(results: Results, output: Path) -> dict[str, str]:
    """Arm -> picture of its run of the first draw and seed at the smallest number of real cases."""
    if results.lost_files:
        return {}
    pictures, scores = {}, results.scores.dropna(subset="Dice").set_index(RUN).sort_index()
    for arm in results.reported.arms:
        run = min((run for run in results.runs if run.arm == arm), key=lambda run: run.subset.num_cases)
        subset, file = run.subset, output / "pictures" / f"{arm.name}.png"
        own = scores.loc[[(arm.name, subset.num_cases, subset.draw, subset.seed)]]
        if best_median_worst(run, own.groupby("case_id")["Dice"].mean().to_dict(), results.folder, file):
            pictures[arm.name] = embedded(file)
    return pictures
