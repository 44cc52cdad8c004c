"""What is asked of an expansion and what is decided already, by the records that lie beside the cases."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nnunet_sbldm.common.files import read_json
from nnunet_sbldm.data.paths import Fold
from nnunet_sbldm.editing.choices import EditSettings
from nnunet_sbldm.expansion.destinations import Destination
from nnunet_sbldm.generator.checkpoint import SBLDMModel
from nnunet_sbldm.generator.records import streams_of
from nnunet_sbldm.generator.requests import Request
from nnunet_sbldm.ldm.config import SamplerConfig
from nnunet_sbldm.quality.gate import rules_of

REJECTED = "rejected"
NO_ROOM = "no_room"
"""Rule by which a request is given up for which no host has room."""
ROUNDING = ("batch_size", "precision")
"""Of the sampler: recorded, but the parts of one job may run on machines that differ in them."""


@dataclass(frozen=True)
class ExpansionJob:
    """The synthetic cases to make for one fold.

    Attributes:
        fold: the fold they train in.
        model: a model that has seen none of the fold's validation cases.
        requests: what to make.
        editing: how to edit hosts, all of them real training cases of the fold; None makes whole cases.
    """

    fold: Fold
    model: SBLDMModel
    requests: tuple[Request, ...]
    editing: EditSettings | None = None

    @property
    def source(self) -> str:
        """What the cases come from: the generator, and the hosts where they are edited."""
        return self.model.hash if self.editing is None else f"{self.model.hash}-{self.editing.signature()['hosts'][:8]}"

    def signature(self) -> dict[str, Any]:
        """What decides the cases beside the requests and the settings of the production."""
        return {} if self.editing is None else {"editing": self.editing.signature()}


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
        """What decides the cases themselves, but for rounding: batch size and precision are those of the machine at hand."""
        sampler = {k: v for k, v in asdict(self.sampler).items() if k not in ROUNDING}
        return {**sampler, "gate": self.use_gate, "max_attempts": self.max_attempts}


@dataclass
class Tally:
    """Totals of a production: draws, requests accepted and given up, time.

    Attributes:
        attempts: draws judged.
        evaluations: draws made, with those that corrected a size.
        accepted: cases written, with those of earlier runs and other parts, see :func:`recorded`.
        rejected: requests given up, likewise.
        seconds: time by stage: sampling (with decoding), judging, waiting for writers.
        reasons: how often each rule rejected a draw; of earlier runs and other parts the last draw of a request counts.
    """

    attempts: int = 0
    evaluations: int = 0
    accepted: int = 0
    rejected: int = 0
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    reasons: Counter[str] = field(default_factory=Counter)


def is_decided(request: Request, job: ExpansionJob, settings: ProductionSettings, destination: Destination) -> bool:
    """Whether this very request was accepted or given up before."""
    return is_accepted(request, job, settings, destination) or _is_recorded(
        request, job, settings, rejected_folders(destination)
    )


def is_accepted(request: Request, job: ExpansionJob, settings: ProductionSettings, destination: Destination) -> bool:
    """Whether the case of this very request is written, and all of its files are there."""
    return _is_recorded(request, job, settings, destination.record_folders) and all(
        file.is_file() for file in destination.case_files(request.case_id)
    )


def accepted_ids(job: ExpansionJob, settings: ProductionSettings, destination: Destination) -> list[str]:
    """Ids of the job's written cases, in order; every request of the job must be decided."""
    return [r.case_id for r in job.requests if is_accepted(r, job, settings, destination)]


def rejected_folders(destination: Destination) -> list[Path]:
    """Folders that hold the records of the requests that were given up."""
    return [folder.parent / REJECTED for folder in destination.record_folders]


def recorded(job: ExpansionJob, settings: ProductionSettings, destination: Destination) -> Tally:
    """Totals of earlier runs and other parts, over all requests of a job, by their records."""
    tally, (rejected, *_) = Tally(), rejected_folders(destination)
    for request in job.requests:
        if _is_recorded(request, job, settings, destination.record_folders):
            tally.accepted += 1
        elif _is_recorded(request, job, settings, rejected_folders(destination)):
            tally.rejected += 1
            tally.reasons.update(rules_of(read_json(rejected / f"{request.case_id}.json")["gate"]))
    return tally


def _is_recorded(request: Request, job: ExpansionJob, settings: ProductionSettings, folders: Sequence[Path]) -> bool:
    return all(matches(folder / f"{request.case_id}.json", request, job, settings) for folder in folders)


def matches(file: Path, request: Request, job: ExpansionJob, settings: ProductionSettings) -> bool:
    """Whether a record is there, and of this very request."""
    if not file.is_file():
        return False
    record = read_json(file)
    request = request.with_streams(streams_of(record))
    found = {k: v for k, v in record["sampler"].items() if k not in ROUNDING}
    wanted = {**settings.signature(), **job.signature(), "diversity": request.diversity, "asked": dict(request.asked)}
    return (record["generator_hash"], record["seed"], found) == (job.model.hash, request.seed, wanted)
