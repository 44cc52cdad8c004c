"""Make a synthetic case again from its provenance record, and compare it with the stored one."""

from __future__ import annotations

import glob
import math
import os
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nnunet_sbldm.common.files import read_json, temporary_folder
from nnunet_sbldm.data.cases import load_arrays, preprocess_case, read_case
from nnunet_sbldm.data.conditions import as_dict, as_vector
from nnunet_sbldm.data.dataset import NnunetDataset, planned_views
from nnunet_sbldm.data.formats import write_case
from nnunet_sbldm.data.paths import dataset_name, nnunet_folder
from nnunet_sbldm.editing.choices import EditChoice
from nnunet_sbldm.editing.edit import EditedDraw, edit
from nnunet_sbldm.editing.planner import EditPlanner, has_same_axes
from nnunet_sbldm.expansion.in_place import IN_PLACE
from nnunet_sbldm.expansion.places import FOLDER
from nnunet_sbldm.generator.checkpoint import SBLDMModel, hash_of, load_model
from nnunet_sbldm.generator.records import TRACE_NAME, read_trace, streams_of
from nnunet_sbldm.generator.requests import Request
from nnunet_sbldm.generator.sampling import Draw, draw_again
from nnunet_sbldm.generator.zoo import is_complete, known_models
from nnunet_sbldm.ldm.config import SamplerConfig
from nnunet_sbldm.types import Case, UserError

Arrays = tuple[np.ndarray, np.ndarray]


def regenerate(place: str, case_id: str, device: str, model: Path | None = None, output: Path | None = None) -> str:
    """Make a case again and say how it compares.

    Args:
        place: the real dataset (its pool, or expanded in place), an expanded dataset, or the results folder of a fold that was
            trained on the fly. Cases of the last are not kept: what is compared is their measured condition.
        case_id: the synthetic case.
        device: where to sample; bit for bit the same on the device type that the record names, to rounding elsewhere.
        model: folder of the generator, if it was moved.
        output: where to write the case; nothing is written without it.

    Returns:
        One sentence: identical, or the largest differences.

    Raises:
        UserError: no such case, its generator is gone or another one.
    """
    trace = Path(place) / TRACE_NAME
    is_traced = trace.is_file()
    if not is_traced and len(trace.parts) > 2:  # a path, no dataset
        raise UserError(f"{place} is no results folder of a fold that was trained on the fly: it has no {TRACE_NAME}.")
    record_file = trace if is_traced else _find_record(dataset_name(place), case_id)
    record = _traced(trace, case_id) if is_traced else read_json(record_file)
    loaded = _find_generator(record, model, torch.device(device))
    drawn = _again(record, loaded)
    case = drawn.case(loaded)
    if output is not None:
        images = [output / f"{case_id}_{c:04d}.nii.gz" for c in range(len(case.image))]
        write_case(case, images, output / f"{case_id}.nii.gz")
    if is_traced:
        obtained = as_dict(loaded.plan.condition_scaling.names, drawn.obtained)
        return f"{case_id} from {loaded.folder}: {_compare_conditions(obtained, record['condition_obtained'])}."
    return f"{case_id} from {loaded.folder}: {_compare(*_comparable(dataset_name(place), case, record_file))}."


def _find_record(name: str, case_id: str) -> Path:
    raw, preprocessed = nnunet_folder("nnUNet_raw") / name, nnunet_folder("nnUNet_preprocessed") / name
    candidates = [
        raw / "synthetic" / "provenance" / f"{case_id}.json",
        raw / IN_PLACE / "provenance" / f"{case_id}.json",
        *sorted((preprocessed / FOLDER).glob(f"*/fold_*/provenance/{glob.escape(case_id)}.json")),
    ]
    found = [f for f in candidates if f.is_file()]
    if not found:
        raise UserError(f"{name} has no synthetic case {case_id}, neither expanded nor in a pool.")
    return found[0]


def _traced(trace: Path, case_id: str) -> dict[str, Any]:
    """The record of a case that was made on the fly."""
    records = {line["case_id"]: line for line in read_trace(trace)}
    if case_id not in records:
        raise UserError(f"{trace} has no case {case_id}; it has {len(records)} case(s).")
    return records[case_id]


def _find_generator(record: dict[str, Any], model: Path | None, device: torch.device) -> SBLDMModel:
    recorded, wanted = Path(record["generator_path"]), record["generator_hash"]
    trained = nnunet_folder("nnUNet_results").glob("Dataset*/SBLDM__*/fold_*")
    folders = [model or recorded, *known_models().values(), *trained]
    for folder in folders:
        if is_complete(folder) and hash_of(folder) == wanted:
            return load_model(folder, device)
    raise UserError(
        f"The SBLDM {wanted} that made this case is neither in {folders[0]} nor among the known models nor in nnUNet_results; "
        "name its folder with -m."
    )


def _again(record: dict[str, Any], model: SBLDMModel) -> Draw | EditedDraw:
    stored = record["sampler"]
    recorded = SamplerConfig(**{f.name: stored[f.name] for f in fields(SamplerConfig)})
    sampler = replace(recorded, max_corrections=0)  # the record says what they led to
    request = Request(
        record["case_id"], record["seed"], stored["asked"], stored["diversity"], record["attempt"], streams_of(record)
    )
    if record.get("edit"):
        return _edited_again(record, request, model, sampler)
    return draw_again(model, request, sampler, record["condition_told"])


def _edited_again(record: dict[str, Any], request: Request, model: SBLDMModel, sampler: SamplerConfig) -> EditedDraw:
    """Edit the recorded host as recorded.

    Raises:
        UserError: the host is gone, or is no longer what it was.
    """
    stored, corrected = record["edit"], record["condition_told"]
    choice, name = EditChoice.from_record(stored), stored["dataset"]
    wanted = f"{request.case_id} was made by editing {choice.host} of {name}"
    try:
        dataset = _view_of_hosts(name, model)
    except UserError as e:
        raise UserError(f"{wanted}, which is needed to make it again: {e}") from None
    images = [f for f in dataset.case_files.get(choice.host, {}).get("images", ()) if os.path.isfile(f)]
    if len(images) < len(dataset.channel_names):
        raise UserError(f"{wanted}, which is no longer there; put its files back to make the case again.")
    planner = EditPlanner(model, dataset)
    task = planner.task(request, choice)
    if task is None or task.prepared.host.content != stored["host_content"]:
        raise UserError(f"{wanted}, whose voxels have changed since; the case cannot be made again.")
    if corrected:
        task = replace(task, condition=as_vector(model.plan.condition_scaling.names, corrected))
    (drawn,) = edit(model, [task], sampler)
    return drawn


def _view_of_hosts(name: str, model: SBLDMModel) -> NnunetDataset:
    """A dataset through a configuration that suits the generator: of its configuration's name and plans if there is one."""
    plan = model.plan
    views = sorted(planned_views(name), key=lambda v: (v.configuration != plan.configuration, v.plans_name != plan.plans_name))
    return next((view for view in views if has_same_axes(model, view)), views[0])


def _comparable(name: str, case: Case, record_file: Path) -> tuple[Arrays, Arrays]:
    """The new and the stored case: raw voxels where raw files exist, else preprocessed arrays."""
    pool = record_file.parents[1]
    if record_file.is_relative_to(nnunet_folder("nnUNet_raw") / name):
        stored = read_case(next(planned_views(name)), case.case_id)
        return (case.image, case.label), (stored.image, stored.label)
    view = next((v for v in planned_views(name) if v.config.data_identifier == pool.parent.name), None)
    if view is None:
        raise UserError(f"No plans of {name} have the configuration of {pool} any more; plan and preprocess it again.")
    with temporary_folder(pool) as folder:
        preprocess_case(view, case, folder / case.case_id)
        return load_arrays(folder, case.case_id), load_arrays(pool / "cases", case.case_id)


def _compare(mine: Arrays, stored: Arrays) -> str:
    if mine[0].shape != stored[0].shape:
        return f"another size, {mine[0].shape} against {stored[0].shape}"
    if all(np.array_equal(a, b) for a, b in zip(mine, stored, strict=True)):
        return "identical, voxel for voxel"
    difference = np.abs(mine[0] - stored[0]).max() / max(float(np.ptp(stored[0])), 1e-12)
    labels = (mine[1] != stored[1]).mean()
    return f"intensities differ by at most {difference:.2e} of their range, labels in {labels:.2e} of the voxels"


def _compare_conditions(mine: Mapping[str, float], recorded: Mapping[str, float]) -> str:
    if dict(mine) == dict(recorded):
        return "made again; sizes, places and shapes are exactly the recorded ones"
    differing = sorted(n for n in mine.keys() | recorded.keys() if mine.get(n) != recorded.get(n))
    values = ", ".join(f"{n} {mine.get(n, math.nan):.4g} instead of {recorded.get(n, math.nan):.4g}" for n in differing)
    return f"made again, with other values than recorded: {values}"
