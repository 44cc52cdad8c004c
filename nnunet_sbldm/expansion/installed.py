"""What an expansion has installed: its index, its splits, its ground truth; the same for all destinations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nnunet_sbldm.common.files import copy_file
from nnunet_sbldm.data.dataset import NnunetDataset
from nnunet_sbldm.data.folds import CaseFingerprint
from nnunet_sbldm.data.paths import Fold
from nnunet_sbldm.data.splits import splits_of
from nnunet_sbldm.expansion.destinations import RawDestination
from nnunet_sbldm.generator.records import SyntheticIndex

Installed = Mapping[Fold, tuple[Sequence[str], str, Sequence[CaseFingerprint]]]
"""For each fold: ids of its accepted cases, hash of their generator, the real cases that generator has seen."""


def index_of(plans_hash: str, installed: Installed) -> SyntheticIndex:
    """The index of what is installed, for a folder whose cases were preprocessed with plans of that hash."""
    index = SyntheticIndex(plans_hash)
    for case_ids, generator_hash, seen in installed.values():
        index.add(case_ids, generator_hash, seen)
    return index


def expanded_splits(dataset: NnunetDataset, installed: Installed) -> list[dict[str, list[str]]]:
    """The splits of the real dataset, with every synthetic case in ``train`` of its own fold."""
    splits = splits_of(dataset)
    for fold, (case_ids, _, _) in installed.items():
        if fold != "all":
            splits[int(fold)]["train"] += case_ids
    return splits


def copy_ground_truth(destination: RawDestination, case_ids: Sequence[str]) -> None:
    """Copy label maps to where nnU-Net looks for the ground truth."""
    for case_id in case_ids:
        label = destination.label_file(case_id)
        copy_file(label, destination.preprocessed / "gt_segmentations" / label.name)
