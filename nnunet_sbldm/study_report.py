"""The report of a study: CSV, JSON, a Markdown table, a methods paragraph, and one HTML file with everything inside."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_sbldm.files import read_json, write_atomically, write_json
from nnunet_sbldm.report import embedded
from nnunet_sbldm.study import REFERENCE, Study
from nnunet_sbldm.study_jobs import ArmRun, StudyJob, runs_of
from nnunet_sbldm.study_methods import methods_paragraph
from nnunet_sbldm.study_pictures import best_median_worst, learning_curves
from nnunet_sbldm.study_results import (
    METRICS,
    CaseScore,
    case_scores,
    check_generators,
    finished_runs,
    score_tables,
    sizes_ml,
    time_per_arm,
    unfinished,
)
from nnunet_sbldm.study_setup import SPLIT_FILE, STUDY_FILE
from nnunet_sbldm.study_statistics import VERDICTS, Comparison, compare, interval_of_mean, terciles
from nnunet_sbldm.study_template import TEMPLATE
from nnunet_sbldm.types import UserError

NOT_MEASURED = "\N{EN DASH}"
FEW_CASES, FEW_RUNS = 10, 3


@dataclass(frozen=True)
class _Results:
    """What the report is made of."""

    study: Study
    folder: Path
    jobs: Sequence[StudyJob]
    runs: Sequence[ArmRun]
    cases: Sequence[str]
    scores: Sequence[CaseScore]
    rows: list[dict[str, Any]]
    num_generators: int

    @property
    def output(self) -> Path:
        return self.folder / "report"

    @property
    def reference(self) -> str:
        return next(a.name for a in self.study.arms if a.kind == REFERENCE)

    @property
    def labels(self) -> list[str]:
        return list(dict.fromkeys(s.label for s in self.scores))


def write_study_report(study: Study, jobs: Sequence[StudyJob], folder: Path) -> Path:
    """Write ``report/`` into a study's folder from the runs that are finished.

    Returns:
        ``report/report.html``; beside it ``cases.csv``, ``results.json``, ``table.csv``, ``table.md``, ``methods.txt``, pictures.

    Raises:
        UserError: no run of the reference is finished, or a generator has seen a test case.
    """
    results = _collect(study, jobs, folder)
    methods = methods_paragraph(study, read_json(folder / STUDY_FILE)["versions"], len(results.cases))
    _write_csv(results.output / "cases.csv", [asdict(s) for s in results.scores], [f.name for f in fields(CaseScore)])
    table = [_flat(row) for row in results.rows]
    _write_csv(results.output / "table.csv", table, list(dict.fromkeys(k for row in table for k in row)))
    _write_text(results.output / "table.md", markdown_table(results.rows, study.evaluation.confidence))
    _write_text(results.output / "methods.txt", methods + "\n")
    write_json(results.output / "results.json", {
        **read_json(folder / STUDY_FILE), "test_cases": list(results.cases), "generators_checked": results.num_generators,
        "comparisons": results.rows, "time": time_per_arm(study, jobs, folder), "unfinished": unfinished(jobs, folder),
        "methods": methods})
    report = results.output / "report.html"
    _write_text(report, _html(results, methods))
    return report


def _collect(study: Study, jobs: Sequence[StudyJob], folder: Path) -> _Results:
    runs = finished_runs(study, jobs, folder)
    if not any(r.arm.kind == REFERENCE for r in runs):
        raise UserError(f"No run of {REFERENCE} is finished, and all other arms are compared with it; see sbldm_ablation status.")
    cases, scores = read_json(folder / SPLIT_FILE)["test"], case_scores(runs, folder)
    reference = next(a.name for a in study.arms if a.kind == REFERENCE)
    what = Comparison(reference, [a.name for a in study.arms], study.num_cases, {a.name: a.num_cases for a in study.arms
                      if a.num_cases}, sizes_ml(cases, folder), study.evaluation.num_resamples, study.evaluation.confidence)
    rows = compare(score_tables(scores, study, cases, "Dice"), what)
    return _Results(study, folder, jobs, runs, cases, scores, rows, check_generators(folder))


# --- files ---------------------------------------------------------------------------------------------------------


def _write_text(path: Path, text: str) -> None:
    write_atomically(path, lambda tmp: tmp.write_text(text, encoding="utf-8"))


def _write_csv(path: Path, rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> None:
    def write(tmp: Path) -> None:
        with open(tmp, "w", newline="", encoding="utf-8") as f:
            writer = csv.DictWriter(f, columns)
            writer.writeheader()
            writer.writerows(rows)

    write_atomically(path, write)


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """A comparison with one column per number."""
    flat: dict[str, Any] = {}
    for key, value in row.items():
        if key == "thirds":
            for name, third in zip(("small", "middle", "large"), value or ({}, {}, {}), strict=True):
                flat |= {f"{name}_{k}": third.get(k) for k in ("mean", "low", "high")}
        elif key in ("mean", "difference"):
            interval = value or {}
            flat |= {key: interval.get("mean"), f"{key}_low": interval.get("low"), f"{key}_high": interval.get("high")}
        else:
            flat[key] = value
    return flat


def markdown_table(rows: Sequence[dict[str, Any]], confidence: float) -> str:
    """Table for a paper or a README: one row per arm and number of cases."""
    percent = f"{100 * confidence:g} %"
    lines = [f"| real cases | arm | runs | Dice [{percent} CI] | difference in points [{percent} CI] | p (Holm) | verdict |",
             "|---|---|---|---|---|---|---|"]
    for row in rows:
        cells = [row["num_cases"], row["arm"], row["num_runs"], _score(row["mean"]), _points(row["difference"]),
                 _p(row["p_holm"]), row["verdict"] or NOT_MEASURED]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


def _score(interval: dict[str, float | None] | None) -> str:
    return _formatted(interval, 1.0, ".3f")


def _points(interval: dict[str, float | None] | None) -> str:
    return _formatted(interval, 100.0, "+.1f")


def _formatted(interval: dict[str, float | None] | None, factor: float, digits: str) -> str:
    if not interval or interval["mean"] is None:
        return NOT_MEASURED
    mean = format(factor * interval["mean"], digits)
    if interval["low"] is None or interval["high"] is None:
        return mean
    return f"{mean} [{format(factor * interval['low'], digits)}, {format(factor * interval['high'], digits)}]"


def _p(value: float | None) -> str:
    if value is None:
        return NOT_MEASURED
    return f"{value:.3f}" if value >= 0.001 else f"{value:.0e}"


# --- HTML ----------------------------------------------------------------------------------------------------------


def _html(results: _Results, methods: str) -> str:
    import jinja2

    study, rows = results.study, results.rows
    curves = results.output / "learning_curves.png"
    learning_curves(rows, curves)
    names, details = _details(results)
    return jinja2.Environment(autoescape=True).from_string(TEMPLATE).render(
        dataset=study.dataset, num_cases=", ".join(map(str, study.num_cases)), num_test=len(results.cases),
        num_generators=results.num_generators, num_runs=len(results.runs), num_planned=len(runs_of(study)),
        unfinished=unfinished(results.jobs, results.folder), warnings=_warnings(results), reference=results.reference,
        confidence=f"{100 * study.evaluation.confidence:g} %",
        verdicts={v: [f"{r['arm']} at {r['num_cases']}" for r in rows if r["verdict"] == v] for v in VERDICTS},
        tables={n: [_table_row(r) for r in rows if r["num_cases"] == n] for n in study.num_cases}, curves=embedded(curves),
        size_rows=[[r["arm"], r["num_cases"], *map(_points, r["thirds"])] for r in rows if r["thirds"]],
        thirds=_third_sizes(results), detail_names=names, detail_rows=details, surface=study.evaluation.surface_distances,
        pictures=_pictures(results), time_rows=_time_rows(results), methods=methods,
    )


def _table_row(row: dict[str, Any]) -> list[str]:
    cases = f"{row['num_better']} / {row['num_worse']} of {row['num_pairs']}" if row["difference"] else NOT_MEASURED
    return [row["arm"], str(row["num_runs"]), _score(row["mean"]), _points(row["difference"]), cases, _p(row["p"]),
            _p(row["p_holm"]), row["verdict"] or NOT_MEASURED]


def _warnings(results: _Results) -> list[str]:
    study, warnings = results.study, []
    if len(results.cases) < FEW_CASES:
        warnings.append(f"Only {len(results.cases)} test cases: intervals are wide, and differences that exist may not show.")
    if len(study.folds) * len(study.seeds) < FEW_RUNS:
        warnings.append("Fewer than three runs per arm: intervals hardly reflect the chance of another draw of training cases or "
                        "another training.")
    return warnings


def _third_sizes(results: _Results) -> str:
    sizes = sizes_ml(results.cases, results.folder)
    return "; ".join(f"{sizes[t].min():.2f} to {sizes[t].max():.2f} ml" if len(t) else NOT_MEASURED for t in terciles(sizes))


def _details(results: _Results) -> tuple[list[str], list[list[str]]]:
    """Means of every metric of every structure."""
    study, several = results.study, len(results.labels) > 1
    wanted = [(m, label) for m in METRICS if m == "Dice" or study.evaluation.surface_distances for label in results.labels]
    tables = [score_tables(results.scores, study, results.cases, m, label) for m, label in wanted]
    keys = list(dict.fromkeys(k for t in tables for k in t))
    settings = (study.evaluation.num_resamples, study.evaluation.confidence)
    rows = [[arm, str(n), *(_score(interval_of_mean(t[arm, n], *settings).to_json()) if (arm, n) in t else NOT_MEASURED
                            for t in tables)] for arm, n in sorted(keys, key=lambda k: k[1])]
    return [f"{m}, {label}" if several else m for m, label in wanted], rows


def _pictures(results: _Results) -> list[tuple[str, str]]:
    """For every arm its run of the first fold and seed at the smallest number of real cases."""
    pictures = []
    for arm in results.study.arms:
        run = next((r for r in results.runs if r.arm == arm), None)
        if run is None:
            continue
        own = [s for s in results.scores if (s.arm, s.num_cases, s.fold, s.seed) == (
            arm.name, run.subset.num_cases, run.subset.fold, run.subset.seed)]
        by_case = {c: [s.dice for s in own if s.case_id == c and np.isfinite(s.dice)] for c in results.cases}
        path = results.output / "pictures" / f"{arm.name}.png"
        if best_median_worst(run, {c: float(np.mean(d)) for c, d in by_case.items() if d}, results.folder, path):
            pictures.append((arm.name, embedded(path)))
    return pictures


def _time_rows(results: _Results) -> list[list[str]]:
    rows = time_per_arm(results.study, results.jobs, results.folder)
    return [[r["arm"], *(f"{r[k] / 60:.1f}" for k in ("training_seconds", "prediction_seconds", "generator_seconds")),
             f"{r['gpu_hours']:.2f}" if results.study.run.device == "cuda" else NOT_MEASURED] for r in rows]
