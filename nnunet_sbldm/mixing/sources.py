"""Where the synthetic cases of a training come from; what could stop it hours later is refused before it starts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class

from nnunet_sbldm.common.files import read_json
from nnunet_sbldm.common.text import named
from nnunet_sbldm.data.cases import PREPROCESSED_ENDINGS
from nnunet_sbldm.data.dataset import preprocessing_hash
from nnunet_sbldm.data.folds import guard_split
from nnunet_sbldm.expansion.places import pool_cases_folder, pool_folder
from nnunet_sbldm.generator.records import SyntheticIndex
from nnunet_sbldm.mixing.copy_paste import CopyPasteSource
from nnunet_sbldm.mixing.dataset import SyntheticSource
from nnunet_sbldm.mixing.fold import TrainingFold, TrainingRun
from nnunet_sbldm.mixing.folder_source import FolderSource
from nnunet_sbldm.mixing.settings import MixingSettings
from nnunet_sbldm.types import UserError


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
        raise UserError(f"Fold {fold.fold} lists {len(twice)} case(s) both in train and in val ({named(twice)}), and what is "
                        f"made of them would leak into training: repair {fold.splits_file}.")
    if settings.source == "on_the_fly":
        from nnunet_sbldm.mixing.on_the_fly.opening import open_on_the_fly  # the generator's libraries load for those who use it

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
        raise UserError(f"{folder} lacks preprocessed files of {len(missing)} synthetic case(s) ({named(missing)}): "
                        f"{fold.expand_again}, to complete it.")
    source = FolderSource(folder, case_ids, fold.expand_again)
    source.refuse_unreadable()
    return source
