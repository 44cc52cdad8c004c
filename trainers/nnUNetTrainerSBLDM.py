"""nnU-Net's trainer, drawing a set share of its training cases from synthetic ones."""

from __future__ import annotations

import sys
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class, nnUNetDatasetBlosc2
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_sbldm import __version__
from nnunet_sbldm.files import write_json
from nnunet_sbldm.injection import SyntheticSource, TrainingFold, find_source, split_expanded
from nnunet_sbldm.mixing import DrawAudit, MixedDataset, MixingSettings, append_to_audit_file, start_audit_file
from nnunet_sbldm.types import UserError

SETTINGS_NAME = "sbldm_settings.json"
DEFAULT_DEVICE = torch.device("cuda")


class nnUNetTrainerSBLDM(nnUNetTrainer):  # noqa: N801  nnU-Net finds trainers by such names
    """nnU-Net's trainer with synthetic cases mixed into its training draws.

    Settings come from the ``sbldm`` block of the configuration (:class:`MixingSettings`). Synthetic cases come from the
    expanded dataset that is trained, else from the pool of this fold beside the dataset. They never validate.
    Only training looks for them: validation (``--val``) and prediction need neither pool nor generator.
    """

    def __init__(
        self, plans: dict[str, Any], configuration: str, fold: int | str, dataset_json: dict[str, Any],
        device: torch.device = DEFAULT_DEVICE,
    ) -> None:
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.sbldm_settings = MixingSettings.from_configuration(self.configuration_manager.configuration)
        for name, value in self.sbldm_settings.overrides().items():
            setattr(self, name, value)
        self.sbldm_source: SyntheticSource | None = None
        self.sbldm_audit = DrawAudit((), ())

    @cached_property
    def sbldm_fold(self) -> TrainingFold:
        """This fold, as the rest of the library sees it."""
        return TrainingFold(Path(self.preprocessed_dataset_folder_base), self.fold, self.plans_manager,
                            self.configuration_manager, self.dataset_json)

    def run_training(self) -> None:
        """As nnU-Net; what the user has to change ends it with one sentence and exit code 2 instead of a traceback."""
        try:
            super().run_training()
        except UserError as error:
            self.print_to_log_file(error, also_print_to_console=False)
            print(error, file=sys.stderr)
            raise SystemExit(2) from error

    def on_train_start(self) -> None:
        """Find and check the synthetic cases before anything is built."""
        if self.sbldm_settings.ratio > 0:
            self.sbldm_source = find_source(self.sbldm_fold, *self.do_split(), self.print_to_log_file)
        super().on_train_start()
        if self.local_rank == 0:
            start_audit_file(Path(self.output_folder), self.current_epoch)
            write_json(Path(self.output_folder) / SETTINGS_NAME, self._resolved_settings())

    def _resolved_settings(self) -> dict[str, Any]:
        names = ("num_epochs", "num_iterations_per_epoch", "num_val_iterations_per_epoch")
        return {
            "ratio": self.sbldm_settings.ratio,
            **{name: getattr(self, name) for name in names},
            "num_synthetic_cases": len(self.sbldm_source.case_ids) if self.sbldm_source else 0,
            "synthetic_cases_folder": str(self.sbldm_source.folder) if self.sbldm_source else None,
            "nnunet_sbldm": __version__,
        }

    def do_split(self) -> tuple[list[str], list[str]]:
        """nnU-Net's split; in an expanded dataset synthetic cases never validate, and train only where the fold rule allows."""
        if not self.sbldm_fold.expansion:
            return super().do_split()
        folder = self.preprocessed_dataset_folder
        case_ids = infer_dataset_class(folder).get_identifiers(folder)
        return split_expanded(self.sbldm_fold, case_ids, super().do_split, self.print_to_log_file)

    def get_tr_and_val_datasets(self) -> tuple[MixedDataset, Any]:
        """nnU-Net's datasets, the one for training with synthetic cases mixed in."""
        real, validation = super().get_tr_and_val_datasets()
        real.identifiers = [c for c in real.identifiers if c not in self.sbldm_fold.expansion]
        source = self.sbldm_source
        synthetic = nnUNetDatasetBlosc2(str(source.folder), list(source.case_ids)) if source else None
        train = MixedDataset(real, synthetic, self.sbldm_settings.ratio)
        self.sbldm_audit = DrawAudit(train.synthetic_ids, () if self.fold == "all" else validation.identifiers)
        origin = f" from {source.folder}" if source else ""
        self.print_to_log_file(f"sbldm: {self.sbldm_settings}; {len(real.identifiers)} real training cases, "
                               f"{len(train.synthetic_ids)} synthetic ones{origin}")
        return train, validation

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """As nnU-Net, counting what was drawn."""
        self.sbldm_audit.count(batch["keys"])
        return super().train_step(batch)

    def on_train_epoch_end(self, train_outputs: list[dict[str, Any]]) -> None:
        """As nnU-Net, then log the realised share of synthetic cases (in DDP that of the first process)."""
        super().on_train_epoch_end(train_outputs)
        record = self.sbldm_audit.close_epoch(self.current_epoch, self.sbldm_settings.ratio)
        self.print_to_log_file(f"synthetic share of drawn cases: {record['share']:.4f} (asked {record['asked']:g})")
        if self.local_rank == 0:
            append_to_audit_file(Path(self.output_folder), record)
