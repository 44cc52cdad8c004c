"""The cross-validation splits of a dataset, as nnU-Net deals them, over real cases alone."""

from __future__ import annotations

from nnunetv2.utilities.crossval_split import generate_crossval_split

from nnunet_sbldm.common.files import read_json, write_json
from nnunet_sbldm.data.dataset import NnunetDataset
from nnunet_sbldm.data.paths import Fold
from nnunet_sbldm.types import UserError

NUM_CROSS_VALIDATION_FOLDS = 5


def splits_of(dataset: NnunetDataset) -> list[dict[str, list[str]]]:
    """The cross-validation splits over real cases; made and kept exactly as nnU-Net would if there are none yet."""
    path = dataset.preprocessed / "splits_final.json"
    if not path.is_file():
        ids = dataset.real_case_ids
        if len(ids) < NUM_CROSS_VALIDATION_FOLDS:
            raise UserError(
                f"{dataset.name} has {len(ids)} case(s) and no splits_final.json: "
                f"nnU-Net needs at least {NUM_CROSS_VALIDATION_FOLDS} cases to make its splits."
            )
        splits = generate_crossval_split(ids, seed=12345, n_splits=NUM_CROSS_VALIDATION_FOLDS)
        write_json(path, [{k: [str(c) for c in v] for k, v in s.items()} for s in splits])
    real, splits = set(dataset.real_case_ids), read_json(path)
    try:
        return [{k: [c for c in s[k] if c in real] for k in ("train", "val")} for s in splits]
    except (TypeError, KeyError):
        raise UserError(f"{path} is no list of splits, each with the case ids of train and of val; correct it.") from None


def fold_cases(dataset: NnunetDataset, fold: Fold) -> tuple[list[str], list[str]]:
    """Real training and validation cases of a fold; for ``"all"`` every case trains and none validates."""
    if fold == "all":
        return list(dataset.real_case_ids), []
    splits = splits_of(dataset)
    if not isinstance(fold, int) or fold >= len(splits):
        raise UserError(f"Fold {fold} is not in splits_final.json of {dataset.name}, which has folds 0 to {len(splits) - 1}.")
    return splits[fold]["train"], splits[fold]["val"]
