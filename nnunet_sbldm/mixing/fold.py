"""One fold as nnU-Net's trainer knows it: its plans, its files, its split, and what must not be in that split."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.paths import nnUNet_raw
from nnunetv2.utilities.crossval_split import generate_crossval_split
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from nnunet_sbldm.common.files import read_json, write_json
from nnunet_sbldm.common.text import named
from nnunet_sbldm.data.dataset import NnunetDataset
from nnunet_sbldm.data.fingerprints import fingerprints_of, remembered_fingerprints
from nnunet_sbldm.data.folds import CaseFingerprint, find_leaks, guard_split, with_groups
from nnunet_sbldm.data.paths import DEFAULT_CONFIGURATION, DEFAULT_PLANS, Fold, number_of, undo_command
from nnunet_sbldm.data.splits import NUM_CROSS_VALIDATION_FOLDS
from nnunet_sbldm.expansion.places import expansion_folder
from nnunet_sbldm.generator.records import SyntheticIndex
from nnunet_sbldm.types import UserError

Log = Callable[[str], None]
Split = tuple[list[str], list[str]]


@dataclass(frozen=True)
class TrainingFold:
    """One fold of a preprocessed dataset, as nnU-Net's trainer knows it.

    Attributes:
        preprocessed: the dataset's folder below ``nnUNet_preprocessed``.
        fold: fold number, or ``"all"``.
        plans: nnU-Net's plans.
        config: the resolved configuration.
        dataset_json: content of the preprocessed ``dataset.json``.
    """

    preprocessed: Path
    fold: Fold
    plans: PlansManager = field(repr=False)
    config: ConfigurationManager = field(repr=False)
    dataset_json: dict[str, Any] = field(repr=False)

    @cached_property
    def expansion(self) -> dict[str, tuple[CaseFingerprint, ...]]:
        """For each synthetic id of an expanded dataset what its generator has seen; empty for an ordinary dataset."""
        index = SyntheticIndex.load(expansion_folder(self.preprocessed))
        seen = index.seen_by() if index is not None else {}
        unknown = [c for c in self.dataset_json.get("sbldm", {}).get("synthetic_cases", ()) if c not in seen]
        if unknown and self._source == self.preprocessed.name:
            raise UserError(f"The in-place expansion of {self.preprocessed.name} is not finished: run the same command again, or "
                            f"{undo_command(self.preprocessed.name)}.")
        if unknown:
            raise UserError(f"{expansion_folder(self.preprocessed)} does not say what the generators of {named(unknown)} have "
                            f"seen, so the fold rule cannot be checked: {self.expand_again}.")
        return seen

    @property
    def configuration(self) -> str:
        """Name of the configuration that nnU-Net preprocessed the cases with."""
        plans, identifier = self.plans, self.config.data_identifier
        return next(c for c in plans.available_configurations if plans.get_configuration(c).data_identifier == identifier)

    @property
    def splits_file(self) -> Path:
        """nnU-Net's cross-validation splits."""
        return self.preprocessed / "splits_final.json"

    @property
    def expand_command(self) -> str:
        """The command that fills this fold's pool; an expanded dataset takes no more folds and is made anew."""
        plans, configuration = self.plans.plans_name, self.configuration
        options = "" if plans == DEFAULT_PLANS else f" -p {plans}"
        options += "" if configuration == DEFAULT_CONFIGURATION else f" -c {configuration}"
        wanted = f"-f {self.fold} -ratio 1.0{options}"
        if self._source is None:
            return f"run sbldm_expand_dataset {self._destination} {wanted}"
        if self._source != self.preprocessed.name:
            return f"run sbldm_expand_dataset -d {number_of(self._source)} -o ID {wanted} with an ID that is free"
        again = f"sbldm_expand_dataset {self._destination} {wanted} with all other folds you train after -f"
        return f"run {undo_command(self._source)}, then {again}"

    @property
    def expand_again(self) -> str:
        """The same where it was run before: with other options it would make other cases."""
        return f"run sbldm_expand_dataset {self._destination} again, with the options that it was run with"

    @property
    def _source(self) -> str | None:
        """Name of the dataset that was expanded, this one or another; None if this is an ordinary dataset."""
        source: str | None = self.dataset_json.get("sbldm", {}).get("source_dataset")
        return source

    @property
    def _destination(self) -> str:
        name, source = self.preprocessed.name, self._source
        destination = "--pool" if source is None else "--in_place" if source == name else f"-o {number_of(name)}"
        return f"-d {number_of(source or name)} {destination}"

    def fingerprints(self, case_ids: Iterable[str]) -> dict[str, CaseFingerprint]:
        """Content of real cases: from their raw files where these exist, else as an earlier command stored it."""
        remembered = remembered_fingerprints(self.preprocessed)
        name = self.preprocessed.name
        if not nnUNet_raw.is_set() or not (Path(nnUNet_raw.get()) / name / "dataset.json").is_file():
            return remembered
        raw = Path(nnUNet_raw.get()) / name
        dataset = NnunetDataset(name, raw, self.preprocessed, read_json(raw / "dataset.json"), self.plans.plans_name)
        return remembered | fingerprints_of(dataset, [c for c in case_ids if _has_raw_files(dataset, c)])


def _has_raw_files(dataset: NnunetDataset, case_id: str) -> bool:
    files = dataset.case_files.get(case_id)
    return files is not None and all(Path(f).is_file() for f in [*files["images"], files["label"]])


def split_expanded(fold: TrainingFold, case_ids: Sequence[str], stock_split: Callable[[], Split], log: Log) -> Split:
    """Split an expanded dataset as nnU-Net would split its real cases; synthetic cases never validate.

    Args:
        fold: the fold; its dataset is an expanded one.
        case_ids: every preprocessed case, real and synthetic.
        stock_split: nnU-Net's own ``do_split``.
        log: where to say what was done.

    Raises:
        UserError: a synthetic case in ``train`` comes from a generator that has seen a case of ``val``.
    """
    real = [c for c in case_ids if c not in fold.expansion]
    if isinstance(fold.fold, int):
        if not fold.splits_file.is_file():
            _write_real_splits(fold, real, log)
        if fold.fold >= len(read_json(fold.splits_file)):
            return _split_past_the_end(fold, real, log)
    train, val = stock_split()
    held_out = {} if fold.fold == "all" else fold.fingerprints(c for c in val if c not in fold.expansion)
    return guard_split(train, val, fold.expansion, held_out, fold.fold)


def _write_real_splits(fold: TrainingFold, real: Sequence[str], log: Log) -> None:
    """Stock nnU-Net would deal the synthetic cases into ``val`` here."""
    splits = generate_crossval_split(sorted(real), seed=12345, n_splits=NUM_CROSS_VALIDATION_FOLDS)
    write_json(fold.splits_file, [{k: [str(c) for c in v] for k, v in s.items()} for s in splits])
    log(f"splits_final.json was missing: made it anew over the {len(real)} real cases alone.")


def _split_past_the_end(fold: TrainingFold, real: Sequence[str], log: Log) -> Split:
    """nnU-Net's random 80:20 split, over real cases, with those synthetic cases that have not seen its ``val``."""
    assert isinstance(fold.fold, int)
    keys = sorted(real)
    chosen = np.random.RandomState(seed=12345 + fold.fold).choice(len(keys), int(len(keys) * 0.8), replace=False)
    train, val = [keys[i] for i in chosen], [c for i, c in enumerate(keys) if i not in set(chosen)]
    content = fold.fingerprints(val)
    held_out = [content.get(c, CaseFingerprint(c)) for c in val]
    groups = {c: f.group for c, f in content.items()}
    generators = {id(seen): seen for seen in fold.expansion.values()}
    leaking = {g for g, seen in generators.items() if find_leaks(with_groups(seen, groups), held_out)}
    allowed = [c for c, seen in fold.expansion.items() if id(seen) not in leaking]
    log(f"Fold {fold.fold} is not in splits_final.json: random 80:20 split of the real cases, {len(train)} for training and "
        f"{len(val)} for validation. {len(allowed)} synthetic cases train with them; {len(fold.expansion) - len(allowed)} are "
        "left out, because their generators have seen a validation case.")
    return guard_split(train + allowed, val, fold.expansion, content, fold.fold)


@dataclass(frozen=True)
class TrainingRun:
    """A training that is about to start.

    Attributes:
        fold: the fold.
        train: its training cases, already guarded; in an expanded dataset real and synthetic ones.
        val: its validation cases, all of them real.
        output_folder: results folder of the fold.
        device: device of the training.
        local_rank: rank of this process among those of the training; 0 if it is the only one.
        log: where to say what was done.
        first_epoch: epoch that it starts with; more than 0 if it continues an earlier one.
    """

    fold: TrainingFold
    train: tuple[str, ...]
    val: tuple[str, ...]
    output_folder: Path
    device: torch.device
    local_rank: int
    log: Log
    first_epoch: int = 0

    @property
    def real_train(self) -> list[str]:
        """The real cases among the training cases."""
        return [c for c in self.train if c not in self.fold.expansion]
