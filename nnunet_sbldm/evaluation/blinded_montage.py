"""A blinded montage: edited and real lesions in random order, numbered, with the answers in a file of their own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from nnunet_sbldm.common.files import write_json
from nnunet_sbldm.common.pictures import PLANES, Panel, central_voxel, montage
from nnunet_sbldm.common.seeds import EvaluationStream, rng_of
from nnunet_sbldm.data.boxes import to_grid
from nnunet_sbldm.data.cases import load_preprocessed
from nnunet_sbldm.data.dataset import NnunetDataset
from nnunet_sbldm.editing.maker import EditedCases
from nnunet_sbldm.generator.requests import Request
from nnunet_sbldm.ldm.config import SamplerConfig
from nnunet_sbldm.types import OUTSIDE, FloatArray, LabelArray, UserError

MAX_DRAWS_PER_CASE = 10
COLUMNS = 4


@dataclass(frozen=True)
class Tile:
    """One picture of the montage.

    Attributes:
        kind: ``real`` or the kind of edit.
        case_id: the real case, or the host.
        panel: what is shown; no outlines, they would be looked at instead of the image.
    """

    kind: str
    case_id: str
    panel: Panel


def write_blinded_montage(
    cases: EditedCases, dataset: NnunetDataset, num_each: int, sampler: SamplerConfig, output: Path, seed: int = 0
) -> Path:
    """Write ``montage.png`` with as many edited as real lesions in random order, and ``key.json`` with the answers.

    Only edits that pass the quality gate are shown. Both kinds are shown as nnU-Net's preprocessed arrays on the generator's
    grid, in planes through the lesion. Real lesions of cases that no edit has as its host come first.

    Args:
        cases: what edits hosts, see :func:`nnunet_sbldm.editing.maker.edited_cases`.
        dataset: of the hosts and the real lesions.
        num_each: number of edits, and of real lesions.
        sampler: steps and guidance.
        output: folder to write.
        seed: of the first edit; also decides the order.

    Returns:
        The montage.

    Raises:
        UserError: too few real lesions, or too few edits pass the gate.
    """
    tiles = _edited_tiles(cases, num_each, sampler, seed)
    tiles += _real_tiles(cases, dataset, num_each, {tile.case_id for tile in tiles})
    order = rng_of(seed, EvaluationStream.ORDER).permutation(len(tiles))
    numbered = [replace(tiles[i].panel, title=str(n)) for n, i in enumerate(order, 1)]
    output.mkdir(parents=True, exist_ok=True)
    rows = [("", numbered[i : i + COLUMNS]) for i in range(0, len(numbered), COLUMNS)]
    montage(output / "montage.png", rows, None, PLANES, 2000)
    write_json(output / "key.json", {str(n): {"kind": tiles[i].kind, "case": tiles[i].case_id} for n, i in enumerate(order, 1)})
    return output / "montage.png"


def _edited_tiles(cases: EditedCases, num: int, sampler: SamplerConfig, seed: int) -> list[Tile]:
    tiles: list[Tile] = []
    for i in range(num * MAX_DRAWS_PER_CASE):
        (drawn,) = cases.draw([Request(f"sbldm_{seed + i:05d}", seed + i, {})], replace(sampler, batch_size=1))
        record = replace(drawn.record(cases.model, sampler), nearest_real_case=cases.nearest(drawn))
        if not cases.judge(drawn, record).accepted:
            continue
        place = drawn.focus if (drawn.focus > 0).any() else drawn.task.prepared.label
        panel = _panel(cases, cases.model.plan.intensity.normalised(drawn.image), drawn.label, place)
        tiles.append(Tile(drawn.task.choice.kind, drawn.task.choice.host, panel))
        if len(tiles) == num:
            return tiles
    raise UserError(
        f"The quality gate accepts {len(tiles)} of {num * MAX_DRAWS_PER_CASE} edits by the SBLDM in {cases.model.folder}; "
        f"{num} are needed: ask for fewer with -n, or train it longer."
    )


def _real_tiles(cases: EditedCases, dataset: NnunetDataset, num: int, hosts: set[str]) -> list[Tile]:
    with_lesion = sorted(cases.real.patches, key=lambda case_id: (case_id in hosts, case_id))
    if len(with_lesion) < num:
        raise UserError(
            f"{dataset.name} has {len(with_lesion)} real training case(s) with a lesion in this fold; {num} are needed: ask for "
            f"fewer with -n."
        )
    shape = cases.model.plan.grid.shape
    tiles = []
    for case_id in with_lesion[:num]:
        image, label = load_preprocessed(dataset, case_id)
        label = to_grid(label, shape, OUTSIDE)
        tiles.append(Tile("real", case_id, _panel(cases, to_grid(image, shape, 0), label, label)))
    return tiles


def _panel(cases: EditedCases, image: FloatArray, label: LabelArray, place: LabelArray) -> Panel:
    outside = label == OUTSIDE
    shown = np.where(outside, 0, image[0]).astype(np.float32)
    blank = np.where(outside, OUTSIDE, 0).astype(np.int16)
    plan, centre = cases.model.plan, central_voxel(np.maximum(place, 0))
    return Panel(shown, blank, plan.grid.spacing_mm, centre=centre, axes=plan.array_axes)
