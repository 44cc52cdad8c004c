"""Which generator makes the cases of a training: the one that it names, or the one that was trained for its fold."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_sbldm.data.paths import nnunet_folder
from nnunet_sbldm.generator.checkpoint import training_command
from nnunet_sbldm.generator.zoo import find_model, finished_models, places_of
from nnunet_sbldm.types import UserError

if TYPE_CHECKING:
    from nnunet_sbldm.mixing.fold import TrainingFold

MAX_NAMED = 5


def train_command(fold: TrainingFold) -> str:
    """The command that trains the fold's own generator."""
    return f"run {training_command(dataset_names(fold)[0], fold.plans.plans_name, fold.fold)}"


def dataset_names(fold: TrainingFold) -> list[str]:
    """The dataset, after the one that it is an expansion of."""
    source = fold.dataset_json.get("sbldm", {}).get("source_dataset")
    return [*([source] if source else []), fold.preprocessed.name]


def find_generator(fold: TrainingFold, model: str | None) -> Path:
    """Folder of the finished generator that ``model`` names, or that was trained for this fold.

    Args:
        fold: the fold.
        model: as for :func:`find_model`, or the name of one in the dataset's folder of results; a preset's name stands for
            its folder.

    Raises:
        UserError: there is none, or more than one was trained and ``model`` does not say which.
    """
    homes = [nnunet_folder("nnUNet_results") / name for name in dataset_names(fold)]
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
