"""Making many cases: sample, judge, draw again, write; in parts, resumable, the writers beside the sampler.

A request is *decided* when its record is there: among the provenance records if it was accepted, among the rejected
ones if every attempt failed the quality gate. Which attempt is accepted depends on the request alone, so the result
is the same in any order, any number of parts, and after any interruption.
"""

from __future__ import annotations

import multiprocessing
import time
from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from nnunet_sbldm.checkpoint import Generator
from nnunet_sbldm.config import SamplerConfig
from nnunet_sbldm.destinations import Destination
from nnunet_sbldm.files import read_json
from nnunet_sbldm.gate import judge, measure_appearance
from nnunet_sbldm.nnunet import Fold, NnunetDataset
from nnunet_sbldm.provenance import SyntheticRecord
from nnunet_sbldm.requests import Request
from nnunet_sbldm.synthesis import Draw, NearestRealCase, draw
from nnunet_sbldm.types import Case, UnfitGeneratorError

REJECTED = "rejected"
MIN_DECIDED = 10
MAX_REJECTED_SHARE = 0.5
MAX_REASONS_NAMED = 3


@dataclass(frozen=True)
class Job:
    """The synthetic cases to make for one fold.

    Attributes:
        fold: the fold they train in.
        generator: a generator that has seen none of the fold's validation cases.
        requests: what to make.
    """

    fold: Fold
    generator: Generator
    requests: tuple[Request, ...]


@dataclass(frozen=True)
class ProductionSettings:
    """How cases are made.

    Attributes:
        sampler: steps, guidance, batch size.
        use_gate: judge every case; without it every case is accepted.
        max_attempts: draws per request before it is given up.
        num_writers: processes that preprocess and compress beside the sampler; 0 writes in this process.
        num_parts: parts the work is split into.
        part_id: which part this is, from 0.
    """

    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    use_gate: bool = True
    max_attempts: int = 4
    num_writers: int = 0
    num_parts: int = 1
    part_id: int = 0

    def signature(self) -> dict[str, Any]:
        """What decides the cases themselves."""
        return {**asdict(self.sampler), "gate": self.use_gate, "max_attempts": self.max_attempts}


@dataclass
class Tally:
    """What a production came to.

    Attributes:
        attempts: draws made.
        accepted: cases written.
        rejected: requests given up.
        seconds: time by stage: sampling (with decoding), judging, waiting for writers.
        reasons: how often each rule rejected a draw.
    """

    attempts: int = 0
    accepted: int = 0
    rejected: int = 0
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    reasons: Counter[str] = field(default_factory=Counter)


# --- what is decided -----------------------------------------------------------------------------------------------


def is_decided(request: Request, job: Job, settings: ProductionSettings, destination: Destination) -> bool:
    """Whether this very request was accepted or given up before."""
    return is_accepted(request, job, settings, destination) or all(
        _matches(folder.parent / REJECTED / f"{request.case_id}.json", request, job, settings)
        for folder in destination.record_folders
    )


def is_accepted(request: Request, job: Job, settings: ProductionSettings, destination: Destination) -> bool:
    """Whether the case of this very request is written."""
    files = (folder / f"{request.case_id}.json" for folder in destination.record_folders)
    return all(_matches(file, request, job, settings) for file in files)


def accepted_ids(job: Job, destination: Destination) -> list[str]:
    """Ids of the job's written cases, in order; every request of the job must be decided."""
    folder = destination.record_folders[0]
    return [r.case_id for r in job.requests if (folder / f"{r.case_id}.json").is_file()]


def _matches(file: Path, request: Request, job: Job, settings: ProductionSettings) -> bool:
    if not file.is_file():
        return False
    record = read_json(file)
    wanted = {**settings.signature(), "diversity": request.diversity, "asked": dict(request.asked)}
    return (record["generator_hash"], record["seed"], record["sampler"]) == (job.generator.hash, request.seed, wanted)


# --- the loop ------------------------------------------------------------------------------------------------------


def produce(job: Job, dataset: NnunetDataset, settings: ProductionSettings, destination: Destination) -> Tally:
    """Decide every request of this part that is not decided yet.

    Raises:
        UnfitGeneratorError: the quality gate gives up more than half of the requests.
    """
    mine = job.requests[settings.part_id :: settings.num_parts]
    open_requests = [r for r in mine if not is_decided(r, job, settings, destination)]
    tally = Tally()
    if not open_requests:
        return tally
    nearest = NearestRealCase(job.generator, dataset)
    progress = tqdm(total=len(mine), initial=len(mine) - len(open_requests), desc=f"fold {job.fold}", unit="case")
    with progress, Writers(destination, settings.num_writers) as writers:
        for case, record in _judged(job, open_requests, nearest, settings, tally):
            start = time.monotonic()
            if case is None:
                _save_rejected(record, destination)
            else:
                writers.put(case, record)
            tally.seconds["waiting for writers"] += time.monotonic() - start
            progress.update()
            _refuse_unfit(job, tally)
    return tally


def _judged(
    job: Job, requests: Sequence[Request], nearest: NearestRealCase, settings: ProductionSettings, tally: Tally
) -> Iterator[tuple[Case | None, SyntheticRecord]]:
    """Draw until every request is accepted (its case and record) or given up (None and the last record)."""
    generator, sampler, queue = job.generator, settings.sampler, deque(requests)
    while queue:
        batch = [queue.popleft() for _ in range(min(sampler.batch_size, len(queue)))]
        start = time.monotonic()
        for drawn in draw(generator, batch, sampler):
            tally.seconds["sampling"] += time.monotonic() - start
            start = time.monotonic()
            closest = nearest.of(drawn.latent)
            record = replace(drawn.record(generator, sampler), fold=job.fold, nearest_real_case=closest)
            verdict = _judge(generator, drawn, record, nearest) if settings.use_gate else {}
            record.gate.update(verdict)
            record.sampler.update(settings.signature(), asked=dict(drawn.request.asked))
            tally.attempts += 1
            tally.reasons.update(reason.split(" ")[0] for reason in verdict.get("reasons", ()))
            tally.seconds["judging"] += time.monotonic() - start
            if not verdict.get("reasons"):
                tally.accepted += 1
                yield drawn.case(generator), record
            elif drawn.request.attempt + 1 < settings.max_attempts:
                queue.append(replace(drawn.request, attempt=drawn.request.attempt + 1))
            else:
                tally.rejected += 1
                yield None, record
            start = time.monotonic()


def _judge(generator: Generator, drawn: Draw, record: SyntheticRecord, nearest: NearestRealCase) -> dict[str, Any]:
    """The gate's scores and reasons."""
    plan = generator.plan
    verdict = judge(
        plan.gate,
        record.condition_asked,
        record.condition_obtained,
        measure_appearance(plan.intensity.normalised(drawn.image), drawn.label, plan.targets, plan.grid.spacing_mm),
        record.nearest_real_case.get("latent_distance"),
        nearest.among_real or None,
    )
    return {"scores": verdict.scores, "reasons": list(verdict.reasons)}


def _save_rejected(record: SyntheticRecord, destination: Destination) -> None:
    for folder in destination.record_folders:
        record.save(folder.parent / REJECTED)


def _refuse_unfit(job: Job, tally: Tally) -> None:
    decided = tally.accepted + tally.rejected
    if decided < min(MIN_DECIDED, len(job.requests)) or tally.rejected <= MAX_REJECTED_SHARE * decided:
        return
    reasons = ", ".join(f"{name} ({count} times)" for name, count in tally.reasons.most_common(MAX_REASONS_NAMED))
    raise UnfitGeneratorError(
        f"Fold {job.fold}: the quality gate gave up {tally.rejected} of {decided} cases of the SBLDM in {job.generator.folder}, "
        f"most often for {reasons}; nothing was installed. Train it longer or on more cases, or accept every case with --no_gate."
    )


# --- writing -------------------------------------------------------------------------------------------------------


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


def seconds_per_draw(job: Job, sampler: SamplerConfig) -> float:
    """Measured time of one draw, the second of two batches, so that start-up does not count."""
    requests = job.requests[: sampler.batch_size]
    list(draw(job.generator, requests, sampler))
    start = time.monotonic()
    list(draw(job.generator, requests, sampler))
    return (time.monotonic() - start) / len(requests)
