"""The cases of an evaluation: real ones that the generator saw, real ones that it did not, and synthetic ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunet_sbldm.data.cases import load_arrays, load_preprocessed, preprocess_case
from nnunet_sbldm.data.dataset import NnunetDataset
from nnunet_sbldm.data.fingerprints import fingerprints_of
from nnunet_sbldm.data.folds import find_leaks, names_of
from nnunet_sbldm.data.groups import with_remembered_groups
from nnunet_sbldm.data.splits import fold_cases
from nnunet_sbldm.evaluation.case_set import CaseSet
from nnunet_sbldm.expansion.ledger import ExpansionJob, ProductionSettings, Tally
from nnunet_sbldm.expansion.production import commonest_reasons, judged_draws
from nnunet_sbldm.generator.checkpoint import SBLDMModel, refuse_mismatch
from nnunet_sbldm.generator.nearest import NearestRealCase
from nnunet_sbldm.generator.plan import GeneratorPlan
from nnunet_sbldm.generator.records import SyntheticRecord
from nnunet_sbldm.generator.requests import Request
from nnunet_sbldm.ldm.config import SamplerConfig
from nnunet_sbldm.types import UnfitGeneratorError, UserError

MIN_CASES = 2
MAX_CASES_NAMED = 20
MAX_ATTEMPTS = 4


# --- real cases ----------------------------------------------------------------------------------------------------


def evaluated_cases(model: SBLDMModel, dataset: NnunetDataset) -> tuple[list[str], list[str]]:
    """Ids of the real cases that the generator saw, and of the held-out cases of its fold.

    Raises:
        UserError: other dataset or preprocessing, fold without held-out cases, or one of them was seen in training.
    """
    plan = model.plan
    refuse_mismatch(model, dataset)
    if dataset.plans_hash() != plan.plans_hash:
        raise UserError(
            f"The SBLDM in {model.folder} was trained on {plan.dataset_name} as preprocessed by {plan.plans_name} at that "
            f"time; {dataset.name} with {dataset.plans_name} is preprocessed differently: train the SBLDM again."
        )
    held_out = _held_out_cases(model, dataset)
    training = names_of(model.seen, dataset.real_case_ids)
    if len(training) < MIN_CASES:
        raise UserError(f"{dataset.name} has {len(training)} of the {len(model.seen)} cases that the SBLDM was trained on.")
    return training, held_out


def _held_out_cases(model: SBLDMModel, dataset: NnunetDataset) -> list[str]:
    """The validation cases of the generator's fold, all of them unseen."""
    plan = model.plan
    _, held_out = fold_cases(dataset, plan.fold)
    if len(held_out) < MIN_CASES:
        raise UserError(
            f"Fold {plan.fold} of {dataset.name} holds out {len(held_out)} real case(s); an evaluation needs at least "
            f"{MIN_CASES} that the SBLDM never saw: evaluate one that was trained on a numbered fold."
        )
    seen = with_remembered_groups(model.seen, dataset)
    leaks = find_leaks(seen, fingerprints_of(dataset, held_out).values())
    if leaks:
        named = ", ".join(str(leak) for leak in leaks[:MAX_CASES_NAMED])
        raise UserError(
            f"The SBLDM in {model.folder} has seen {len(leaks)} of the held-out cases of fold {plan.fold}: {named}; "
            "held-out cases must be unseen, so train it again on this fold."
        )
    return held_out


@dataclass(frozen=True)
class RealCases:
    """Real cases on a grid; generators with the same grid, intensity scaling and labels share them.

    Attributes:
        training: cases that the generator saw.
        held_out: cases that it did not.
    """

    training: CaseSet
    held_out: CaseSet

    @staticmethod
    def collect(
        plan: GeneratorPlan, dataset: NnunetDataset, training_ids: Sequence[str], held_out_ids: Sequence[str], folder: Path
    ) -> RealCases:
        """Lay the preprocessed cases on the grid of a plan, in ``folder``."""

        def on_grid(name: str, case_ids: Sequence[str]) -> CaseSet:
            return CaseSet.collect(folder / name, plan, case_ids, (load_preprocessed(dataset, c) for c in case_ids))

        return RealCases(on_grid("training", training_ids), on_grid("held_out", held_out_ids))


# --- synthetic cases -----------------------------------------------------------------------------------------------


def numbered_requests(num_cases: int, seed: int, diversity: float = 1.0) -> list[Request]:
    """Requests that leave everything to the condition model, with the seeds ``seed``, ``seed + 1``, ..."""
    return [Request(f"sbldm_{seed + i:05d}", seed + i, {}, diversity) for i in range(num_cases)]


@dataclass(frozen=True)
class SyntheticCases:
    """Synthetic cases on the grid, after nnU-Net's preprocessing, and all that was drawn for them.

    Attributes:
        cases: the cases.
        records: one per case.
        draws: records of all draws, rejected ones included, each with the verdict of the quality gate.
        num_requests: cases that were asked for.
        tally: attempts, time and reasons of rejections.
        preprocessed: folder of nnU-Net's files of the cases.
    """

    cases: CaseSet
    records: tuple[SyntheticRecord, ...]
    draws: tuple[SyntheticRecord, ...]
    num_requests: int
    tally: Tally
    preprocessed: Path

    @property
    def accepted_share(self) -> float:
        """Share of all draws that the quality gate accepts."""
        return self.tally.accepted / self.tally.attempts

    @property
    def filled_share(self) -> float:
        """Share of the asked cases for which a draw was accepted."""
        return self.tally.accepted / self.num_requests

    @property
    def seconds_per_draw(self) -> float:
        """Sampling and decoding."""
        return self.tally.seconds["sampling"] / self.tally.attempts


def make_cases(
    dataset: NnunetDataset,
    real: NearestRealCase,
    requests: Sequence[Request],
    sampler: SamplerConfig,
    folder: Path,
    use_gate: bool,
) -> SyntheticCases:
    """Draw cases and send them through nnU-Net's preprocessing like real ones.

    Args:
        dataset: the dataset that the generator was trained on.
        real: latents of the training cases, with the generator to use.
        requests: what to make.
        sampler: steps, guidance and batch size.
        folder: where to work; the result refers to it.
        use_gate: draw again what the quality gate rejects, as an expansion does, and leave out what it gives up; otherwise
            every first draw is a case, and the gate's verdict is only noted.

    Raises:
        UnfitGeneratorError: fewer than two cases result, or one is empty.
    """
    model = real.model
    settings = ProductionSettings(sampler, use_gate=True, max_attempts=MAX_ATTEMPTS if use_gate else 1)
    job, tally = ExpansionJob(model.plan.fold, model, tuple(requests)), Tally()
    records: dict[str, SyntheticRecord] = {}
    draws: list[SyntheticRecord] = []
    for drawn, record in judged_draws(job, requests, real, settings, tally):
        draws.append(record)
        if drawn is None or (use_gate and record.gate.get("reasons")):
            continue
        case = drawn.case(model)
        if not case.image.any():
            raise UnfitGeneratorError(f"The SBLDM in {model.folder} made an empty case (seed {record.seed}).")
        preprocess_case(dataset, case, folder / "preprocessed" / case.case_id)
        records[record.case_id] = record
    case_ids = [r.case_id for r in requests if r.case_id in records]
    _refuse_few(len(case_ids), len(requests), model, tally)
    loaded = (load_arrays(folder / "preprocessed", c) for c in case_ids)
    cases = CaseSet.collect(folder / "synthetic", model.plan, case_ids, loaded)
    return SyntheticCases(
        cases, tuple(records[c] for c in case_ids), tuple(draws), len(requests), tally, folder / "preprocessed"
    )


def _refuse_few(num_cases: int, num_requests: int, model: SBLDMModel, tally: Tally) -> None:
    if num_cases < MIN_CASES:
        raise UnfitGeneratorError(
            f"The quality gate accepts {num_cases} of {num_requests} cases of the SBLDM in {model.folder}, most often "
            f"because of {commonest_reasons(tally)}; look at what it makes with --no_gate."
        )
