"""Synthetic cases for any nnU-Net trainer.

A trainer of your own, in a folder that ``nnUNet_extTrainer`` names::

    from nnunet_sbldm.mixing.mixin import SBLDMMixin
    from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerDA5 import nnUNetTrainerDA5

    class nnUNetTrainerMine(SBLDMMixin, nnUNetTrainerDA5): pass
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import cached_property, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from torch import Tensor

from nnunet_sbldm import __version__
from nnunet_sbldm.common.files import write_json
from nnunet_sbldm.common.threads import usable_threads
from nnunet_sbldm.mixing.audit import DrawAudit, append_to_audit_file, start_audit_file
from nnunet_sbldm.mixing.dataset import MixedDataset, SyntheticSource
from nnunet_sbldm.mixing.fold import TrainingFold, TrainingRun, split_expanded
from nnunet_sbldm.mixing.portable import make_portable
from nnunet_sbldm.mixing.settings import SETTINGS_NAME, MixingSettings
from nnunet_sbldm.mixing.sources import open_source
from nnunet_sbldm.types import UserError

DEFAULT_DEVICE = torch.device("cuda")
CHECKPOINTS = ("checkpoint_final.pth", "checkpoint_best.pth")

if TYPE_CHECKING:
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer as Base
else:
    Base = object


def in_bf16(forward: Callable[[Tensor], Tensor | list[Tensor]]) -> Callable[[Tensor], Tensor | list[Tensor]]:
    """A network's ``forward`` in mixed precision on a CPU; what it returns is float32, so that the loss is as well."""

    @wraps(forward)
    def mixed(data: Tensor) -> Tensor | list[Tensor]:
        with torch.autocast("cpu", torch.bfloat16):
            outputs = forward(data)
        return [o.float() for o in outputs] if isinstance(outputs, list | tuple) else outputs.float()

    return mixed


class SBLDMMixin(Base):
    """Mixes synthetic cases into the training draws of the nnU-Net trainer it is joined with; it stands first among the bases.

    Settings come from the ``sbldm`` block of the configuration (:class:`nnunet_sbldm.mixing.settings.MixingSettings`). Synthetic
    cases never validate. Only training looks for them: validation (``--val``) and prediction need neither pool nor generator.

    Attributes:
        sbldm_default_source: source where the settings name none; ``auto`` is the expanded dataset, else the pool.
        sbldm_settings: the settings; where they are bad the defaults, and training ends with the reason.
        sbldm_source: where synthetic cases come from, once training has started; None trains on real cases alone.
        sbldm_audit: what was drawn since the epoch began.
    """

    sbldm_default_source = "auto"

    def __init__(
        self, plans: dict[str, Any], configuration: str, fold: int | str, dataset_json: dict[str, Any],
        device: torch.device = DEFAULT_DEVICE,
    ) -> None:
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.sbldm_settings, self._refusal = self._read_settings()
        for name, value in self.sbldm_settings.overrides().items():
            setattr(self, name, value)
        self.sbldm_source: SyntheticSource | None = None
        self.sbldm_audit = DrawAudit((), ())
        self._mixed: MixedDataset | None = None
        self._has_trained = False

    def _read_settings(self) -> tuple[MixingSettings, UserError | None]:
        """The settings; the defaults, and why they stop the training, if the user has to change them."""
        try:
            block = self.configuration_manager.configuration
            return MixingSettings.from_configuration(block, self.sbldm_default_source), None
        except UserError as error:
            return MixingSettings(), error

    @cached_property
    def sbldm_fold(self) -> TrainingFold:
        """This fold, as the rest of the library sees it."""
        return TrainingFold(Path(self.preprocessed_dataset_folder_base), self.fold, self.plans_manager,
                            self.configuration_manager, self.dataset_json)

    @property
    def sbldm_share(self) -> float:
        """Share of synthetic cases asked among the draws of the current epoch."""
        return self.sbldm_settings.share_at(self.current_epoch, self.num_epochs)

    def initialize(self) -> None:
        """As nnU-Net; on a CPU in the precision that the settings ask for, and with no more threads than it has cores for.

        nnU-Net takes as many threads as the machine has cores. Where the process may use fewer of them, these threads wait for
        one another.
        """
        super().initialize()
        if self.device.type == "cpu":
            torch.set_num_threads(min(torch.get_num_threads(), usable_threads()))
            if self.sbldm_settings.cpu_precision == "bf16":
                self.network.forward = in_bf16(self.network.forward)

    # --- start and end ---------------------------------------------------------------------------------------------

    def run_training(self) -> None:
        """As nnU-Net; what the user has to change ends it with one sentence and exit code 2 instead of a traceback."""
        self._has_trained = True
        try:
            super().run_training()
        except UserError as error:
            self.print_to_log_file(error, also_print_to_console=False)
            print(error, file=sys.stderr)
            raise SystemExit(2) from error
        finally:
            if self.sbldm_source is not None:
                self.sbldm_source.stop()

    def on_train_start(self) -> None:
        """Find and check the synthetic cases before anything is built."""
        if self._refusal is not None:
            raise self._refusal
        is_finished = self.current_epoch >= self.num_epochs  # continued although there is nothing left to train
        if self.sbldm_settings.ratio > 0 and not is_finished:
            if self.sbldm_settings.source == "auto":
                self.sbldm_settings = replace(self.sbldm_settings, source="expanded" if self.sbldm_fold.expansion else "pool")
            train, val = self.do_split()
            run = TrainingRun(self.sbldm_fold, tuple(train), tuple(val), Path(self.output_folder), self.device, self.local_rank,
                              self.print_to_log_file, self.current_epoch)
            self.sbldm_source = open_source(run, self.sbldm_settings)
            if self.sbldm_source is not None:
                self.sbldm_source.start()
        super().on_train_start()
        if self.local_rank == 0 and not is_finished:
            start_audit_file(Path(self.output_folder), self.current_epoch)
            write_json(Path(self.output_folder) / SETTINGS_NAME, self._resolved_settings())

    def _resolved_settings(self) -> dict[str, Any]:
        trained = ("num_epochs", "num_iterations_per_epoch", "num_val_iterations_per_epoch")
        return {
            **asdict(self.sbldm_settings),
            **{name: getattr(self, name) for name in trained},
            "num_synthetic_cases": len(self.sbldm_source.identifiers) if self.sbldm_source else 0,
            "synthetic_cases": str(self.sbldm_source) if self.sbldm_source else None,
            "nnunet_sbldm": __version__,
        }

    def on_train_end(self) -> None:
        """As nnU-Net, then let stock nnU-Net predict with the checkpoints."""
        super().on_train_end()
        if self.local_rank == 0:
            for name in CHECKPOINTS:
                make_portable(Path(self.output_folder) / name, type(self))

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """As nnU-Net, unless the settings ask for none after training; ``--val`` validates in any case."""
        if self.sbldm_settings.final_validation or not self._has_trained:
            super().perform_actual_validation(save_probabilities)
        else:
            self.print_to_log_file("No validation: the settings of this configuration ask for none (final_validation).")

    # --- data ------------------------------------------------------------------------------------------------------

    def do_split(self) -> tuple[list[str], list[str]]:
        """The trainer's split; in an expanded dataset synthetic cases never validate and train only as the fold rule allows."""
        if not self.sbldm_fold.expansion:
            return super().do_split()
        folder = self.preprocessed_dataset_folder
        case_ids = infer_dataset_class(folder).get_identifiers(folder)
        return split_expanded(self.sbldm_fold, case_ids, super().do_split, self.print_to_log_file)

    def get_tr_and_val_datasets(self) -> tuple[MixedDataset, Any]:
        """The trainer's datasets, the one for training with synthetic cases mixed in."""
        real, validation = super().get_tr_and_val_datasets()
        real.identifiers = [c for c in real.identifiers if c not in self.sbldm_fold.expansion]
        self._mixed = MixedDataset(real, self.sbldm_source, self.sbldm_share)
        self.sbldm_audit = DrawAudit(real.identifiers, () if self.fold == "all" else validation.identifiers)
        self.print_to_log_file(f"sbldm: {self.sbldm_settings}; {len(real.identifiers)} real training cases, "
                               f"{self.sbldm_source or 'no synthetic ones'}")
        return self._mixed, validation

    # --- epochs ----------------------------------------------------------------------------------------------------

    def on_train_epoch_start(self) -> None:
        """As nnU-Net, with the share of this epoch."""
        if self._mixed is not None:
            self._mixed.set_ratio(self.sbldm_share)
        super().on_train_epoch_start()

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """As nnU-Net, counting what was drawn."""
        self.sbldm_audit.count(batch["keys"])
        return super().train_step(batch)

    def on_train_epoch_end(self, train_outputs: list[dict[str, Any]]) -> None:
        """As nnU-Net, then log the realised share of synthetic cases (in DDP that of the first process)."""
        super().on_train_epoch_end(train_outputs)
        record = self.sbldm_audit.close_epoch(self.current_epoch, self.sbldm_share)
        self.print_to_log_file(f"synthetic share of drawn cases: {record['share']:.4f} (asked {record['asked']:g})")
        report = self.sbldm_source.epoch_report() if self.sbldm_source is not None else {}
        if report:
            self.print_to_log_file("synthetic cases: " + ", ".join(f"{key}: {value}" for key, value in report.items()))
            record["source"] = report
        if self.local_rank == 0:
            append_to_audit_file(Path(self.output_folder), record)
