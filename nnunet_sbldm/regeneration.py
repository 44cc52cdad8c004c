"""Make a synthetic case again from its provenance record, and compare it with the stored one."""

from __future__ import annotations

import os
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nnunet_sbldm.checkpoint import Generator, hash_of, is_complete, load_generator
from nnunet_sbldm.config import SamplerConfig
from nnunet_sbldm.edit_tasks import EditChoice, EditPlanner
from nnunet_sbldm.editing import edit
from nnunet_sbldm.files import read_json, temporary_folder
from nnunet_sbldm.formats import write_case
from nnunet_sbldm.installation import IN_PLACE
from nnunet_sbldm.nnunet import NnunetDataset, dataset_name, load_arrays, nnunet_folder, open_dataset, preprocess_case, read_case
from nnunet_sbldm.pool import FOLDER
from nnunet_sbldm.requests import Request
from nnunet_sbldm.synthesis import draw
from nnunet_sbldm.types import Case, UserError

Arrays = tuple[np.ndarray, np.ndarray]


def regenerate(dataset_id: str, case_id: str, device: str, model: Path | None = None, output: Path | None = None) -> str:
    """Make a case again and say how it compares.

    Args:
        dataset_id: the real dataset (its pool, or expanded in place) or an expanded dataset.
        case_id: the synthetic case.
        device: where to sample; bit for bit the same on the device type that the record names, to rounding elsewhere.
        model: folder of the generator, if it was moved.
        output: where to write the case; nothing is written without it.

    Returns:
        One sentence: identical, or the largest differences.

    Raises:
        UserError: no such case, its generator is gone or another one.
    """
    record_file = _find_record(dataset_name(dataset_id), case_id)
    record = read_json(record_file)
    dataset = open_dataset(dataset_id)
    generator = _find_generator(record, model, torch.device(device))
    case = _again(record, generator)
    if output is not None:
        images = [output / f"{case_id}_{c:04d}.nii.gz" for c in range(len(case.image))]
        write_case(case, images, output / f"{case_id}.nii.gz")
    mine, stored = _comparable(dataset, case, record_file)
    return f"{case_id} from {generator.folder}: {_compare(mine, stored)}."


def _find_record(name: str, case_id: str) -> Path:
    raw, preprocessed = nnunet_folder("nnUNet_raw") / name, nnunet_folder("nnUNet_preprocessed") / name
    candidates = [
        raw / "synthetic" / "provenance" / f"{case_id}.json",
        raw / IN_PLACE / "provenance" / f"{case_id}.json",
        *sorted((preprocessed / FOLDER).glob(f"*/fold_*/provenance/{case_id}.json")),
    ]
    found = [f for f in candidates if f.is_file()]
    if not found:
        raise UserError(f"{name} has no synthetic case {case_id}, neither expanded nor in a pool.")
    return found[0]


def _find_generator(record: dict[str, Any], model: Path | None, device: torch.device) -> Generator:
    recorded, wanted = Path(record["generator_path"]), record["generator_hash"]
    folders = [model or recorded, *nnunet_folder("nnUNet_results").glob("Dataset*/SBLDM__*/fold_*")]
    for folder in folders:
        if is_complete(folder) and hash_of(folder) == wanted:
            return load_generator(folder, device)
    raise UserError(
        f"The SBLDM {wanted} that made this case is neither in {folders[0]} nor in nnUNet_results; name its folder with -m."
    )


def _again(record: dict[str, Any], generator: Generator) -> Case:
    stored = record["sampler"]
    sampler = SamplerConfig(**{f.name: stored[f.name] for f in fields(SamplerConfig)})
    request = Request(record["case_id"], record["seed"], stored["asked"], stored["diversity"], record["attempt"])
    if record.get("edit"):
        return _edited_again(record["edit"], request, generator, sampler)
    (drawn,) = draw(generator, [request], sampler)
    return drawn.case(generator)


def _edited_again(stored: dict[str, Any], request: Request, generator: Generator, sampler: SamplerConfig) -> Case:
    """Edit the recorded host as recorded.

    Raises:
        UserError: the host is gone, or is no longer what it was.
    """
    choice, name = EditChoice.from_record(stored), stored["dataset"]
    wanted = f"{request.case_id} was made by editing {choice.host} of {name}"
    try:
        dataset = open_dataset(name, generator.plan.plans_name, generator.plan.configuration)
    except UserError as e:
        raise UserError(f"{wanted}, which is needed to make it again: {e}") from None
    images = [f for f in dataset.case_files.get(choice.host, {}).get("images", ()) if os.path.isfile(f)]
    if len(images) < len(dataset.channel_names):
        raise UserError(f"{wanted}, which is no longer there; put its files back to make the case again.")
    planner = EditPlanner(generator, dataset)
    task = planner.task(request, choice)
    if task is None or task.prepared.host.content != stored["host_content"]:
        raise UserError(f"{wanted}, whose voxels have changed since; the case cannot be made again.")
    (drawn,) = edit(generator, [task], sampler)
    return drawn.case(generator)


def _comparable(dataset: NnunetDataset, case: Case, record_file: Path) -> tuple[Arrays, Arrays]:
    """The new and the stored case: raw voxels where raw files exist, else preprocessed arrays."""
    if case.case_id in dataset.case_files:
        stored = read_case(dataset, case.case_id)
        return (case.image, case.label), (stored.image, stored.label)
    pool = record_file.parents[1]
    view = _view_of_pool(dataset, pool)
    with temporary_folder(pool) as folder:
        preprocess_case(view, case, folder / case.case_id)
        return load_arrays(folder, case.case_id), load_arrays(pool / "cases", case.case_id)


def _view_of_pool(dataset: NnunetDataset, pool: Path) -> NnunetDataset:
    """The dataset through the configuration whose preprocessing the pool's cases went through."""
    views = (replace(dataset, configuration=name) for name in dataset.plans.available_configurations)
    return next(view for view in views if view.config.data_identifier == pool.parent.name)


def _compare(mine: Arrays, stored: Arrays) -> str:
    if mine[0].shape != stored[0].shape:
        return f"another size, {mine[0].shape} against {stored[0].shape}"
    if all(np.array_equal(a, b) for a, b in zip(mine, stored, strict=True)):
        return "identical, voxel for voxel"
    difference = np.abs(mine[0] - stored[0]).max() / max(float(np.ptp(stored[0])), 1e-12)
    labels = (mine[1] != stored[1]).mean()
    return f"intensities differ by at most {difference:.2e} of their range, labels in {labels:.2e} of the voxels"
