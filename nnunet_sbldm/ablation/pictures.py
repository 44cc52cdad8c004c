"""Pictures of a study: learning curves, and the best, median and worst test case of every arm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nnunet_sbldm.ablation.cases import CaseGroup
from nnunet_sbldm.ablation.runs import ArmRun
from nnunet_sbldm.ablation.split import TEST_IMAGES, TEST_LABELS
from nnunet_sbldm.common.files import read_json
from nnunet_sbldm.common.pictures import (
    BACKGROUND,
    FAINT,
    LABEL_COLOURS,
    TEXT,
    Panel,
    central_voxel,
    montage,
    new_figure,
    save_figure,
)
from nnunet_sbldm.data.formats import geometry_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHOWN = (("best", 0.0), ("median", 0.5), ("worst", 1.0))
JITTER, MARGIN = 0.012, 1.3
ROW_PX, AXIS_PX = 30, 60
VERDICT_COLOURS = {"better": "#2fd6ff", "worse": "#ff7847"}


def learning_curves(rows: Sequence[dict[str, Any]], path: Path, width_px: int = 1000) -> None:
    """Write a PNG: mean score with its interval against the number of real cases, one line per arm.

    Args:
        rows: of :func:`nnunet_sbldm.ablation.statistics.compare`.
        path: file to write.
        width_px: width of the picture.
    """
    figure = new_figure(width_px, 460)
    axes = figure.add_axes((0.07, 0.13, 0.62, 0.82))
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    for i, arm in enumerate(arms):
        own = [row for row in rows if row["arm"] == arm and row["mean"]["mean"] is not None]
        x = [row["num_cases"] * (1 + JITTER * (i - len(arms) / 2)) for row in own]  # intervals beside each other
        y = np.array([row["mean"]["mean"] for row in own])
        low, high = (np.array([row["mean"][k] if row["mean"][k] is not None else row["mean"]["mean"] for row in own])
                     for k in ("low", "high"))
        axes.errorbar(x, y, np.array([y - low, high - y]), color=LABEL_COLOURS[i % len(LABEL_COLOURS)], marker="o", markersize=4,
                      linestyle="--" if i >= len(LABEL_COLOURS) else "-", linewidth=1.3, capsize=2, label=arm)
    numbers = sorted({row["num_cases"] for row in rows})
    axes.set_xscale("log")
    axes.set_xlim(numbers[0] / MARGIN, numbers[-1] * MARGIN)
    axes.set_xticks(numbers, [str(n) for n in numbers])
    axes.set_xticks([], minor=True)
    axes.set(xlabel="real training cases", ylabel="Dice")
    _make_dark(axes)
    axes.legend(fontsize=8, facecolor=BACKGROUND, edgecolor=FAINT, labelcolor=TEXT, loc="center left", bbox_to_anchor=(1.02, 0.5))
    save_figure(figure, path)


def difference_plot(rows: Sequence[dict[str, Any]], path: Path, width_px: int = 1000) -> bool:
    """Write a PNG: every difference to the reference with its interval, gains to the right of the zero line, losses to the left.

    Args:
        rows: of :func:`nnunet_sbldm.ablation.statistics.compare`.
        path: file to write.
        width_px: width of the picture.

    Returns:
        Whether there was any difference to draw.
    """
    compared = [row for row in rows if row["difference"]]
    if not compared:
        return False
    height_px = ROW_PX * len(compared) + AXIS_PX
    figure = new_figure(width_px, height_px)
    axes = figure.add_axes((0.3, AXIS_PX / height_px, 0.67, 1 - (AXIS_PX + ROW_PX / 2) / height_px))
    for y, row in enumerate(compared):
        bounds = (row["difference"][k] for k in ("mean", "low", "high"))
        mean, low, high = (np.nan if b is None else 100 * b for b in bounds)
        colour = VERDICT_COLOURS.get((row["verdict"] or "").split()[-1], FAINT)
        axes.plot([low, high], [y, y], color=colour, linewidth=2)
        axes.plot([mean], [y], color=colour, marker="o", markersize=6)
    axes.axvline(0, color=TEXT, linewidth=1)
    axes.set_yticks(range(len(compared)), [f"{row['arm']} at {row['num_cases']}" for row in compared])
    axes.set(xlabel="difference in Dice points", ylim=(len(compared) - 0.5, -0.5))
    _make_dark(axes)
    axes.tick_params(axis="y", colors=TEXT)
    save_figure(figure, path)
    return True


def case_plot(groups: Sequence[CaseGroup], channels: Sequence[str], path: Path, width_px: int = 1000) -> None:
    """Write a PNG: a dot per case for the volume of its foreground and for its brightness in each channel, a row per group.

    Args:
        groups: the test cases, and the training cases of the subsets.
        channels: names of the channels.
        path: file to write.
        width_px: width of the picture.
    """
    columns = [("foreground in ml", [g.volumes_ml() for g in groups])]
    columns += [(f"brightness AUC, {name}", [g.aucs(c) for g in groups]) for c, name in enumerate(channels)]
    height_px = ROW_PX * len(groups) + AXIS_PX
    figure = new_figure(width_px, height_px)
    width = 0.85 / len(columns)
    for i, (name, values) in enumerate(columns):
        axes = figure.add_axes((0.13 + i * width, AXIS_PX / height_px, width - 0.02, 1 - (AXIS_PX + ROW_PX / 2) / height_px))
        for y, (group, own) in enumerate(zip(groups, values, strict=True)):
            colour = FAINT if group is groups[0] else LABEL_COLOURS[1]
            axes.plot(own, [y] * len(own), color=colour, marker="o", markersize=6, linestyle="", alpha=0.55, markeredgewidth=0)
            if own:
                axes.plot([np.median(own)] * 2, [y - 0.35, y + 0.35], color=TEXT, linewidth=1.5)
        if i == 0:
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter("{x:g}")
        axes.set_yticks(range(len(groups)), [g.name for g in groups] if i == 0 else [""] * len(groups))
        axes.set(xlabel=name, ylim=(len(groups) - 0.5, -0.5))
        _make_dark(axes)
        axes.tick_params(axis="y", colors=TEXT, length=0)
    save_figure(figure, path)


def _make_dark(axes: Axes) -> None:
    axes.set_facecolor(BACKGROUND)
    axes.tick_params(colors=FAINT)
    for item in (axes.xaxis.label, axes.yaxis.label):
        item.set_color(FAINT)
    for spine in axes.spines.values():
        spine.set_color(FAINT)


def best_median_worst(run: ArmRun, dice: dict[str, float], folder: Path, path: Path) -> bool:
    """Write a PNG of a run's best, median and worst test case: reference above, prediction below.

    Args:
        run: the run.
        dice: case -> its Dice; NaN is left out.
        folder: the study's folder.
        path: file to write.

    Returns:
        Whether there was any case to draw.
    """
    ordered = sorted((c for c, d in dice.items() if np.isfinite(d)), key=lambda c: -dice[c])
    if not ordered:
        return False
    predictions = folder / run.predictions
    content = read_json(predictions / "dataset.json")
    chosen = [(name, ordered[round(place * (len(ordered) - 1))]) for name, place in SHOWN]
    reference = [_panel(c, folder / TEST_LABELS, content, folder, f"{c}, reference") for _, c in chosen]
    found = [_panel(c, predictions, content, folder, f"{name}, Dice {dice[c]:.3f}") for name, c in chosen]
    aligned = [_at(p, r) for p, r in zip(found, reference, strict=True)]
    montage(path, [("", reference), ("", aligned)], planes=("axial", "coronal"))
    return True


def _panel(case_id: str, labels: Path, content: dict[str, Any], folder: Path, title: str) -> Panel:
    """First channel of a test case with a segmentation."""
    from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json

    ending = content["file_ending"]
    image_file = folder / TEST_IMAGES / f"{case_id}_0000{ending}"
    reader = determine_reader_writer_from_dataset_json(content, str(image_file), verbose=False)()
    image, properties = reader.read_images([str(image_file)])
    label = reader.read_seg(str(labels / f"{case_id}{ending}"))[0][0].astype(np.int16)
    axes = geometry_of(properties).array_axes()
    return Panel(image[0].astype(np.float32), label, properties["spacing"], title, central_voxel(label), axes)


def _at(panel: Panel, other: Panel) -> Panel:
    """The panel through the same planes as another."""
    return replace(panel, centre=other.centre)
