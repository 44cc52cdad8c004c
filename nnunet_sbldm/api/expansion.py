"""Expanding a dataset: every check first, then the cases, in one of three places."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from nnunet_sbldm.api.settings import suited_sampler
from nnunet_sbldm.common.devices import chosen_device
from nnunet_sbldm.data.dataset import NnunetDataset, open_dataset
from nnunet_sbldm.data.groups import remember_groups
from nnunet_sbldm.data.paths import DEFAULT_CONFIGURATION, DEFAULT_PLANS, Fold, parse_fold
from nnunet_sbldm.data.splits import fold_cases
from nnunet_sbldm.editing.choices import EditSettings
from nnunet_sbldm.expansion.in_place import expand_in_place
from nnunet_sbldm.expansion.ledger import ExpansionJob, ProductionSettings
from nnunet_sbldm.expansion.new_dataset import expanded_name, write_dataset
from nnunet_sbldm.expansion.parts import Outcome
from nnunet_sbldm.expansion.pool import fill_pool
from nnunet_sbldm.expansion.prepare import plan_jobs
from nnunet_sbldm.generator.requests import ExpansionRequest, range_warnings
from nnunet_sbldm.ldm.config import EDIT_SAMPLER, SamplerConfig
from nnunet_sbldm.types import SBLDMWarning, UserError

POOL, IN_PLACE = "pool", "in_place"
ALL_FOLDS = (0, 1, 2, 3, 4)
FEW_CASES = 10
"""With fewer real training cases one is warned: with 5, synthetic cases lowered Dice (benchmarks/results/lgg_n5)."""


@dataclass(frozen=True)
class ExpansionSettings:
    """How a dataset is expanded.

    Attributes:
        plans: plans identifier.
        configurations: configurations to preprocess for.
        preset: preset of the folds' own models, where they have several.
        editing: edit hosts instead of making whole cases.
        sampler: solver, steps and guidance; None takes the default of whole cases, or of edits.
        device: ``cpu``, ``cuda`` or ``mps``; None takes a GPU if there is one.
        use_gate: judge every case; otherwise every case is accepted.
        max_attempts: draws per case before the gate gives it up.
        num_writers: processes that preprocess and compress; None takes 2 with a GPU, else 0.
        num_parts: parts that the work is split into.
        part_id: which part this is, from 0.
        groups: JSON file, case id -> patient; it is remembered.
    """

    plans: str = DEFAULT_PLANS
    configurations: tuple[str, ...] = (DEFAULT_CONFIGURATION,)
    preset: str | None = None
    editing: EditSettings | None = None
    sampler: SamplerConfig | None = None
    device: str | None = None
    use_gate: bool = True
    max_attempts: int = 4
    num_writers: int | None = None
    num_parts: int = 1
    part_id: int = 0
    groups: str | Path | None = None

    def production(self) -> ProductionSettings:
        """How the cases are made on this machine."""
        device = chosen_device(self.device)
        sampler = self.sampler or (EDIT_SAMPLER if self.editing else SamplerConfig())
        sampler = suited_sampler(sampler, device, EDIT_SAMPLER.batch_size if self.editing else None)
        num_writers = (2 if device == "cuda" else 0) if self.num_writers is None else self.num_writers
        return ProductionSettings(sampler, self.use_gate, self.max_attempts, num_writers, self.num_parts, self.part_id)


@dataclass(frozen=True)
class Expansion:
    """An expansion that is decided and checked, but not begun.

    Attributes:
        dataset: the real dataset.
        into: id of the new dataset, ``pool`` or ``in_place``.
        jobs: what to make for each fold, and the model that makes it.
        settings: how.
    """

    dataset: NnunetDataset
    into: int | str
    jobs: tuple[ExpansionJob, ...]
    settings: ExpansionSettings = field(default_factory=ExpansionSettings)

    def run(self) -> Outcome:
        """Make the cases; doing so again goes on where an interrupted run stopped."""
        dataset, jobs, production = self.dataset, self.jobs, self.settings.production()
        if self.into == POOL:
            return fill_pool(dataset, jobs, self.settings.configurations, production)
        if self.into == IN_PLACE:
            return expand_in_place(dataset, jobs, self.settings.configurations, production)
        return write_dataset(dataset, jobs, int(self.into), self.settings.configurations, production)


def expand(
    dataset: int | str,
    into: int | str,
    request: float | ExpansionRequest = 1.0,
    *,
    folds: Sequence[Fold] = ALL_FOLDS,
    model: str | Path | None = None,
    settings: ExpansionSettings | None = None,
) -> Outcome:
    """Add synthetic cases to a dataset; what ``sbldm_expand_dataset`` does.

    Args:
        dataset: id or name of a planned and preprocessed dataset.
        into: id of a new dataset, ``"pool"`` (what ``nnUNetTrainerSBLDM`` draws from), or ``"in_place"``.
        request: synthetic cases per real training case of a fold, or all that is asked.
        folds: folds to serve.
        model: folder or name of one model for all folds; None takes each fold's own.
        settings: everything else.

    Returns:
        Where the cases are, and how many there are per fold.

    Raises:
        UserError: a model that has seen a fold's validation cases, other channels or labels, a full disk, ...
        UnfitGeneratorError: the quality gate gives up more than half of the cases.

    Examples:
        >>> expand(505, 605, 0.5, folds=[0]).installed
        {0: 20}
    """
    return plan_expansion(dataset, into, request, folds=folds, model=model, settings=settings).run()


def plan_expansion(
    dataset: int | str,
    into: int | str,
    request: float | ExpansionRequest = 1.0,
    *,
    folds: Sequence[Fold] = ALL_FOLDS,
    model: str | Path | None = None,
    settings: ExpansionSettings | None = None,
) -> Expansion:
    """Decide and check an expansion without making a case; arguments as for :func:`expand`."""
    settings = settings or ExpansionSettings()
    if settings.part_id >= settings.num_parts:
        raise UserError(f"-part_id goes from 0 to {settings.num_parts - 1}; got {settings.part_id}.")
    opened = open_dataset(str(dataset), settings.plans)
    if settings.groups is not None:
        remember_groups(opened, Path(settings.groups))
    if into not in (POOL, IN_PLACE):
        expanded_name(opened, _new_id(into))
    wanted = request if isinstance(request, ExpansionRequest) else ExpansionRequest(ratio=request)
    jobs = plan_jobs(opened, [parse_fold(str(f)) for f in folds], wanted, model, settings.preset, settings.editing)
    for job in jobs:
        _warn(opened, job)
        job.model.to(torch.device(chosen_device(settings.device)))
    return Expansion(opened, into, tuple(jobs), settings)


def _new_id(into: int | str) -> int:
    if isinstance(into, int):
        return into
    raise UserError(f"A dataset is expanded into a new one, whose id is given, into {POOL!r}, or {IN_PLACE!r}; got {into!r}.")


def _warn(dataset: NnunetDataset, job: ExpansionJob) -> None:
    """Say what is unusual about a job: few real cases, or values outside the training range."""
    said = [f"fold {job.fold}: {w}" for w in range_warnings(job.model.plan, [r.asked for r in job.requests])]
    if (num_real := len(fold_cases(dataset, job.fold)[0])) < FEW_CASES:
        few = (f"fold {job.fold} has {num_real} real training cases; with 5, synthetic ones lowered Dice where it was measured: "
               "compare with real cases alone (sbldm_ablation).")
        said.insert(0, few)
    for message in said:
        warnings.warn(message, SBLDMWarning, stacklevel=4)
