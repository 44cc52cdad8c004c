"""Plots of training logs and of asked against obtained values."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nnunet_sbldm.common.pictures import BACKGROUND, FAINT, LABEL_COLOURS, TEXT, new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LOG_BOOKKEEPING = {"stage", "step", "num_steps", "seconds", "learning_rate"}
SMOOTHING_FRACTION = 0.05


def curves(log_file: Path, path: Path, width_px: int = 900) -> None:
    """Write a PNG with the loss curves of a training log, one plot per stage.

    Args:
        log_file: CSV with columns ``stage``, ``step``, ``num_steps`` and any number of losses.
        path: file to write.
        width_px: width of the picture.
    """
    stages = _read_log(log_file)
    figure = new_figure(width_px, 330)
    for i, (stage, table) in enumerate(stages.items()):
        axes = figure.add_axes(((i + 0.15) / len(stages), 0.16, 0.8 / len(stages), 0.72))
        _draw_curves(axes, stage, table)
    save_figure(figure, path)


def scatter(
    path: Path, plots: Sequence[tuple[str, Sequence[float], Sequence[float]]], labels: tuple[str, str] = ("asked", "obtained"),
    width_px: int = 1100,
) -> None:
    """Write a PNG with one square scatter plot per entry of ``plots`` (title, x, y) around the line of identity."""
    figure = new_figure(width_px, round(width_px / len(plots)))
    for i, (title, x, y) in enumerate(plots):
        axes = figure.add_axes(((i + 0.22) / len(plots), 0.2, 0.7 / len(plots), 0.7))
        _style(axes, title)
        values = np.concatenate([x, y]) if len(x) else np.array([0.0, 1.0])
        margin = 0.08 * float(np.ptp(values)) or 0.1
        limits = (float(values.min()) - margin, float(values.max()) + margin)
        axes.plot(limits, limits, color=FAINT, linewidth=1, linestyle="--")
        axes.scatter(x, y, s=26, color=LABEL_COLOURS[0], edgecolors=BACKGROUND, linewidths=0.5, zorder=3)
        axes.set(xlim=limits, ylim=limits, xlabel=labels[0], ylabel=labels[1], aspect="equal")
        axes.locator_params(nbins=5)
    save_figure(figure, path)


def _read_log(log_file: Path) -> dict[str, dict[str, np.ndarray]]:
    """Stage -> column -> values; NaN where a stage has no such column."""
    with open(log_file, newline="", encoding="utf-8") as f:
        rows = list(csv.DictReader(f))
    stages: dict[str, dict[str, np.ndarray]] = {}
    for stage in dict.fromkeys(row["stage"] for row in rows):
        own = [row for row in rows if row["stage"] == stage]
        stages[stage] = {k: np.array([float(row[k] or "nan") for row in own]) for k in own[0] if k != "stage"}
    return stages


def _draw_curves(axes: Axes, stage: str, table: Mapping[str, np.ndarray]) -> None:
    _style(axes, stage)
    losses = {k: v for k, v in table.items() if k not in LOG_BOOKKEEPING and np.isfinite(v).any()}
    window = max(1, int(SMOOTHING_FRACTION * len(table["step"])))
    for i, (name, values) in enumerate(losses.items()):
        colour, known = LABEL_COLOURS[i % len(LABEL_COLOURS)], np.isfinite(values)
        steps, values = table["step"][known], values[known]
        axes.plot(steps, values, color=colour, linewidth=0.6, alpha=0.35)
        smooth = np.convolve(values, np.ones(window) / window, "valid")
        axes.plot(steps[len(steps) - len(smooth):], smooth, color=colour, linewidth=1.4, label=name)
    positive = all((v[np.isfinite(v)] > 0).all() for v in losses.values())
    axes.set(xlabel="step", yscale="log" if positive else "linear")
    axes.legend(fontsize=8, facecolor=BACKGROUND, edgecolor=FAINT, labelcolor=TEXT)


def _style(axes: Axes, title: str) -> None:
    axes.set_facecolor(BACKGROUND)
    axes.set_title(title, color=TEXT, fontsize=10)
    axes.tick_params(which="both", colors=FAINT, labelsize=8)
    axes.xaxis.label.set_color(FAINT)
    axes.yaxis.label.set_color(FAINT)
    for spine in axes.spines.values():
        spine.set_color(FAINT)
    axes.grid(color=FAINT, alpha=0.15)
