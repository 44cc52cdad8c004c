"""The demo's report: one HTML file with pictures inside, and one picture for a README."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_sbldm.common.files import read_json, write_atomically
from nnunet_sbldm.common.jobs import clock
from nnunet_sbldm.common.pages import embedded, render
from nnunet_sbldm.common.pictures import Panel, montage
from nnunet_sbldm.common.plots import curves, scatter
from nnunet_sbldm.common.steps import StepResult
from nnunet_sbldm.data.cases import load_preprocessed
from nnunet_sbldm.data.dataset import NnunetDataset
from nnunet_sbldm.data.labels import values_of
from nnunet_sbldm.data.paths import Fold
from nnunet_sbldm.data.splits import fold_cases
from nnunet_sbldm.expansion.places import pool_cases_folder, pool_folder
from nnunet_sbldm.generator.records import SyntheticIndex
from nnunet_sbldm.types import UserError

CASES_PICTURED, CASES_IN_README = 3, 2
PLACE_AXES = ("d", "h", "w")
NOT_MEASURED = "\N{EN DASH}"


@dataclass(frozen=True)
class ReportInput:
    """Where the parts of a report lie.

    Attributes:
        dataset: the real dataset.
        fold: fold that was trained.
        generator: folder of the trained generator.
        results: nnU-Net's folder of the trained fold.
        predictions: folder of test predictions with nnU-Net's ``summary.json``.
        steps: what was run.
        places: name and path, relative to the output folder, of what a reader may look for.
    """

    dataset: NnunetDataset
    fold: Fold
    generator: Path
    results: Path
    predictions: Path
    steps: Sequence[StepResult]
    places: Sequence[tuple[str, str]]


def write_report(source: ReportInput, output: Path) -> Path:
    """Write ``report.html`` (self-contained) and ``demo.png`` (real and synthetic cases) into ``output``.

    Returns:
        The HTML file.
    """
    names = _label_names(source.dataset)
    records = synthetic_records(source.dataset, source.fold)
    pictures = _draw_pictures(source, output, names)
    conditions = [_condition_section(name, records, output / "pictures") for name in names.values()]
    values = {
        "fold": source.fold,
        "num_training_cases": len(fold_cases(source.dataset, source.fold)[0]),
        "num_synthetic": len(records),
        "pictures": {name: embedded(path) for name, path in pictures.items()},
        "conditions": conditions,
        "tiles": _tiles(source, conditions),
        "dice_labels": list(names.values()),
        "dice_rows": _dice_rows(source),
        "steps": [_step_row(s) for s in source.steps],
        "total_time": clock(_total_seconds(source.steps)),
        "largest_memory": _gigabytes(_largest_memory_mb(source.steps)),
        "machine": _machine(),
        "output": output,
        "places": source.places,
    }
    html = render("demo_report.html.j2", values)
    report = output / "report.html"
    write_atomically(report, lambda tmp: tmp.write_text(html, encoding="utf-8"))
    return report


def _draw_pictures(source: ReportInput, output: Path, names: dict[int, str]) -> dict[str, Path | None]:
    """Pictures by their name in the template."""
    folder, channels = output / "pictures", source.dataset.channel_names
    real, synthetic = _real_cases(source), _synthetic_cases(source)
    _draw_cases(output / "demo.png", real[:CASES_IN_README], synthetic[:CASES_IN_README], channels[:1], names)
    _draw_cases(folder / "cases.png", real, synthetic, channels, names)
    curves(source.generator / "training_log.csv", folder / "curves.png")
    reconstructions = max((source.generator / "pictures").glob("autoencoder_*.png"), default=None)
    return {"cases": folder / "cases.png", "curves": folder / "curves.png", "reconstructions": reconstructions,
            "progress": source.results / "progress.png"}


def synthetic_records(dataset: NnunetDataset, fold: Fold) -> list[dict[str, Any]]:
    """Provenance of every case in a fold's pool."""
    folder = pool_folder(dataset.preprocessed, dataset.config.data_identifier, fold)
    index = SyntheticIndex.load(folder)
    if index is None or not index.cases:
        raise UserError(f"There is no synthetic case in {folder}: fill the pool with sbldm_expand_dataset --pool -f {fold}.")
    return [read_json(folder / "provenance" / f"{case_id}.json") for case_id in sorted(index.cases)]


@dataclass(frozen=True)
class _Volume:
    """Preprocessed image [C, D, H, W] and label [D, H, W]."""

    case_id: str
    image: np.ndarray
    label: np.ndarray
    spacing_mm: tuple[float, ...]

    def panel(self, channel: int) -> Panel:
        volume_ml = (self.label > 0).sum() * float(np.prod(self.spacing_mm)) / 1000
        size = f"{volume_ml:.1f} ml" if volume_ml else "no foreground"
        return Panel(self.image[channel], self.label, self.spacing_mm, f"{self.case_id}, {size}")


def _real_cases(source: ReportInput) -> list[_Volume]:
    train, _ = fold_cases(source.dataset, source.fold)
    spacing = tuple(source.dataset.config.spacing)
    return [_Volume(c, *load_preprocessed(source.dataset, c), spacing) for c in train[:CASES_PICTURED]]


def _synthetic_cases(source: ReportInput) -> list[_Volume]:
    from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

    dataset = source.dataset
    case_ids = [r["case_id"] for r in synthetic_records(dataset, source.fold)[:CASES_PICTURED]]
    folder = pool_cases_folder(dataset.preprocessed, dataset.config.data_identifier, source.fold)
    reader = nnUNetDatasetBlosc2(str(folder), case_ids)
    volumes = []
    for case_id in case_ids:
        data, seg, _, _ = reader.load_case(case_id)
        volumes.append(_Volume(case_id, np.asarray(data[:]), np.asarray(seg[:])[0], tuple(dataset.config.spacing)))
    return volumes


def _draw_cases(
    path: Path, real: Sequence[_Volume], synthetic: Sequence[_Volume], channels: Sequence[str], names: dict[int, str]
) -> None:
    rows = [(f"{kind}, {channel}", [v.panel(i) for v in volumes])
            for i, channel in enumerate(channels) for kind, volumes in (("Real", real), ("Synthetic", synthetic))]
    montage(path, rows, names)


def _label_names(dataset: NnunetDataset) -> dict[int, str]:
    """Label value -> name, foreground only; a region goes by the first of its labels that no earlier one has."""
    names: dict[int, str] = {}
    for name, value in dataset.dataset_json["labels"].items():
        free = [v for v in values_of(value) if v and v not in names]
        if free and name != "ignore":
            names[free[0]] = name
    return names


def _condition_section(label: str, records: Sequence[dict[str, Any]], pictures: Path) -> dict[str, Any]:
    """Scatter plots, summary and table of asked against obtained volume and place of one label."""
    pairs = [(r["case_id"], *(_size_and_place(r[k], label) for k in ("condition_asked", "condition_obtained"))) for r in records]
    pairs = [p for p in pairs if p[1] is not None]
    present = [p for p in pairs if p[2] is not None]
    asked, obtained = (np.array([p[i] for p in present]).reshape(-1, 1 + len(PLACE_AXES)) for i in (1, 2))
    picture = pictures / f"condition_{label}.png"
    titles = ["volume (ml)", *(f"centroid {a}" for a in PLACE_AXES)]
    scatter(picture, [(t, asked[:, i].tolist(), obtained[:, i].tolist()) for i, t in enumerate(titles)])
    summary = f"{len(present)} of the {len(pairs)} cases that were asked for a {label} have one."
    if present:
        size_error = 100 * np.median(np.abs(obtained[:, 0] / asked[:, 0] - 1))
        place_error = np.median(np.linalg.norm(asked[:, 1:] - obtained[:, 1:], axis=1))
        summary += f" Among these, the median error of volume is {size_error:.0f} %, and of place {place_error:.3f} of the head."
    return {"label": label, "picture": embedded(picture), "summary": summary, "rows": [_condition_row(*p) for p in pairs],
            "present": f"{len(present)} of {len(pairs)}"}


def _size_and_place(condition: dict[str, float], label: str) -> np.ndarray | None:
    """[volume_ml, centroid d, h, w], or None if the condition has no such label."""
    names = [f"{label}/volume_ml", *(f"{label}/centroid_{a}" for a in PLACE_AXES)]
    return np.array([condition[n] for n in names]) if all(n in condition for n in names) else None


def _condition_row(case_id: str, asked: np.ndarray, obtained: np.ndarray | None) -> list[str]:
    asked_cells = [case_id, f"{asked[0]:.1f}", _fractions(asked[1:])]
    if obtained is None:
        return [*asked_cells, *[NOT_MEASURED] * 3]
    return [*asked_cells, f"{obtained[0]:.1f}", _fractions(obtained[1:]), f"{np.linalg.norm(asked[1:] - obtained[1:]):.3f}"]


def _fractions(place: np.ndarray) -> str:
    return ", ".join(f"{p:.2f}" for p in place)


def _dice_rows(source: ReportInput) -> list[dict[str, Any]]:
    """Dice per case and mean, of the test predictions and of nnU-Net's validation of the fold."""
    rows: list[dict[str, Any]] = []
    for part, folder in (("test", source.predictions), (f"validation, fold {source.fold}", source.results / "validation")):
        table = _dice_table(folder)
        mean = {"mean": np.nanmean(list(table.values()), axis=0)}
        rows += [{"case": case, "set": part, "dice": [f"{d:.3f}" for d in dice], "is_mean": case == "mean"}
                 for case, dice in (table | mean).items()]
    return rows


def _dice_table(folder: Path) -> dict[str, Sequence[float]]:
    """Case -> Dice per label or region, from nnU-Net's ``summary.json``."""
    cases = read_json(folder / "summary.json")["metric_per_case"]
    return {Path(c["prediction_file"]).name.split(".")[0]: [m["Dice"] for m in c["metrics"].values()] for c in cases}


def _tiles(source: ReportInput, conditions: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    """The few numbers at the top."""
    return [
        {"name": "mean Dice on test cases", "value": f"{np.nanmean(list(_dice_table(source.predictions).values())):.3f}"},
        {"name": f"synthetic cases have the {conditions[0]['label']} they were asked for", "value": conditions[0]["present"]},
        {"name": "minutes in all", "value": clock(_total_seconds(source.steps))},
        {"name": "largest memory", "value": f"{_gigabytes(_largest_memory_mb(source.steps))} GB"},
    ]


def _step_row(step: StepResult) -> dict[str, str]:
    memory = _gigabytes(step.peak_memory_mb) if step.peak_memory_mb else NOT_MEASURED
    return {"title": step.title, "time": clock(step.seconds), "memory": memory, "command": step.command}


def _total_seconds(steps: Sequence[StepResult]) -> float:
    return sum(s.seconds for s in steps)


def _largest_memory_mb(steps: Sequence[StepResult]) -> float:
    return max(s.peak_memory_mb for s in steps)


def _gigabytes(megabytes: float) -> str:
    return f"{megabytes / 1024:.2f}"


def _machine() -> str:
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPU cores, Python {platform.python_version()}."
