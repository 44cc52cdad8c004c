"""The report of a study: CSV, JSON, a Markdown table, a methods paragraph, and one HTML file with everything inside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_sbldm.ablation.arms import REFERENCE
from nnunet_sbldm.ablation.cases import CaseGroup, case_groups, recorded_cases
from nnunet_sbldm.ablation.draws import RunDraws, draws_of, percent, shares, warnings_of
from nnunet_sbldm.ablation.jobs import ArmRun, StudyJob, predictions_folder, runs_of
from nnunet_sbldm.ablation.methods import methods_paragraph
from nnunet_sbldm.ablation.pictures import best_median_worst, case_plot, difference_plot, learning_curves
from nnunet_sbldm.ablation.report_template import TEMPLATE
from nnunet_sbldm.ablation.scores import (
    OVERLAP,
    SURFACE,
    CaseScore,
    case_scores,
    check_generators,
    finished_runs,
    missed_and_false,
    score_tables,
    time_per_arm,
    training_losses,
    unfinished,
)
from nnunet_sbldm.ablation.setup import SPLIT_FILE, STUDY_FILE
from nnunet_sbldm.ablation.split import TEST_IMAGES, TEST_LABELS, Split
from nnunet_sbldm.ablation.statistics import VERDICTS, Comparison, Scores, compare, interval_of_mean, terciles
from nnunet_sbldm.ablation.study import EvaluationSettings, Study
from nnunet_sbldm.ablation.tables import (
    NOT_MEASURED,
    baseline_cells,
    baseline_name,
    flat,
    markdown_table,
    p_text,
    points_text,
    range_text,
    score_text,
)
from nnunet_sbldm.common.files import read_json, write_atomically, write_csv, write_json
from nnunet_sbldm.common.pages import embedded
from nnunet_sbldm.data.dataset import channel_names_of
from nnunet_sbldm.types import UserError

FEW_CASES, FEW_FOLDS = 10, 3


@dataclass(frozen=True)
class _Results:
    """What the report is made of."""

    study: Study
    folder: Path
    jobs: Sequence[StudyJob]
    runs: Sequence[ArmRun]
    groups: Sequence[CaseGroup]
    scores: Sequence[CaseScore]
    draws: Sequence[RunDraws]
    rows: list[dict[str, Any]]
    num_generators: int
    patients: dict[str, str]

    @property
    def output(self) -> Path:
        return self.folder / "report"

    @property
    def cases(self) -> list[str]:
        """The test cases."""
        return list(self.groups[0].records)

    @property
    def units(self) -> str:
        """What intervals resample and tests compare."""
        return "patients" if any(c != p for c, p in self.patients.items()) else "cases"

    @cached_property
    def reported(self) -> Study:
        """The study, with those arms, numbers of cases, folds and seeds alone that some finished run has."""
        study, arms = self.study, {r.arm.name for r in self.runs}
        numbers = {r.subset.num_cases for r in self.runs if not r.arm.num_cases}
        folds, seeds = {r.subset.fold for r in self.runs}, {r.subset.seed for r in self.runs}
        return replace(
            study,
            arms=tuple(a for a in study.arms if a.name in arms),
            num_cases=tuple(n for n in study.num_cases if n in numbers),
            folds=tuple(f for f in study.folds if f in folds),
            seeds=tuple(s for s in study.seeds if s in seeds),
        )

    @cached_property
    def lost_files(self) -> list[Path]:
        """What the pictures would show of the test cases, and is not there any more."""
        ending = self.dataset_json["file_ending"]
        shown = [f for c in self.cases for f in (f"{TEST_IMAGES}/{c}_0000{ending}", f"{TEST_LABELS}/{c}{ending}")]
        return [self.folder / f for f in shown if not (self.folder / f).exists()]

    @cached_property
    def dataset_json(self) -> dict[str, Any]:
        """nnU-Net's, of the networks."""
        content: dict[str, Any] = read_json(self.folder / predictions_folder(self.runs[0]) / "dataset.json")
        return content

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
        UserError: no run of the reference is finished, a generator has seen a test case, or other surface distances are asked
            for than were measured.
    """
    stored = read_json(folder / STUDY_FILE)
    _refuse_other_distances(study.evaluation, stored["study"]["evaluation"])
    results = _collect(study, jobs, folder)
    metrics = _further_metrics(results)
    methods = methods_paragraph(results.reported, stored["versions"], len(results.cases), results.units)
    page = _html(results, metrics, methods)
    write_csv(results.output / "cases.csv", [asdict(s) for s in results.scores], [f.name for f in fields(CaseScore)])
    table = [flat(row) for row in results.rows]
    write_csv(results.output / "table.csv", table, list(dict.fromkeys(k for row in table for k in row)))
    _write_text(results.output / "table.md", markdown_table(results.rows, study.evaluation.confidence))
    _write_text(results.output / "methods.txt", methods + "\n")
    write_json(results.output / "results.json", {
        **stored, "study": asdict(study), "test_cases": list(results.cases), "generators_checked": results.num_generators,
        "comparisons": results.rows, "draws": [asdict(d) for d in results.draws], "warnings": _warnings(results),
        "metrics": metrics, "cases": [g.to_json() for g in results.groups], "time": time_per_arm(results.reported, jobs, folder),
        "unfinished": unfinished(jobs, folder), "methods": methods})
    report = results.output / "report.html"
    _write_text(report, page)
    return report


def _refuse_other_distances(wanted: EvaluationSettings, measured: dict[str, Any]) -> None:
    """Raise a :class:`UserError` where a study that was changed since it ran asks for surface distances that nobody measured."""
    if wanted.surface_distances and any(measured[k] != getattr(wanted, k) for k in ("surface_distances", "tolerance_mm")):
        raise UserError(f"Surface distances at {wanted.tolerance_mm:g} mm are not measured: sbldm_ablation run measures them.")


def _collect(study: Study, jobs: Sequence[StudyJob], folder: Path) -> _Results:
    runs = finished_runs(study, jobs, folder)
    if not any(r.arm.kind == REFERENCE for r in runs):
        raise UserError(f"No run of {REFERENCE} is finished, and all other arms are compared with it; see sbldm_ablation status.")
    scores, split = case_scores(runs, folder), Split.from_json(read_json(folder / SPLIT_FILE))
    groups = case_groups(split, (r.subset for r in runs), recorded_cases(folder))
    reference = next(a.name for a in study.arms if a.kind == REFERENCE)
    oracles, sizes_ml = {a.name: a.num_cases for a in study.arms if a.num_cases}, _sizes_ml(groups[0], split.patients)
    what = Comparison(reference, [a.name for a in study.arms], sorted(study.num_cases), oracles, sizes_ml,
                      study.evaluation.num_resamples, study.evaluation.confidence)
    tables, draws = score_tables(scores, study, split.patients, "Dice"), draws_of(study, runs, folder)
    baselines = _against_copy_paste(tables, study, what)
    rows = [{**row, "draws": shares(draws, row["arm"], what.oracles.get(row["arm"], row["num_cases"])),
             "baseline": baselines.get((row["arm"], row["num_cases"]))} for row in compare(tables, what)]
    num_generators = check_generators(list(groups[0].records.values()), folder)
    return _Results(study, folder, jobs, runs, groups, scores, draws, rows, num_generators, split.patients)


def _sizes_ml(test: CaseGroup, patients: Mapping[str, str]) -> np.ndarray:
    """Foreground [patients] of the test cases, mean over the scans of each."""
    volumes: dict[str, list[float]] = {}
    for case_id, patient in patients.items():
        volumes.setdefault(patient, []).append(test.records[case_id].foreground_ml)
    return np.array([np.mean(v) for v in volumes.values()])


def _against_copy_paste(tables: Scores, study: Study, what: Comparison) -> dict[tuple[str, int], dict[str, Any]]:
    """(arm, number of cases) -> its comparison with the first copy-paste arm, for arms that need a generator.

    Holm's adjustment is over these comparisons, a family of their own.
    """
    name = next((a.name for a in study.arms if a.kind == "copy_paste" and any(arm == a.name for arm, _ in tables)), None)
    if name is None:
        return {}
    arms = [name, *(a.name for a in study.arms if a.what.needs_generator())]
    rows = compare(tables, replace(what, reference=name, arms=arms, oracles={}))
    return {(row["arm"], row["num_cases"]): {"arm": name, **{k: row[k] for k in ("difference", "p", "p_holm", "verdict")}}
            for row in rows if row["difference"]}


# --- files ---------------------------------------------------------------------------------------------------------


def _write_text(path: Path, text: str) -> None:
    write_atomically(path, lambda tmp: tmp.write_text(text, encoding="utf-8"))


# --- HTML ----------------------------------------------------------------------------------------------------------


def _html(results: _Results, metrics: Sequence[dict[str, Any]], methods: str) -> str:
    import jinja2

    study, rows, numbers = results.study, results.rows, sorted(results.reported.num_cases)
    curves, differences, cases = (results.output / f"{n}.png" for n in ("learning_curves", "differences", "cases"))
    channels = channel_names_of(results.dataset_json)
    learning_curves(rows, curves)
    case_plot(results.groups, channels, cases)
    has_differences = difference_plot(rows, differences)
    return jinja2.Environment(autoescape=True).from_string(TEMPLATE).render(
        dataset=study.dataset, num_cases=", ".join(map(str, numbers)), num_test=len(results.cases),
        num_generators=results.num_generators, num_runs=len(results.runs), num_planned=len(runs_of(study)),
        unfinished=unfinished(results.jobs, results.folder), warnings=_warnings(results), reference=results.reference,
        confidence=f"{100 * study.evaluation.confidence:g} %",
        verdicts={v: [f"{r['arm']} at {r['num_cases']}" for r in rows if r["verdict"] == v] for v in VERDICTS},
        tables={n: [_table_row(r) for r in rows if r["num_cases"] == n] for n in numbers}, curves=embedded(curves),
        differences=embedded(differences) if has_differences else "",
        size_rows=[[r["arm"], r["num_cases"], *map(points_text, r["thirds"])] for r in rows if r["thirds"]],
        baseline=baseline_name(rows),
        baseline_rows=[[r["arm"], str(r["num_cases"]), *baseline_cells(r["baseline"])] for r in rows if r["baseline"]],
        cases=embedded(cases), channels=channels, case_rows=[_group_row(g, len(channels)) for g in results.groups],
        thirds=_third_sizes(results), metrics=list(metrics[0]["scores"]), metric_rows=[_metric_row(r) for r in metrics],
        surface=study.evaluation.surface_distances, several=len(results.labels) > 1, units=results.units,
        pictures=_pictures(results), time_rows=_time_rows(results), methods=methods,
    )


def _group_row(group: CaseGroup, num_channels: int) -> list[str]:
    aucs = (range_text(group.aucs(c), ".2f") for c in range(num_channels))
    return [group.name, str(len(group.records)), range_text(group.volumes_ml(), ".2f"), *aucs]


def _table_row(row: dict[str, Any]) -> list[str]:
    cases = f"{row['num_better']} / {row['num_worse']} of {row['num_pairs']}" if row["difference"] else NOT_MEASURED
    draws = [percent(row["draws"][k]) for k in ("asked", "drawn")] if row["draws"] else [NOT_MEASURED] * 2
    return [row["arm"], str(row["num_runs"]), *draws, score_text(row["mean"]), points_text(row["difference"]), cases,
            p_text(row["p"]), p_text(row["p_holm"]), row["verdict"] or NOT_MEASURED]


def _warnings(results: _Results) -> list[str]:
    warnings, number = [], len(set(results.patients.values()))
    if number < FEW_CASES:
        warnings.append(f"Only {number} test {results.units}: intervals are wide, and differences that exist may not show.")
    if results.lost_files:
        warnings.append(f"{len(results.lost_files)} files of test cases are not where they were, such as "
                        f"{results.lost_files[0].resolve()}: no pictures of test cases.")
    few = sum(r["num_folds"] < FEW_FOLDS for r in results.rows)
    if few:
        warnings.append(f"Fewer than three draws of training cases (folds) in {few} of {len(results.rows)} rows: however many "
                        "seeds, their intervals hardly reflect the chance of another draw.")
    return warnings + _without_headroom(results) + warnings_of(results.draws, results.runs)


def _without_headroom(results: _Results) -> list[str]:
    """Trainings that more real cases do not improve say nothing of synthetic ones."""
    oracles = {a.name: a.num_cases for a in results.study.arms if a.num_cases}
    return [
        f"{row['arm']} at {row['num_cases']}: {oracles[row['arm']]} real cases do not bring a gain that shows over "
        f"{row['num_cases']} ({points_text(row['difference'])} points), so these trainings can hardly say what synthetic cases "
        "bring. Train longer, or choose an n at which the oracle gains."
        for row in results.rows if oracles.get(row["arm"], 0) > row["num_cases"] and row["difference"]
        and not row["verdict"].endswith("better")
    ]


def _third_sizes(results: _Results) -> str:
    sizes = _sizes_ml(results.groups[0], results.patients)
    return "; ".join(f"{sizes[t].min():.2f} to {sizes[t].max():.2f} ml" if len(t) else NOT_MEASURED for t in terciles(sizes))


def _further_metrics(results: _Results) -> list[dict[str, Any]]:
    """Per arm and number of cases: where the training loss ended, and the mean of every metric of every structure."""
    study, several = results.study, len(results.labels) > 1
    metrics = (*OVERLAP, *SURFACE) if study.evaluation.surface_distances else OVERLAP
    settings = (study.evaluation.num_resamples, study.evaluation.confidence)
    tables = {f"{m}, {label}" if several else m: score_tables(results.scores, study, results.patients, m, label)
              for m in metrics for label in results.labels}
    losses, voxels = training_losses(study, results.runs, results.folder), missed_and_false(results.scores)
    keys = sorted(dict.fromkeys(k for t in tables.values() for k in t), key=lambda k: k[1])
    return [{"arm": arm, "num_cases": n, "training_loss": losses.get((arm, n)), "missed_voxels": voxels[arm, n][0],
             "false_voxels": voxels[arm, n][1], "scores": {
        name: _score(t[arm, n], *settings) if (arm, n) in t else None for name, t in tables.items()
    }} for arm, n in keys]


def _score(table: np.ndarray, num_resamples: int, confidence: float) -> dict[str, Any]:
    """Mean and interval of a metric, and how many values it is of: there is no distance to a structure that is missed."""
    return {**interval_of_mean(table, num_resamples, confidence).to_json(), "num_values": int(np.isfinite(table).sum())}


def _metric_row(row: dict[str, Any]) -> list[str]:
    loss = NOT_MEASURED if row["training_loss"] is None else f"{row['training_loss']:.2f}"
    voxels = [f"{row[k]:.0f}" for k in ("missed_voxels", "false_voxels")]
    known = [s["num_values"] for s in row["scores"].values() if s]
    scores = [score_text(s) + (f" of {s['num_values']}" if s and s["num_values"] < max(known) else "")
              for s in row["scores"].values()]
    return [row["arm"], str(row["num_cases"]), loss, *scores, *voxels]


def _pictures(results: _Results) -> list[tuple[str, str]]:
    """For every arm its run of the first fold and seed at the smallest number of real cases."""
    if results.lost_files:
        return []
    pictures = []
    for arm in results.study.arms:
        own_runs = sorted((r for r in results.runs if r.arm == arm), key=lambda r: r.subset.num_cases)
        run = next(iter(own_runs), None)
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
    rows = time_per_arm(results.reported, results.jobs, results.folder)
    return [[r["arm"], *(f"{r[k] / 60:.1f}" for k in ("training_seconds", "prediction_seconds", "generator_seconds")),
             f"{r['gpu_hours']:.2f}" if results.study.run.device == "cuda" else NOT_MEASURED] for r in rows]
