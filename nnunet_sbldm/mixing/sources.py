"""Which synthetic cases a fold's training may draw, and the split it trains and validates on.

Everything that could leak, or stop the training hours later, is refused here before the training starts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.paths import nnUNet_raw
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from nnunetv2.utilities.crossval_split import generate_crossval_split
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from nnunet_sbldm.common.files import read_json, write_json
from nnunet_sbldm.data.dataset import (
    DEFAULT_CONFIGURATION,
    DEFAULT_PLANS,
    NUM_CROSS_VALIDATION_FOLDS,
    PREPROCESSED_ENDINGS,
    Fold,
    NnunetDataset,
    fingerprints_of,
    preprocessing_hash,
    remembered_fingerprints,
)
from nnunet_sbldm.data.folds import CaseFingerprint, find_leaks, guard_split, with_groups
from nnunet_sbldm.expansion.in_place import undo_command
from nnunet_sbldm.expansion.places import expansion_folder, pool_cases_folder, pool_folder
from nnunet_sbldm.generator.records import SyntheticIndex
from nnunet_sbldm.mixing.copy_paste import CopyPasteSource
from nnunet_sbldm.mixing.dataset import SyntheticSource
from nnunet_sbldm.mixing.folder_source import FolderSource
from nnunet_sbldm.mixing.settings import MixingSettings
from nnunet_sbldm.types import UserError

MAX_CASES_NAMED = 10

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
            raise UserError(f"{expansion_folder(self.preprocessed)} does not say what the generators of {_named(unknown)} have "
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
            return f"run sbldm_expand_dataset {self._door} {wanted}"
        if self._source != self.preprocessed.name:
            return f"run sbldm_expand_dataset -d {int(self._source[7:10])} -o ID {wanted} with an ID that is free"
        again = f"sbldm_expand_dataset {self._door} {wanted} with all other folds you train after -f"
        return f"run {undo_command(self._source)}, then {again}"

    @property
    def expand_again(self) -> str:
        """The same where it was run before: with other options it would make other cases."""
        return f"run sbldm_expand_dataset {self._door} again, with the options that it was run with"

    @property
    def _source(self) -> str | None:
        """Name of the dataset that was expanded, this one or another; None if this is an ordinary dataset."""
        source: str | None = self.dataset_json.get("sbldm", {}).get("source_dataset")
        return source

    @property
    def _door(self) -> str:
        name, source = self.preprocessed.name, self._source
        door = "--pool" if source is None else "--in_place" if source == name else f"-o {int(name[7:10])}"
        return f"-d {int((source or name)[7:10])} {door}"

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


# --- splits --------------------------------------------------------------------------------------------------------


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


# --- where synthetic cases come from -------------------------------------------------------------------------------


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


def open_source(run: TrainingRun, settings: MixingSettings) -> SyntheticSource | None:
    """Check and open the source of synthetic cases that the settings name.

    Args:
        run: the training.
        settings: its settings; their source is not ``auto`` any more.

    Returns:
        The source; None for an expanded dataset whose splits list no synthetic case at all.

    Raises:
        UserError: second stage of a cascade; a case in ``train`` and ``val``; no synthetic cases for this fold; a pool of other
            plans, with missing or unreadable files, or from a generator that has seen a case of ``val``; all that the source
            refuses.
    """
    fold = run.fold
    if fold.config.previous_stage_name is not None:
        raise UserError("The second stage of a cascade needs predictions of the first stage for every training case, and "
                        "synthetic cases have none: train it with nnUNetTrainer, or with ratio 0.")
    twice = sorted({*run.train} & {*run.val}) if fold.fold != "all" else []
    if twice:
        raise UserError(f"Fold {fold.fold} lists {len(twice)} case(s) both in train and in val ({_named(twice)}), and what is "
                        f"made of them would leak into training: repair {fold.splits_file}.")
    if settings.source == "on_the_fly":
        from nnunet_sbldm.mixing.on_the_fly.source import open_on_the_fly  # the generator's libraries load for those who use it

        return open_on_the_fly(run, settings)
    if settings.source == "copy_paste":
        return _copy_paste_source(run)
    return _expansion_source(run) if settings.source == "expanded" else _pool_source(run)


def _copy_paste_source(run: TrainingRun) -> SyntheticSource:
    fold = run.fold
    folder = str(fold.preprocessed / fold.config.data_identifier)
    real = infer_dataset_class(folder)(folder, run.real_train)
    spacing_mm = fold.config.spacing
    if len(spacing_mm) == 2:  # a 2d configuration leaves the slices where they are
        spacing_mm = [fold.plans.original_median_spacing_after_transp[0], *spacing_mm]
    return CopyPasteSource(real, spacing_mm, fold.plans.get_label_manager(fold.dataset_json).ignore_label)


def _expansion_source(run: TrainingRun) -> SyntheticSource | None:
    fold = run.fold
    if not fold.expansion:
        raise UserError(f"{fold.preprocessed.name} is no expanded dataset, but source is expanded: {fold.expand_command} and "
                        "set source to pool, or train on the dataset that sbldm_expand_dataset -o writes.")
    synthetic = [c for c in run.train if c in fold.expansion]
    if synthetic:
        return _complete_source(fold, fold.preprocessed / fold.config.data_identifier, synthetic)
    if isinstance(fold.fold, int) and not any(c in fold.expansion for s in read_json(fold.splits_file) for c in s["train"]):
        run.log("WARNING: splits_final.json lists no synthetic case in any fold: training on real cases alone; "
                f"{fold.expand_again}, to list them again.")
        return None
    raise UserError(f"Fold {fold.fold} of {fold.preprocessed.name} has no synthetic case that may be trained on: "
                    f"{fold.expand_command}, or train on real cases with ratio 0 (sbldm_configure).")


def _pool_source(run: TrainingRun) -> SyntheticSource:
    fold = run.fold
    place = (fold.preprocessed, fold.config.data_identifier, fold.fold)
    index = SyntheticIndex.load(pool_folder(*place))
    if index is None or not index.cases:
        raise UserError(f"Fold {fold.fold} of {fold.preprocessed.name} has no pool of synthetic cases ({pool_folder(*place)}): "
                        f"{fold.expand_command}, or train on real cases with ratio 0 (sbldm_configure).")
    if index.plans_hash != preprocessing_hash(fold.plans, fold.config):
        raise UserError(f"The pool {pool_folder(*place)} was preprocessed with other plans than {fold.plans.plans_name} has now: "
                        f"{fold.expand_again}.")
    content = {} if fold.fold == "all" else fold.fingerprints(run.val)
    guard_split([*run.train, *index.cases], run.val, index.seen_by(), content, fold.fold)
    return _complete_source(fold, pool_cases_folder(*place), list(index.cases))


def _complete_source(fold: TrainingFold, folder: Path, case_ids: Sequence[str]) -> SyntheticSource:
    missing = [c for c in case_ids if not all((folder / f"{c}{e}").is_file() for e in PREPROCESSED_ENDINGS)]
    if missing:
        raise UserError(f"{folder} lacks preprocessed files of {len(missing)} synthetic case(s) ({_named(missing)}): "
                        f"{fold.expand_again}, to complete it.")
    source = FolderSource(folder, case_ids, fold.expand_again)
    source.refuse_unreadable()
    return source


def _named(case_ids: Sequence[str]) -> str:
    more = f" and {len(case_ids) - MAX_CASES_NAMED} more" if len(case_ids) > MAX_CASES_NAMED else ""
    return ", ".join(case_ids[:MAX_CASES_NAMED]) + more
