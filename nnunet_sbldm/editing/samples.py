"""Edited cases in a folder, and pictures that show host, edit, difference and region."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from nnunet_sbldm.common.pictures import PLANES, Panel, central_voxel, montage
from nnunet_sbldm.common.progress import progress
from nnunet_sbldm.data.dataset import NnunetDataset
from nnunet_sbldm.data.formats import write_case
from nnunet_sbldm.editing.choices import EditSettings
from nnunet_sbldm.editing.edit import EditedDraw
from nnunet_sbldm.editing.maker import edited_cases
from nnunet_sbldm.generator.checkpoint import Generator
from nnunet_sbldm.generator.requests import Request
from nnunet_sbldm.ldm.config import SamplerConfig
from nnunet_sbldm.types import OUTSIDE

MAX_ROWS = 8
REGION_MARK = 1


def write_edits(
    generator: Generator,
    dataset: NnunetDataset,
    requests: Sequence[Request],
    editing: EditSettings,
    sampler: SamplerConfig,
    folder: Path,
) -> Path:
    """Write edited cases as ``CASE_0000.nii.gz`` (one per channel) and ``CASE.nii.gz``, their records, and pictures.

    Returns:
        The picture of the first few.
    """
    cases = edited_cases(generator, dataset, editing)
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for drawn in progress(cases.draw(requests, sampler), "editing", len(requests)):
        case, record = drawn.case(generator), drawn.record(generator, sampler)
        record = replace(record, nearest_real_case=cases.nearest(drawn))
        record.gate.update(cases.judge(drawn, record))
        record.sampler.update(asked=dict(drawn.request.asked), editing=cases.settings.signature())
        images = [folder / f"{case.case_id}_{c:04d}.nii.gz" for c in range(len(case.image))]
        write_case(case, images, folder / f"{case.case_id}.nii.gz")
        record.save(folder)
        rows.append(("", edit_panels(drawn, generator)))
    picture = folder / "montage.png"
    draw_edits(picture, rows[:MAX_ROWS], generator)
    return picture


def draw_edits(path: Path, rows: Sequence[tuple[str, Sequence[Panel]]], generator: Generator) -> None:
    """Write a picture of edits, each a row of :func:`edit_panels`."""
    names = {v: t.name for t in generator.plan.targets if len(t.label_values) == 1 for v in t.label_values}
    montage(path, rows, names, PLANES, 1800)


def edit_panels(drawn: EditedDraw, generator: Generator, channel: int = 0) -> list[Panel]:
    """Host, edit, and their difference with the region outlined, in the same planes."""
    task, spacing_mm = drawn.task, generator.plan.grid.spacing_mm
    prepared, outside = task.prepared, drawn.label == OUTSIDE
    host, edited = (np.where(outside, 0, image[channel]) for image in (prepared.image, drawn.image))
    region = np.where(outside, OUTSIDE, np.where(task.region.mask, REGION_MARK, 0)).astype(np.int16)
    centre = central_voxel(np.maximum(drawn.focus, 0) if (drawn.focus > 0).any() else prepared.label)
    shift = " mirrored" * task.choice.transform.mirrored + " bent" * bool(task.choice.transform.deformation_mm)
    return [
        Panel(host, prepared.label, spacing_mm, f"host {task.choice.host}{shift}", centre),
        Panel(edited, drawn.label, spacing_mm, f"{task.choice.kind}: {drawn.request.case_id}", centre),
        Panel(edited - host, region, spacing_mm, "difference, region", centre),
    ]
