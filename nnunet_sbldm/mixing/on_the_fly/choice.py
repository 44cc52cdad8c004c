"""Which generator may make cases while a fold is trained; all that could leak or fail later is refused here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from nnunetv2.paths import nnUNet_raw

from nnunet_sbldm.data.dataset import NnunetDataset
from nnunet_sbldm.data.folds import guard_split
from nnunet_sbldm.data.paths import nnunet_folder, number_of
from nnunet_sbldm.editing.hosts import allowed_hosts
from nnunet_sbldm.editing.planner import refuse_other_axes
from nnunet_sbldm.generator.checkpoint import Generator, has_its_plans, load_generator, refuse_mismatch, training_command
from nnunet_sbldm.generator.plan import GeneratorPlan
from nnunet_sbldm.generator.presets import training_options
from nnunet_sbldm.generator.requests import case_id_of, is_case_id
from nnunet_sbldm.generator.zoo import find_model, finished_models, places_of
from nnunet_sbldm.types import UserError

if TYPE_CHECKING:
    from nnunet_sbldm.mixing.fold import TrainingFold, TrainingRun

MAX_NAMED = 5


def choose_generator(run: TrainingRun, model: str | None) -> Generator:
    """Find the generator of a training and check that its cases may be trained on.

    Args:
        run: the training.
        model: folder or name of the generator; None takes the one that was trained for this fold.

    Returns:
        The generator, on the CPU.

    Raises:
        UserError: none or several, unfinished or damaged; other channels, labels or plans; it has seen a validation case; a
            real case has the id of a synthetic one.
    """
    fold = run.fold
    generator = load_generator(find_generator(fold, model))
    dataset = dataset_of(fold)
    try:
        refuse_mismatch(generator, dataset)
    except UserError as e:
        raise UserError(f"{str(e).rstrip('.')}: {train_command(fold)}, or name another SBLDM (sbldm_configure -m).") from e
    if is_of_dataset(generator, fold):
        _refuse_other_plans(generator, dataset, fold)
    first = case_id_of(fold.fold, 0)
    content = {} if fold.fold == "all" else fold.fingerprints(run.val)
    guard_split([*run.real_train, first], run.val, {first: generator.seen}, content, fold.fold)
    clashes = [c for c in (*run.real_train, *run.val) if is_case_id(c, fold.fold)]
    if clashes:
        raise UserError(f"{len(clashes)} real case(s) have names of synthetic cases made on the fly ({clashes[0]}): rename them.")
    return generator


def choose_hosts(run: TrainingRun, generator: Generator) -> list[str]:
    """The real training cases of a training that may be edited: none that share a patient with its validation cases.

    Raises:
        UserError: there is no raw dataset, the generator works with other axes, or no case is allowed.
    """
    dataset, fold = dataset_of(run.fold), run.fold
    if dataset.raw == dataset.preprocessed or not (dataset.raw / "dataset.json").is_file():
        raise UserError(f"mode edit needs the raw files of the training cases, but there is no {dataset.name} in nnUNet_raw: put "
                        "it back, or set mode to generate (sbldm_configure).")
    refuse_other_axes(generator, dataset)
    hosts = allowed_hosts(dataset, fold.fold)
    content, first = fold.fingerprints([*hosts, *run.val]), case_id_of(fold.fold, 0)
    seen = tuple(content[c] for c in hosts)
    guard_split([first], run.val, {first: seen}, {} if fold.fold == "all" else content, fold.fold)
    return hosts


def dataset_of(fold: TrainingFold) -> NnunetDataset:
    """The dataset of a training, through the configuration that nnU-Net preprocessed its cases with; raw files may be away."""
    name, plans = fold.preprocessed.name, fold.plans
    raw = Path(nnUNet_raw.get()) / name if nnUNet_raw.is_set() else fold.preprocessed
    return NnunetDataset(name, raw, fold.preprocessed, fold.dataset_json, plans.plans_name, fold.configuration)


def is_of_dataset(generator: Generator, fold: TrainingFold) -> bool:
    """Whether a generator was trained on cases of the dataset that is trained, so that these can be compared with its own."""
    return generator.plan.dataset_name in _dataset_names(fold)


def train_command(fold: TrainingFold) -> str:
    """The command that trains the fold's own generator."""
    return f"run {training_command(_dataset_names(fold)[0], fold.plans.plans_name, fold.fold)}"


def _dataset_names(fold: TrainingFold) -> list[str]:
    """The dataset, after the one that it is an expansion of."""
    source = fold.dataset_json.get("sbldm", {}).get("source_dataset")
    return [*([source] if source else []), fold.preprocessed.name]


# --- finding -------------------------------------------------------------------------------------------------------


def find_generator(fold: TrainingFold, model: str | None) -> Path:
    """Folder of the finished generator that ``model`` names, or that was trained for this fold.

    Args:
        fold: the fold.
        model: as for :func:`find_model`, or the name of one in the dataset's folder of results; a preset's name stands for
            its folder.

    Raises:
        UserError: there is none, or more than one was trained and ``model`` does not say which.
    """
    homes = [nnunet_folder("nnUNet_results") / name for name in _dataset_names(fold)]
    if model is None:
        return _only_one(fold, homes)
    try:
        return find_model(model, fold.fold, [p for home in homes for p in places_of(home, fold.plans.plans_name, model)])
    except UserError as e:
        remedy = f"name another one (sbldm_configure -m), or {train_command(fold)} and leave it out"
        raise UserError(f"{str(e).rstrip('.')}: {remedy}.") from None


def _only_one(fold: TrainingFold, homes: list[Path]) -> Path:
    found = [folder for home in homes for folder in finished_models(home, fold.plans.plans_name, fold.fold)]
    if not found:
        raise UserError(f"Fold {fold.fold} of {fold.preprocessed.name} has no finished SBLDM in {homes[0]}: "
                        f"{train_command(fold)}, or name another one (sbldm_configure -m).")
    if len(found) > 1:
        named = ", ".join(folder.parent.name for folder in found[:MAX_NAMED])
        raise UserError(f"Fold {fold.fold} of {fold.preprocessed.name} has {len(found)} finished SBLDMs ({named}): say which one "
                        "makes the cases (sbldm_configure -m).")
    return found[0]


def _training_options(plan: GeneratorPlan) -> str:
    """The options of ``sbldm_train`` that a generator was trained with, apart from dataset and fold."""
    options = training_options(plan.preset.name)
    if plan.initial.name:
        options[:2] = ["-init", plan.initial.name]
    return " ".join(options)


def _refuse_other_plans(generator: Generator, dataset: NnunetDataset, fold: TrainingFold) -> None:
    """The generator's training cases must still lie there as it saw them: synthetic cases are compared with them."""
    plan = generator.plan
    view = replace(dataset, plans_name=plan.plans_name, configuration=plan.configuration)
    if not has_its_plans(generator, dataset):
        raise UserError(
            f"The SBLDM in {generator.folder} was trained with other plans {plan.plans_name} ({plan.configuration}) than "
            f"{dataset.name} has now: delete that folder and {train_command(fold)} {_training_options(plan)}."
        )
    if not view.data_folder.is_dir():
        raise UserError(f"{dataset.name} is not preprocessed for {plan.configuration}, which the SBLDM in {generator.folder} was "
                        f"trained on: run nnUNetv2_preprocess -d {number_of(dataset.name)} -plans_name {plan.plans_name} "
                        f"-c {plan.configuration}.")
