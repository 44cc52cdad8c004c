"""Pictures of cases, for people who read MRI.

A volume is turned to the nearest anatomical axes by where its own axes point, so a sagittal and an axial scan of one head look
alike. Axial planes are drawn with anterior up, coronal and sagittal planes with superior up, the patient's left on the right
(anterior on the left in sagittal planes), at true proportions, with letters at the edges and a scale bar. Every volume is
windowed by the same rule.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from nnunet_sbldm.common.files import write_atomically
from nnunet_sbldm.types import OUTSIDE, Axes, FloatArray, LabelArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes as PlotAxes
    from matplotlib.figure import Figure

PLANES = ("axial", "coronal", "sagittal")
ANATOMICAL: Axes = ((0.0, 0.0, 1.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0))
"""Axes of volumes as they are drawn: D to superior, H to posterior, W to left."""
EDGES = {"axial": "RLAP", "coronal": "RLSI", "sagittal": "APSI"}
"""Letters at the left, right, upper and lower edge of a plane."""
MIN_LETTERED_PX = 110
"""Smaller planes have neither letters nor a scale bar."""
BAR_LENGTHS_MM, MAX_BAR_SHARE = (1, 2, 5, 10, 20, 50, 100), 0.4
WINDOW_PERCENTILES = (0.5, 99.5)
BACKGROUND, TEXT, FAINT, MARK = "#000000", "#e8e8e8", "#8a8f98", "#999999"
LABEL_COLOURS = ("#ffb000", "#2fd6ff", "#ff5fa2", "#7dff6b", "#b58cff", "#ff7847", "#fff05a", "#5fffd7")
DPI = 100
GAP_PX, LINE_PX = 6, 22
"""Free space between planes, and height of a line of text."""
OUTLINE_ZOOM, OUTLINE_BLUR_VOXELS = 8, 0.45


@dataclass(frozen=True)
class Panel:
    """One case to draw.

    Attributes:
        image: [D, H, W], one channel.
        label: [D, H, W], label values; ``OUTSIDE`` and 0 are not outlined.
        spacing_mm: voxel size along (D, H, W).
        title: text above the case.
        centre: voxel (D, H, W) that the planes go through; None takes the planes of largest foreground.
        axes: where D, H and W point, see :meth:`nnunet_sbldm.types.Geometry.array_axes`.
    """

    image: FloatArray
    label: LabelArray
    spacing_mm: Sequence[float]
    title: str = ""
    centre: tuple[int, int, int] | None = None
    axes: Axes = ANATOMICAL


def three_planes(path: Path, panels: Sequence[Panel], label_names: Mapping[int, str] | None = None, width_px: int = 900) -> None:
    """Write a PNG with one row per case: axial, coronal and sagittal plane through its largest foreground."""
    montage(path, [("", [panel]) for panel in panels], label_names, PLANES, width_px)


def montage(
    path: Path, rows: Sequence[tuple[str, Sequence[Panel]]], label_names: Mapping[int, str] | None = None,
    planes: Sequence[str] = PLANES, width_px: int = 1200,
) -> None:
    """Write the figure of :func:`montage_figure` as PNG."""
    save_figure(montage_figure(rows, label_names, planes, width_px), path)


def montage_figure(
    rows: Sequence[tuple[str, Sequence[Panel]]], label_names: Mapping[int, str] | None = None,
    planes: Sequence[str] = PLANES, width_px: int = 1200,
) -> Figure:
    """A grid of cases, each in the given planes side by side.

    Args:
        rows: heading and cases of each row; an empty heading takes no space.
        label_names: label value -> name, for the key below the picture; without it there is no key.
        planes: which of ``PLANES`` to draw.
        width_px: width of the picture.
    """
    rows = [(heading, [_ready(panel) for panel in panels]) for heading, panels in rows]
    cells = [_cell_mm(panel, planes) for _, panels in rows for panel in panels]
    cell_mm = np.max(cells, axis=0)  # [planes, (height, width)]
    num_columns = max(len(panels) for _, panels in rows)
    gaps_px = GAP_PX * (num_columns * (len(planes) + 1) + 1)
    px_per_mm = (width_px - gaps_px) / (num_columns * cell_mm[:, 1].sum())
    plane_px = cell_mm * px_per_mm
    return _Layout(planes, plane_px, px_per_mm, width_px, label_names).draw(rows)


# --- planes --------------------------------------------------------------------------------------------------------


def _cell_mm(panel: Panel, planes: Sequence[str]) -> list[tuple[float, float]]:
    """Height and width of each plane."""
    d, h, w = np.multiply(panel.image.shape, panel.spacing_mm)
    size = {"axial": (h, w), "coronal": (d, w), "sagittal": (d, h)}
    return [size[p] for p in planes]


def _ready(panel: Panel) -> Panel:
    """The panel with grey values 0..1, cropped to the anatomy with a margin of one voxel, turned to anatomical axes."""
    voxels = np.argwhere(inside_anatomy(panel.image, panel.label))
    low, high = (voxels.min(axis=0), voxels.max(axis=0) + 1) if len(voxels) else (np.zeros(3, int), panel.label.shape)
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    grey = grey_window(panel.image, panel.label)
    centre = np.subtract(panel.centre, low) if panel.centre else central_voxel(panel.label[box])
    d, h, w = np.clip(centre, 0, np.subtract(high, low) - 1) + 1
    cropped = replace(panel, image=np.pad(grey[box], 1), label=np.pad(panel.label[box], 1), centre=(int(d), int(h), int(w)))
    return turned(cropped)


def turned(panel: Panel) -> Panel:
    """The panel with its axes along ``ANATOMICAL``, the nearest ones where they are oblique."""
    from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation, ornt_transform

    affine = np.eye(4)
    affine[:3, :3] = np.diag([-1.0, -1.0, 1.0]) @ np.transpose(panel.axes)  # nibabel's world is right, anterior, superior
    change = ornt_transform(io_orientation(affine), axcodes2ornt("SPL"))
    order = np.argsort(change[:, 0])
    ends = [n - 1 - c if flip < 0 else c for c, n, (_, flip) in zip(panel.centre or (), panel.image.shape, change, strict=False)]
    return replace(
        panel,
        image=apply_orientation(panel.image, change),
        label=apply_orientation(panel.label, change),
        spacing_mm=[panel.spacing_mm[i] for i in order],
        centre=tuple(int(ends[i]) for i in order) if ends else None,  # type: ignore[arg-type]
        axes=ANATOMICAL,
    )


def central_voxel(label: LabelArray) -> tuple[int, int, int]:
    """Slice indices (D, H, W) with the largest foreground area each; the centre of the volume if there is none."""
    foreground = label > 0
    if not foreground.any():
        return tuple(s // 2 for s in label.shape)
    areas = (foreground.sum(axis=tuple(a for a in range(3) if a != axis)) for axis in range(3))
    return tuple(int(np.argmax(a)) for a in areas)  # type: ignore[return-value]


def take_plane(volume: np.ndarray, plane: str, voxel: tuple[int, int, int]) -> np.ndarray:
    """The plane through a voxel as an image whose first row is drawn on top: anterior or superior up."""
    d, h, w = voxel
    if plane == "axial":
        return volume[d]
    return volume[::-1, h] if plane == "coronal" else volume[::-1, :, w]


def inside_anatomy(image: FloatArray, label: LabelArray) -> np.ndarray:
    """Voxels not marked as ``OUTSIDE``; where nothing is marked, voxels that are not 0."""
    inside = label != OUTSIDE
    return image != 0 if inside.all() else inside


def grey_window(image: FloatArray, label: LabelArray) -> np.ndarray:
    """Map [D, H, W] intensities to 0..1 by percentiles inside the anatomy; outside becomes 0."""
    inside = inside_anatomy(image, label)
    if not inside.any():
        return np.zeros(image.shape, np.float32)
    low, high = np.percentile(image[inside], WINDOW_PERCENTILES)
    grey = np.clip((image - low) / max(float(high - low), 1e-6), 0, 1)
    return np.where(inside, 0.04 + 0.96 * grey, 0).astype(np.float32)


Box = tuple[float, float, float, float]
"""Left, top, width and height in pixels from the upper left corner of a figure."""


@dataclass(frozen=True)
class _Layout:
    """Sizes in pixels of a montage and how to fill it."""

    planes: Sequence[str]
    plane_px: np.ndarray  # [planes, (height, width)]
    px_per_mm: float
    width_px: int
    label_names: Mapping[int, str] | None

    def draw(self, rows: Sequence[tuple[str, Sequence[Panel]]]) -> Figure:
        heights = [self._row_px(heading, panels) for heading, panels in rows]
        key_px = LINE_PX + GAP_PX if self.label_names else 0
        height = int(sum(heights)) + key_px + GAP_PX
        figure = new_figure(self.width_px, height)
        top = GAP_PX
        for (heading, panels), row_px in zip(rows, heights, strict=True):
            self._draw_row(figure, heading, panels, top)
            top += row_px
        if self.label_names:
            self._draw_key(figure, top + LINE_PX / 2)
        return figure

    def _row_px(self, heading: str, panels: Sequence[Panel]) -> int:
        num_lines = bool(heading) + any(p.title for p in panels)
        return int(self.plane_px[:, 0].max()) + num_lines * LINE_PX + GAP_PX

    def _draw_row(self, figure: Figure, heading: str, panels: Sequence[Panel], top: float) -> None:
        if heading:
            _text(figure, (GAP_PX, top + LINE_PX / 2), heading, size=11, weight="bold")
            top += LINE_PX
        left = float(GAP_PX)
        titled = any(p.title for p in panels)
        for panel in panels:
            if titled:
                _text(figure, (left, top + LINE_PX / 2), panel.title, colour=FAINT)
            self._draw_case(figure, panel, left, top + titled * LINE_PX)
            left += self.plane_px[:, 1].sum() + GAP_PX * (len(self.planes) + 1)

    def _draw_case(self, figure: Figure, panel: Panel, left: float, top: float) -> None:
        voxel = panel.centre or central_voxel(panel.label)
        cell_px = self.plane_px[:, 0].max()
        for plane, (_, width), (h_mm, w_mm) in zip(self.planes, self.plane_px, _cell_mm(panel, self.planes), strict=True):
            h, w = h_mm * self.px_per_mm, w_mm * self.px_per_mm
            box = (left + (width - w) / 2, top + (cell_px - h) / 2, w, h)
            _draw_plane(_axes_at(figure, box), take_plane(panel.image, plane, voxel), take_plane(panel.label, plane, voxel))
            if min(width, cell_px) >= MIN_LETTERED_PX:
                _draw_letters(figure, plane, (left, top, width, cell_px))
                if plane == self.planes[0]:
                    _draw_scale_bar(figure, (left, top, width, cell_px), self.px_per_mm)
            left += width + GAP_PX

    def _draw_key(self, figure: Figure, y: float) -> None:
        left = float(GAP_PX)
        for value, name in (self.label_names or {}).items():
            _text(figure, (left, y), f"\N{BLACK SQUARE} {name}", colour=_colour(value))
            left += 30 + 8 * len(name)


def _draw_plane(axes: PlotAxes, grey: np.ndarray, label: np.ndarray) -> None:
    h, w = grey.shape
    axes.imshow(grey, cmap="gray", vmin=0, vmax=1, aspect="auto", interpolation="bicubic", extent=(0, w, h, 0))
    values, smooth = _smooth_label(np.maximum(label, 0))
    x, y = ((np.arange(n) + 0.5) / OUTLINE_ZOOM for n in smooth.shape[::-1])
    for i, value in enumerate(values):
        if value > 0:
            axes.contour(x, y, smooth == i, levels=[0.5], colors=[_colour(int(value))], linewidths=1.2)
    axes.set_axis_off()


def _draw_letters(figure: Figure, plane: str, cell: Box) -> None:
    """Letters at the four edges of a cell: right, left, anterior, posterior, superior, inferior."""
    left, top, width, height = cell
    inset = LINE_PX / 2
    places = (
        (left + 2, top + height / 2), (left + width - inset, top + height / 2),
        (left + width / 2 - 4, top + inset / 2 + 2), (left + width / 2 - 4, top + height - inset / 2 - 2),
    )
    for letter, (x, y) in zip(EDGES[plane], places, strict=True):
        _text(figure, (x, y), letter, colour=MARK, size=7.5)


def _draw_scale_bar(figure: Figure, cell: Box, px_per_mm: float) -> None:
    """A bar of round length in the lower left corner of a cell."""
    left, top, width, height = cell
    fitting = [mm for mm in BAR_LENGTHS_MM if mm * px_per_mm <= MAX_BAR_SHARE * width]
    if fitting:
        bar = (left + 4, top + height - 5, fitting[-1] * px_per_mm, 2)
        _axes_at(figure, bar).set(facecolor=MARK, xticks=[], yticks=[])
        _text(figure, (left + 4, top + height - 13), f"{fitting[-1]} mm", colour=MARK, size=7)


def _smooth_label(label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Label values, and the index of the nearest one on a finer grid: outlines without the staircase of voxels."""
    values = np.unique(label)
    fine = label.repeat(OUTLINE_ZOOM, axis=0).repeat(OUTLINE_ZOOM, axis=1)
    shares = [ndimage.gaussian_filter((fine == v).astype(np.float32), OUTLINE_ZOOM * OUTLINE_BLUR_VOXELS) for v in values]
    return values, np.argmax(shares, axis=0)


def _colour(value: int) -> str:
    return LABEL_COLOURS[(value - 1) % len(LABEL_COLOURS)]


# --- drawing -------------------------------------------------------------------------------------------------------


def new_figure(width_px: int, height_px: int) -> Figure:
    """An empty dark figure that needs no display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_px / DPI, height_px / DPI), dpi=DPI, facecolor=BACKGROUND)
    FigureCanvasAgg(figure)
    return figure


def _axes_at(figure: Figure, box_px: Box) -> PlotAxes:
    """Axes that fill a box."""
    width, height = figure.get_size_inches() * DPI
    left, top, w, h = box_px
    return figure.add_axes((left / width, 1 - (top + h) / height, w / width, h / height))


def _text(
    figure: Figure, place: tuple[float, float], text: str, colour: str = TEXT, size: float = 9.5, weight: str = "normal"
) -> None:
    """Text whose left end lies at a place, in pixels from the upper left corner."""
    width, height = figure.get_size_inches() * DPI
    figure.text(place[0] / width, 1 - place[1] / height, text, color=colour, fontsize=size, fontweight=weight, va="center")


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, complete or not at all."""
    write_atomically(path, lambda tmp: figure.savefig(tmp, dpi=DPI, facecolor=BACKGROUND, format="png"))
