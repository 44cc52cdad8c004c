"""The loop of an expansion: sample, judge, draw again, write; in parts, resumable, the writers beside the sampler.

A request is *decided* when its record is there: among the provenance records if it was accepted, among the rejected
ones if every attempt failed the quality gate. Which attempt is accepted depends on the request alone, so the result
is the same in any order, any number of parts, and after any interruption.
"""

from __future__ import annotations

import multiprocessing
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeAlias

from nnunet_sbldm.common.progress import Progress
from nnunet_sbldm.data.conditions import as_vector
from nnunet_sbldm.data.dataset import NnunetDataset
from nnunet_sbldm.editing.edit import EditedDraw
from nnunet_sbldm.editing.maker import EditedCases
from nnunet_sbldm.expansion.destinations import Destination
from nnunet_sbldm.expansion.ledger import (
    NO_ROOM,
    ExpansionJob,
    ProductionSettings,
    Tally,
    is_decided,
    recorded,
    rejected_folders,
)
from nnunet_sbldm.generator.checkpoint import SBLDMModel
from nnunet_sbldm.generator.nearest import NearestRealCase
from nnunet_sbldm.generator.records import SyntheticRecord
from nnunet_sbldm.generator.requests import Request
from nnunet_sbldm.generator.sampling import Draw, draw, record_of
from nnunet_sbldm.ldm.config import SamplerConfig
from nnunet_sbldm.quality.appearance import measure_appearance
from nnunet_sbldm.quality.gate import Reason, Verdict, judge, rules_of
from nnunet_sbldm.types import Case, NoRoomError, UnfitGeneratorError

RealReference: TypeAlias = NearestRealCase | EditedCases
MIN_DECIDED = 10
MAX_REJECTED_SHARE = 0.5
MAX_REASONS_NAMED = 3


def produce(job: ExpansionJob, dataset: NnunetDataset, settings: ProductionSettings, destination: Destination) -> Tally:
    """Decide every request of this part that is not decided yet.

    Raises:
        UnfitGeneratorError: the quality gate gives up more than half of the requests.
    """
    mine = job.requests[settings.part_id :: settings.num_parts]
    open_requests = [r for r in mine if not is_decided(r, job, settings, destination)]
    tally = recorded(job, settings, destination)
    refuse_unfit(job, tally)
    if not open_requests:
        return tally
    reference = reference_of(job, dataset)
    shown = Progress(f"fold {job.fold}", len(mine), initial=len(mine) - len(open_requests))
    with shown, Writers(destination, settings.num_writers) as writers:
        for drawn, record in judged_draws(job, open_requests, reference, settings, tally):
            start = time.monotonic()
            if drawn is not None and not record.gate.get("reasons"):
                writers.put(drawn.case(job.model), record)
            elif drawn is None or record.attempt + 1 >= settings.max_attempts:
                _save_rejected(record, destination)
            else:
                continue
            tally.seconds["waiting for writers"] += time.monotonic() - start
            shown.update()
            refuse_unfit(job, tally)
    return tally


def reference_of(job: ExpansionJob, dataset: NnunetDataset) -> RealReference:
    """What the draws of a job are compared with: the training cases, or for edits the hosts and their lesions."""
    if job.editing is None:
        return NearestRealCase(job.model, dataset)
    return EditedCases(job.model, dataset, job.editing)


def judged_draws(
    job: ExpansionJob, requests: Sequence[Request], reference: RealReference, settings: ProductionSettings, tally: Tally
) -> Iterator[tuple[Draw | EditedDraw | None, SyntheticRecord]]:
    """Draw until every request is accepted or given up: every draw, with its record.

    A draw is rejected if ``gate["reasons"]`` of its record names any; its request is drawn again until the attempts of the
    settings are used up. A lesion for which no host has room is given up at once: its draw is None.
    """
    model, sampler, queue = job.model, settings.sampler, deque(requests)
    maker = _maker(job, reference)
    while queue:
        batch = [queue.popleft() for _ in range(min(sampler.batch_size, len(queue)))]
        start = time.monotonic()
        try:
            for drawn in maker.draw(batch, sampler):
                tally.seconds["sampling"] += time.monotonic() - start
                start = time.monotonic()
                closest = maker.nearest(drawn)
                record = replace(drawn.record(model, sampler), nearest_real_case=closest)
                verdict = maker.judge(drawn, record).to_json() if settings.use_gate else {}
                tally.attempts += 1
                tally.evaluations += drawn.num_draws
                tally.reasons.update(rules_of(verdict))
                tally.seconds["judging"] += time.monotonic() - start
                if not verdict.get("reasons"):
                    tally.accepted += 1
                elif drawn.request.attempt + 1 < settings.max_attempts:
                    queue.append(replace(drawn.request, attempt=drawn.request.attempt + 1))
                else:
                    tally.rejected += 1
                yield drawn, _judged(record, verdict, drawn.request, job, settings)
                start = time.monotonic()
        except NoRoomError as e:
            (request,) = batch  # edits are drawn one by one
            tally.rejected += 1
            tally.reasons[NO_ROOM] += 1
            verdict = Verdict({}, (Reason(NO_ROOM, str(e)),)).to_json()
            yield None, _judged(_record_of_nothing(request, job, sampler), verdict, request, job, settings)


def _judged(
    record: SyntheticRecord, verdict: Mapping[str, Any], request: Request, job: ExpansionJob, settings: ProductionSettings
) -> SyntheticRecord:
    """The record with the gate's verdict and with what the production was asked."""
    record.gate.update(verdict)
    record.sampler.update(settings.signature(), **job.signature(), asked=dict(request.asked))
    return replace(record, fold=job.fold)


def _record_of_nothing(request: Request, job: ExpansionJob, sampler: SamplerConfig) -> SyntheticRecord:
    """The record of a request that nothing was drawn for."""
    names, asked = job.model.plan.condition_scaling.names, dict(request.asked)
    return record_of(job.model, request, sampler, asked, as_vector(names, asked), as_vector(names, {}))


class _Maker(Protocol):
    """Draws cases, compares them with real ones, and judges them."""

    def draw(self, requests: Sequence[Request], sampler: SamplerConfig) -> Iterator[Any]: ...

    def nearest(self, drawn: Any) -> dict[str, Any]: ...

    def judge(self, drawn: Any, record: SyntheticRecord) -> Verdict: ...


def _maker(job: ExpansionJob, reference: RealReference) -> _Maker:
    return reference if isinstance(reference, EditedCases) else WholeCases(job.model, reference)


@dataclass(frozen=True)
class WholeCases:
    """Whole cases as :class:`EditedCases` are edits: drawn, compared with the training cases, judged."""

    model: SBLDMModel
    real: NearestRealCase

    def draw(self, requests: Sequence[Request], sampler: SamplerConfig) -> Iterator[Draw]:
        """Sample and decode."""
        return draw(self.model, requests, sampler)

    def nearest(self, drawn: Draw) -> dict[str, Any]:
        """The nearest training case and its distance; empty without real data."""
        return self.real.of(drawn.latent)

    def judge(self, drawn: Draw, record: SyntheticRecord) -> Verdict:
        """The gate's scores and reasons."""
        plan = self.model.plan
        return judge(
            plan.gate,
            record.condition_asked,
            record.condition_obtained,
            measure_appearance(plan.intensity.normalised(drawn.image), drawn.label, plan.targets, plan.grid.spacing_mm),
            record.nearest_real_case.get("latent_distance"),
            self.real.among_real or None,
        )


def _save_rejected(record: SyntheticRecord, destination: Destination) -> None:
    for folder in rejected_folders(destination):
        record.save(folder)


def is_unfit(tally: Tally, num_requests: int = MIN_DECIDED) -> bool:
    """Whether the gate gave up so many of the requests decided so far that the generator is not fit for use."""
    decided = tally.accepted + tally.rejected
    return decided >= min(MIN_DECIDED, num_requests) and tally.rejected > MAX_REJECTED_SHARE * decided


def commonest_reasons(tally: Tally) -> str:
    """The rules that rejected most draws, and how many."""
    return ", ".join(f"{name} ({count} times)" for name, count in tally.reasons.most_common(MAX_REASONS_NAMED))


def refuse_unfit(job: ExpansionJob, tally: Tally) -> None:
    """Raise an :class:`UnfitGeneratorError` if the requests decided so far say so, of the generator or of what is asked."""
    if not is_unfit(tally, len(job.requests)):
        return
    decided = f"{tally.rejected} of {tally.accepted + tally.rejected}"
    if 2 * tally.reasons[NO_ROOM] > tally.rejected:
        raise UnfitGeneratorError(
            f"Fold {job.fold}: {decided} cases were given up, most because no host has room for the lesion that was asked "
            "for; nothing was installed. Ask for smaller lesions or other places, or replace lesions (-kind replace)."
        )
    raise UnfitGeneratorError(
        f"Fold {job.fold}: the quality gate gave up {decided} cases of the SBLDM in {job.model.folder}, most often for "
        f"{commonest_reasons(tally)}; nothing was installed. Train it longer or on more cases, or accept every case with "
        "--no_gate."
    )


class Writers:
    """Stores cases in processes of their own, so that the sampler never waits for compression.

    At most two cases per writer are under way; an error of a writer is raised here.
    """

    def __init__(self, destination: Destination, num_writers: int) -> None:
        self._destination, self._limit = destination, 2 * num_writers
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(num_writers, mp_context=context) if num_writers else None
        self._pending: set[Future[None]] = set()

    def __enter__(self) -> Writers:
        return self

    def put(self, case: Case, record: SyntheticRecord) -> None:
        """Store a case, now or soon."""
        if self._pool is None:
            self._destination.store(case, record)
            return
        self._pending.add(self._pool.submit(self._destination.store, case, record))
        while len(self._pending) >= self._limit:
            self._collect()

    def _collect(self) -> None:
        done, self._pending = wait(self._pending, return_when=FIRST_COMPLETED)
        for future in done:
            future.result()

    def __exit__(self, exception_type: type[BaseException] | None, *_: object) -> None:
        try:
            while self._pending and exception_type is None:
                self._collect()
        finally:
            if self._pool is not None:
                self._pool.shutdown(cancel_futures=True)


def seconds_per_draw(job: ExpansionJob, dataset: NnunetDataset, sampler: SamplerConfig) -> float:
    """Measured time of one draw, the second of two batches, so that start-up does not count."""
    requests = job.requests[: sampler.batch_size]
    reference = reference_of(job, dataset)
    maker = _maker(job, reference)
    list(maker.draw(requests, sampler))
    start = time.monotonic()
    list(maker.draw(requests, sampler))
    return (time.monotonic() - start) / len(requests)
