"""Case number n of the endless sequence that a seed defines: sampled, judged, and written as nnU-Net preprocesses it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from nnunet_sbldm.common.devices import best_precision, limit_gpu_memory
from nnunet_sbldm.common.seeds import case_seed
from nnunet_sbldm.data.cases import preprocess_case
from nnunet_sbldm.data.dataset import NnunetDataset
from nnunet_sbldm.editing.choices import EditSettings
from nnunet_sbldm.expansion.ledger import ExpansionJob, ProductionSettings, Tally
from nnunet_sbldm.expansion.production import commonest_reasons, is_unfit, judged_draws, reference_of
from nnunet_sbldm.generator.checkpoint import load_model
from nnunet_sbldm.generator.records import SyntheticRecord
from nnunet_sbldm.generator.requests import Request, case_id_of
from nnunet_sbldm.ldm.config import EDIT_SAMPLER, SamplerConfig
from nnunet_sbldm.types import Case, UnfitGeneratorError, UserError

if TYPE_CHECKING:
    from nnunet_sbldm.mixing.on_the_fly.job import GeneratorJob

class OnlineSampler:
    """Makes the cases of a sequence: number n is the same case whoever makes it, and whenever."""

    def __init__(self, job: GeneratorJob) -> None:
        """Load and check what the job names.

        Raises:
            UserError: the generator or the plans are no longer those that the training started with; no memory.
        """
        torch.set_num_threads(job.num_threads)
        device = torch.device(job.device)
        limit_gpu_memory(device)
        folders = {k: Path(job.dataset[k]) for k in ("raw", "preprocessed")}
        self._view = NnunetDataset(**{**job.dataset, **folders})
        model = load_model(Path(job.model), device)
        if (model.hash, self._view.plans_hash()) != (job.generator_hash, job.plans_hash):
            raise UserError(f"The SBLDM in {job.model} or the plans {self._view.plans_name} were changed during the training.")
        if not job.compare:
            model = replace(model, seen=())
        plan = model.plan
        real = replace(self._view, plans_name=plan.plans_name, configuration=plan.configuration) if job.compare else self._view
        editing = EditSettings(tuple(job.hosts)) if job.hosts else None
        self._production = ExpansionJob(job.fold, model, (), editing)
        self._reference, self._tally, self._seed = reference_of(self._production, real), Tally(), job.seed
        sampler = replace(EDIT_SAMPLER if editing else SamplerConfig(), precision=best_precision(device.type))
        self._settings = ProductionSettings(sampler, job.use_gate)

    def make(self, number: int) -> tuple[Case | None, SyntheticRecord]:
        """Draw case ``number`` until the gate accepts it; None if it does not, with the record of the last attempt."""
        fold, model = self._production.fold, self._production.model
        request = Request(case_id_of(fold, number), case_seed(self._seed, fold, number), {})
        *_, (drawn, record) = judged_draws(self._production, [request], self._reference, self._settings, self._tally)
        return (None if drawn is None or record.gate.get("reasons") else drawn.case(model)), record

    def writer(self, case: Case, record: SyntheticRecord) -> Callable[[Path], None]:
        """A function that writes the case into a folder: preprocessed by nnU-Net, with its record."""

        def write(folder: Path) -> None:
            preprocess_case(self._view, case, folder / case.case_id)
            record.save(folder)

        return write

    def refuse_unfit(self) -> None:
        """Raise :class:`UnfitGeneratorError` if the gate rejects most of what the generator makes."""
        if is_unfit(self._tally):
            num_decided = self._tally.accepted + self._tally.rejected
            raise UnfitGeneratorError(
                f"the quality gate gave up {self._tally.rejected} of {num_decided} cases of the SBLDM in "
                f"{self._production.model.folder}, most often for {commonest_reasons(self._tally)}; train it longer or on "
                "more cases"
            )
