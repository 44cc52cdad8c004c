"""Setting a study up in its folder: everything that could be wrong is refused before any job starts."""

from __future__ import annotations

import platform
from dataclasses import fields
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from nnunet_sbldm import __version__
from nnunet_sbldm.ablation.arms import Arm
from nnunet_sbldm.ablation.cases import CASES, record_cases, refuse_content_leaks
from nnunet_sbldm.ablation.jobs import StudyJob
from nnunet_sbldm.ablation.planning import job_environment, plan_study_jobs
from nnunet_sbldm.ablation.runner import save_table, setting_up
from nnunet_sbldm.ablation.runs import IDS_FILE, DatasetIds, runs_of
from nnunet_sbldm.ablation.split import (
    SourceDataset,
    Split,
    make_folders,
    open_source_dataset,
    split_cases,
    write_raw_dataset,
    write_test_cases,
)
from nnunet_sbldm.ablation.study import Study
from nnunet_sbldm.common.files import read_json, write_json
from nnunet_sbldm.common.text import named
from nnunet_sbldm.types import UserError

STUDY_FILE, SPLIT_FILE = "study.json", "split.json"
LARGEST_ID = 999
VERSIONED = ("nnunetv2", "torch", "diffusers", "numpy", "scipy")


def set_up(study: Study, folder: Path, on_cluster: bool = False) -> tuple[list[StudyJob], dict[str, str]]:
    """Check a study, and write its datasets, test cases and table of jobs.

    Args:
        study: the study.
        folder: its folder; new, empty, or that of the same study, possibly with fewer arms, cases, draws or seeds.
        on_cluster: its jobs run elsewhere, so that this machine needs no GPU.

    Returns:
        Jobs and the variables they run with.

    Raises:
        UserError: another study in the folder, or a run with other jobs; a missing GPU or library, too few cases, leaking
            subsets.
    """
    folder = folder.absolute()
    refuse_other_study(study, folder)
    _refuse_missing_means(study, on_cluster)
    source = open_source_dataset(study, folder)
    split = split_cases(study, source)
    _refuse_other_split(split, folder)
    refuse_content_leaks(study, split, record_cases(study, source, split, folder, (folder / STUDY_FILE).is_file()))
    ids = DatasetIds(read_json(folder / IDS_FILE) if (folder / IDS_FILE).is_file() else {})
    jobs = plan_study_jobs(study, ids)
    if max(ids.known.values()) > LARGEST_ID:
        raise UserError(f"The study needs {len(ids.known)} datasets, and nnU-Net numbers at most {LARGEST_ID}: split the study.")
    environment = job_environment(str(folder), study.run.processes)
    with setting_up(jobs, folder):
        _write(study, source, split, ids, folder)
        save_table(jobs, environment, folder)
    return jobs, environment


def _write(study: Study, source: SourceDataset, split: Split, ids: DatasetIds, folder: Path) -> None:
    """Write everything but the table of jobs: what the study is, its datasets and its test cases."""
    make_folders(folder)
    write_json(folder / STUDY_FILE, {**study_content(study), "earlier_arms": _earlier_arms(study, folder)})
    write_json(folder / SPLIT_FILE, split.to_json())
    write_json(folder / IDS_FILE, ids.known)
    for subset in dict.fromkeys(s for run in runs_of(study) for s in (run.subset, run.generator_subset)):
        write_raw_dataset(source, ids.name(subset.key), split.training(subset), folder)
    write_test_cases(source, split, folder)


def study_content(study: Study) -> dict[str, Any]:
    """The resolved study and the versions it was set up with, as plain JSON."""
    versions = {"nnunet-sbldm": __version__, "python": platform.python_version(), **{p: version(p) for p in VERSIONED}}
    return {"study": study.to_json(), "fixed": study.fixed(), "versions": versions}


def refuse_other_study(study: Study, folder: Path) -> None:
    """A study may grow; what would change jobs that are done ends with a :class:`UserError`."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; give a new or empty folder with -o.")
    if not (folder / STUDY_FILE).is_file():
        foreign = [p.name for p in folder.iterdir() if p.name not in ("source", CASES)] if folder.is_dir() else []
        if foreign:
            raise UserError(f"{folder} holds other files ({foreign[0]}); give a new or empty folder with -o.")
        return
    old, new = read_json(folder / STUDY_FILE), study_content(study)
    changed = [k for k, v in new["fixed"].items() if old["fixed"].get(k) != v]
    unset = {f.name: f.default for f in fields(Arm)}  # an older version may not have known all keys
    arms = {a["name"]: {**unset, **a} for a in [*old.get("earlier_arms", ()), *old["study"]["arms"]]}
    changed += [f"arm {a['name']}" for a in new["study"]["arms"] if arms.get(a["name"], a) != a]
    if changed:
        raise UserError(f"{folder} holds this study with other {named(changed)}; choose a new folder with -o "
                        "(arms, num_cases, folds and seeds may be added in this one).")


def _earlier_arms(study: Study, folder: Path) -> list[dict[str, Any]]:
    """Arms that the study in a folder once had and has no more: their jobs are done, so none may come back as another."""
    old = read_json(folder / STUDY_FILE) if (folder / STUDY_FILE).is_file() else {"study": {"arms": []}}
    names = {a.name for a in study.arms}
    return [a for a in [*old.get("earlier_arms", ()), *old["study"]["arms"]] if a["name"] not in names]


def _refuse_other_split(split: Split, folder: Path) -> None:
    """Raise a :class:`UserError` if a study's cases would be tested or trained on otherwise than when it was set up."""
    if not (folder / SPLIT_FILE).is_file():
        return
    value = read_json(folder / SPLIT_FILE)
    old = Split.from_json(value)
    other_patients = "patients" in value and old.patients != split.patients  # older versions did not keep them
    orders = old.order.keys() & split.order.keys()
    if other_patients or old.test != split.test or any(old.order[d] != split.order[d] for d in orders):
        raise UserError(f"The cases of the dataset, or their patients, are others than when {folder} was set up: its test cases "
                        "and subsets would change. Restore them, or choose a new folder with -o.")


def _refuse_missing_means(study: Study, on_cluster: bool) -> None:
    """Raise a :class:`UserError` if a library, or a device that this machine should have, is missing."""
    if not on_cluster:
        _refuse_missing_device(study)
    if study.evaluation.surface_distances and find_spec("monai") is None:
        raise UserError("surface_distances needs MONAI: pip install 'nnunet-sbldm[benchmarks]', or set it to false.")


def _refuse_missing_device(study: Study) -> None:
    import torch

    asked = [("device", study.run.device)]
    if any(arm.definition.is_on_the_fly for arm in study.arms) and study.run.generator_device:
        asked.append(("generator_device", study.run.generator_device))
    for key, device in asked:
        kind, _, number = device.partition(":")
        if kind == "cuda" and torch.cuda.device_count() <= int(number or 0):
            raise UserError(f"run: {key} is {device}, and this machine has {torch.cuda.device_count()} CUDA device(s); choose "
                            "another, or write scripts for a cluster with --slurm.")
        if kind == "mps" and not torch.backends.mps.is_available():
            raise UserError(f"run: {key} is mps, which this machine does not have.")
