"""Training a model: which cases, from which weights, and the checks of both."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from nnunet_sbldm.data.dataset import NnunetDataset, open_dataset
from nnunet_sbldm.data.fingerprints import fingerprints_of
from nnunet_sbldm.data.folds import MAX_CASES_NAMED, find_copies, without_patients_of_val
from nnunet_sbldm.data.groups import remember_groups, remembered_groups, with_remembered_groups
from nnunet_sbldm.data.paths import DEFAULT_PLANS, Fold, parse_fold
from nnunet_sbldm.data.splits import fold_cases
from nnunet_sbldm.generator.card import read_card
from nnunet_sbldm.generator.checkpoint import load_model
from nnunet_sbldm.generator.presets import DEFAULT_PRESET, PRESETS, Preset, lengthened
from nnunet_sbldm.generator.zoo import find_model, is_complete, name_of
from nnunet_sbldm.training.finetuning import InitialModel
from nnunet_sbldm.training.request import TrainingRequest
from nnunet_sbldm.training.train import train_generator
from nnunet_sbldm.types import SBLDMWarning, UserError


@dataclass(frozen=True)
class TrainingSettings:
    """What is trained on what.

    Attributes:
        dataset: id or name.
        fold: fold whose training cases it sees, or ``all``.
        plans: plans identifier.
        preset: size of the networks; None takes the default, or that of ``init``.
        length: times the steps of the preset, or of the initial model; None takes 1, or 0.25 with ``init``.
        init: folder or name of a model to start from.
        mapping: own channel or label -> that of the initial model, where their names differ.
        cases: ids of training cases of the fold; None takes all of them.
        groups: JSON file, case id -> patient; it is remembered.
        seed: seed of initialisation and training order.
    """

    dataset: int | str
    fold: Fold
    plans: str = DEFAULT_PLANS
    preset: str | None = None
    length: float | None = None
    init: str | Path | None = None
    mapping: Mapping[str, str] = field(default_factory=dict)
    cases: Sequence[str] | None = None
    groups: str | Path | None = None
    seed: int = 0


def train_model(settings: TrainingSettings, device: str) -> tuple[Path, bool]:
    """Train a model, or go on where an interrupted training stopped.

    Args:
        settings: what is trained on what.
        device: ``cpu``, ``cuda`` or ``mps``.

    Returns:
        Its folder, and whether it was trained by this call rather than before.

    Raises:
        UserError: unknown dataset, fold, cases, preset or model; a leak; or another model in the way.
    """
    dataset, fold = open_dataset(str(settings.dataset), settings.plans), parse_fold(str(settings.fold))
    case_ids, val = fold_cases(dataset, fold)
    if settings.groups is not None:
        remember_groups(dataset, Path(settings.groups))
    case_ids = without_patients_of_val(case_ids, val, remembered_groups(dataset.preprocessed))
    if settings.cases is not None:
        case_ids = _chosen_cases(settings.cases, case_ids, fold)
    case_ids = _without_copies(dataset, case_ids, val)
    initial = _initial(settings, dataset, fold, val)
    preset = _preset(settings, initial)
    request = TrainingRequest(dataset, fold, preset, case_ids, settings.seed, initial)
    is_new = not is_complete(request.folder)
    return train_generator(request, device), is_new


def _preset(settings: TrainingSettings, initial: InitialModel | None) -> Preset:
    if initial:
        return initial.preset(settings.length) if settings.length else initial.preset()
    name = settings.preset or DEFAULT_PRESET
    if name not in PRESETS:
        raise UserError(f"preset takes {', '.join(PRESETS)}; got {name!r}.")
    return lengthened(PRESETS[name], settings.length or 1)


def _without_copies(dataset: NnunetDataset, case_ids: Sequence[str], val: Sequence[str]) -> list[str]:
    """Those training cases that are no copies of validation cases, which the fold rule would refuse later."""
    copies = find_copies(fingerprints_of(dataset, case_ids).values(), fingerprints_of(dataset, val).values())
    if copies:
        named = ", ".join(list(copies.values())[:MAX_CASES_NAMED])
        message = f"left out of training, {len(copies)} in all, as copies of validation cases: {named}"
        warnings.warn(message, SBLDMWarning, stacklevel=2)
    return [c for c in case_ids if c not in copies]


def _initial(settings: TrainingSettings, dataset: NnunetDataset, fold: Fold, val: Sequence[str]) -> InitialModel | None:
    """What training starts from, checked against the fold; None for a start from scratch."""
    if settings.init is None:
        if settings.mapping:
            raise UserError("-map goes with -init.")
        return None
    if settings.preset:
        raise UserError("-preset and -init exclude each other: a fine-tuned SBLDM has the size of its initial one.")
    folder = find_model(settings.init)
    model = load_model(folder)
    model = replace(model, seen=with_remembered_groups(model.seen, dataset))
    initial = InitialModel(model, name_of(folder), dict(settings.mapping), read_card(folder).whole_licence)
    initial.refuse_leaks(list(fingerprints_of(dataset, val).values()), fold)
    return initial


def _chosen_cases(cases: Sequence[str], allowed: Sequence[str], fold: Fold) -> list[str]:
    chosen = sorted(set(cases))
    unknown = [c for c in chosen if c not in set(allowed)]
    if unknown:
        raise UserError(
            f"-cases names {', '.join(unknown[:10])}, which {'is' if len(unknown) == 1 else 'are'} not among the "
            f"real training cases of fold {fold}."
        )
    return chosen
