"""Pictures of edits: host, edit, difference and region side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nnunet_sbldm.common.pictures import PLANES, Panel, central_voxel, montage
from nnunet_sbldm.editing.edit import EditedDraw
from nnunet_sbldm.generator.checkpoint import SBLDMModel
from nnunet_sbldm.types import OUTSIDE

REGION_MARK = 1


def draw_edits(path: Path, rows: Sequence[tuple[str, Sequence[Panel]]], model: SBLDMModel) -> None:
    """Write a picture of edits, each a row of :func:`edit_panels`."""
    names = {v: t.name for t in model.plan.targets if len(t.label_values) == 1 for v in t.label_values}
    montage(path, rows, names, PLANES, 1800)


def edit_panels(drawn: EditedDraw, model: SBLDMModel, channel: int = 0) -> list[Panel]:
    """Host, edit, and their difference with the region outlined, in the same planes."""
    task, spacing_mm = drawn.task, model.plan.grid.spacing_mm
    prepared, outside = task.prepared, drawn.label == OUTSIDE
    host, edited = (np.where(outside, 0, image[channel]) for image in (prepared.image, drawn.image))
    region = np.where(outside, OUTSIDE, np.where(task.region.mask, REGION_MARK, 0)).astype(np.int16)
    centre = central_voxel(np.maximum(drawn.focus, 0) if (drawn.focus > 0).any() else prepared.label)
    shift = " mirrored" * task.choice.transform.mirrored + " bent" * bool(task.choice.transform.deformation_mm)
    axes = prepared.host.case.geometry.array_axes(prepared.host.axes)
    return [
        Panel(host, prepared.label, spacing_mm, f"host {task.choice.host}{shift}", centre, axes),
        Panel(edited, drawn.label, spacing_mm, f"{task.choice.kind}: {drawn.request.case_id}", centre, axes),
        Panel(edited - host, region, spacing_mm, "difference, region", centre, axes),
    ]
