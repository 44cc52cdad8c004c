"""The cross-validation splits of a dataset, as nnU-Net deals them, over real cases alone."""

from __future__ import annotations

from typing import Any

from nnunetv2.utilities.crossval_split import generate_crossval_split

from nnunet_sbldm.common.files import read_json
from nnunet_sbldm.common.text import named
from nnunet_sbldm.data.cases import is_preprocessed, refuse_not_preprocessed
from nnunet_sbldm.data.dataset import NnunetDataset
from nnunet_sbldm.data.fingerprints import known_case_ids
from nnunet_sbldm.data.paths import Fold
from nnunet_sbldm.types import UserError

NUM_CROSS_VALIDATION_FOLDS = 5
SPLITS = "splits_final.json"

Splits = list[dict[str, list[str]]]
"""For every fold the ids of its ``train`` and ``val`` cases."""


def splits_of(dataset: NnunetDataset) -> Splits:
    """The cross-validation splits over real cases; where nnU-Net has made none yet, those that it will make.

    Nothing is written: the first training makes nnU-Net's own file.

    Raises:
        UserError: too few cases, a file that is no list of splits, or ids that no case has.
    """
    path = dataset.preprocessed / SPLITS
    if not path.is_file():
        return dealt(dataset)
    splits = read_json(path)
    try:
        listed = [{k: [str(c) for c in s[k]] for k in ("train", "val")} for s in splits]
    except (TypeError, KeyError):
        raise UserError(f"{path} is no list of splits, each with the case ids of train and of val; correct it.") from None
    _refuse_unknown(dataset, listed)
    real = set(dataset.real_case_ids)
    return [{k: [c for c in ids if c in real] for k, ids in s.items()} for s in listed]


def dealt(dataset: NnunetDataset) -> Splits:
    """The splits that nnU-Net deals: over the cases that it has preprocessed, whatever the raw folder holds besides.

    Raises:
        UserError: too few cases.
    """
    ids = preprocessed_case_ids(dataset)
    if not ids:
        refuse_not_preprocessed(dataset, dataset.real_case_ids)
    if len(ids) < NUM_CROSS_VALIDATION_FOLDS:
        raise UserError(
            f"{dataset.name} has {len(ids)} preprocessed case(s) and no {SPLITS}: nnU-Net needs at least "
            f"{NUM_CROSS_VALIDATION_FOLDS} cases to make its splits."
        )
    splits: list[dict[str, Any]] = generate_crossval_split(ids, seed=12345, n_splits=NUM_CROSS_VALIDATION_FOLDS)
    return [{k: [str(c) for c in v] for k, v in s.items()} for s in splits]


def preprocessed_case_ids(dataset: NnunetDataset) -> list[str]:
    """Sorted ids of the real cases that nnU-Net has preprocessed for this configuration."""
    return [c for c in dataset.real_case_ids if is_preprocessed(dataset, c)]


def _refuse_unknown(dataset: NnunetDataset, splits: Splits) -> None:
    synthetic = dataset.dataset_json.get("sbldm", {}).get("synthetic_cases", ())
    known = {*known_case_ids(dataset), *synthetic}
    unknown = sorted({c for split in splits for ids in split.values() for c in ids} - known)
    if unknown:
        raise UserError(
            f"{dataset.preprocessed / SPLITS} lists {len(unknown)} case(s) that {dataset.name} does not have ({named(unknown)}): "
            "write ids as nnU-Net does, without channel number and file ending."
        )


def fold_cases(dataset: NnunetDataset, fold: Fold) -> tuple[list[str], list[str]]:
    """Real training and validation cases of a fold; for ``"all"`` every preprocessed case trains and none validates.

    Raises:
        UserError: there is no such fold; see :func:`splits_of` for the others.
    """
    if fold == "all":
        return preprocessed_case_ids(dataset), []
    splits = splits_of(dataset)
    if not isinstance(fold, int) or fold >= len(splits):
        raise UserError(f"Fold {fold} is not in {SPLITS} of {dataset.name}, which has folds 0 to {len(splits) - 1}.")
    return splits[fold]["train"], splits[fold]["val"]
