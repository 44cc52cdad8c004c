"""What makes the cases of a training; all that could leak or fail later is refused here, before anything is started."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from nnunetv2.paths import nnUNet_raw

from nnunet_sbldm.data.dataset import NnunetDataset
from nnunet_sbldm.data.folds import guard_split
from nnunet_sbldm.data.paths import number_of
from nnunet_sbldm.editing.hosts import allowed_hosts
from nnunet_sbldm.editing.planner import refuse_other_axes
from nnunet_sbldm.generator.checkpoint import SBLDMModel, has_its_plans, load_model, refuse_mismatch
from nnunet_sbldm.generator.plan import GeneratorPlan
from nnunet_sbldm.generator.presets import training_options
from nnunet_sbldm.generator.requests import case_id_of, is_case_id
from nnunet_sbldm.mixing.on_the_fly.finding import dataset_names, find_generator, train_command
from nnunet_sbldm.types import UserError

if TYPE_CHECKING:
    from nnunet_sbldm.mixing.fold import TrainingFold, TrainingRun
    from nnunet_sbldm.mixing.settings import MixingSettings

THREADS_VARIABLE = "SBLDM_GENERATOR_THREADS"


@dataclass(frozen=True)
class Choice:
    """What makes the cases of a training, and on what; checked.

    Attributes:
        model: the model, on the CPU.
        hosts: real training cases to edit; without any, whole cases are made.
        device: where to sample.
        num_threads: threads of the process that samples.
    """

    model: SBLDMModel
    hosts: list[str]
    device: torch.device
    num_threads: int


def choose(run: TrainingRun, settings: MixingSettings) -> Choice:
    """Choose what makes the cases of a training.

    Raises:
        UserError: no generator or several, unfinished or damaged; other channels, labels or plans; it has seen a validation
            case; a real case has the id of a synthetic one; mode ``edit`` without raw files, with other axes or without a case
            that may be edited; no such device; a number of threads that is none.
    """
    model = _checked_generator(run, settings.model)
    hosts = _checked_hosts(run, model) if settings.mode == "edit" else []
    return Choice(model, hosts, _checked_device(run, settings), _checked_threads())


def _checked_generator(run: TrainingRun, model: str | None) -> SBLDMModel:
    fold = run.fold
    loaded = load_model(find_generator(fold, model))
    _refuse_unlike(loaded, fold)
    first = case_id_of(fold.fold, 0)
    content = {} if fold.fold == "all" else fold.fingerprints(run.val)
    guard_split([*run.real_train, first], run.val, {first: loaded.seen}, content, fold.fold)
    clashes = [c for c in (*run.real_train, *run.val) if is_case_id(c, fold.fold)]
    if clashes:
        raise UserError(f"{len(clashes)} real case(s) have names of synthetic cases made on the fly ({clashes[0]}): rename them.")
    return loaded


def _refuse_unlike(model: SBLDMModel, fold: TrainingFold) -> None:
    """Its cases must look like those of the dataset to nnU-Net."""
    dataset = dataset_of_fold(fold)
    try:
        refuse_mismatch(model, dataset)
    except UserError as e:
        raise UserError(f"{str(e).rstrip('.')}: {train_command(fold)}, or name another SBLDM (sbldm_configure -m).") from e
    if is_of_dataset(model, fold):
        _refuse_other_plans(model, dataset, fold)


def _checked_hosts(run: TrainingRun, model: SBLDMModel) -> list[str]:
    """The real training cases that may be edited: none that share a patient with a validation case."""
    dataset, fold = dataset_of_fold(run.fold), run.fold
    if dataset.raw == dataset.preprocessed or not (dataset.raw / "dataset.json").is_file():
        raise UserError(f"mode edit needs the raw files of the training cases, but there is no {dataset.name} in nnUNet_raw: put "
                        "it back, or set mode to generate (sbldm_configure).")
    refuse_other_axes(model, dataset)
    hosts = allowed_hosts(dataset, fold.fold)
    content, first = fold.fingerprints([*hosts, *run.val]), case_id_of(fold.fold, 0)
    seen = tuple(content[c] for c in hosts)
    guard_split([first], run.val, {first: seen}, {} if fold.fold == "all" else content, fold.fold)
    return hosts


def _checked_device(run: TrainingRun, settings: MixingSettings) -> torch.device:
    device = torch.device(settings.sbldm_device or run.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"There is no GPU for the SBLDM ({device}): set sbldm_device to cpu (sbldm_configure).")
    return device


def _checked_threads() -> int:
    text = os.environ.get(THREADS_VARIABLE, "1")
    if not text.isdigit() or int(text) < 1:
        raise UserError(f"{THREADS_VARIABLE} is a number of threads from 1; got {text!r}.")
    return int(text)


def dataset_of_fold(fold: TrainingFold) -> NnunetDataset:
    """The dataset of a training, through the configuration that nnU-Net preprocessed its cases with; raw files may be away."""
    name, plans = fold.preprocessed.name, fold.plans
    raw = Path(nnUNet_raw.get()) / name if nnUNet_raw.is_set() else fold.preprocessed
    return NnunetDataset(name, raw, fold.preprocessed, fold.dataset_json, plans.plans_name, fold.configuration)


def is_of_dataset(model: SBLDMModel, fold: TrainingFold) -> bool:
    """Whether a generator was trained on cases of the dataset that is trained, so that these can be compared with its own."""
    return model.plan.dataset_name in dataset_names(fold)


def _training_options(plan: GeneratorPlan) -> str:
    """The options of ``sbldm_train`` that a generator was trained with, apart from dataset and fold."""
    options = training_options(plan.preset.name)
    if plan.initial.name:
        options[:2] = ["-init", plan.initial.name]
    return " ".join(options)


def _refuse_other_plans(model: SBLDMModel, dataset: NnunetDataset, fold: TrainingFold) -> None:
    """The generator's training cases must still lie there as it saw them: synthetic cases are compared with them."""
    plan = model.plan
    view = replace(dataset, plans_name=plan.plans_name, configuration=plan.configuration)
    if not has_its_plans(model, dataset):
        raise UserError(
            f"The SBLDM in {model.folder} was trained with other plans {plan.plans_name} ({plan.configuration}) than "
            f"{dataset.name} has now: delete that folder and {train_command(fold)} {_training_options(plan)}."
        )
    if not view.data_folder.is_dir():
        raise UserError(f"{dataset.name} is not preprocessed for {plan.configuration}, which the SBLDM in {model.folder} was "
                        f"trained on: run nnUNetv2_preprocess -d {number_of(dataset.name)} -plans_name {plan.plans_name} "
                        f"-c {plan.configuration}.")
