"""Where synthetic cases come from: one record per case, and one index per place that holds them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nnunet_sbldm.common.files import read_json, write_json
from nnunet_sbldm.common.seeds import STREAMS
from nnunet_sbldm.data.folds import CaseFingerprint
from nnunet_sbldm.types import UserError

INDEX_FORMAT_VERSION = 1
INDEX_NAME = "synthetic_cases.json"


@dataclass(frozen=True)
class SyntheticRecord:
    """All that is needed to trace one synthetic case and to make it again.

    Attributes:
        case_id: identifier of the synthetic case.
        generator_hash: hash of the generator's weights and plan.
        generator_path: folder of the generator when the case was made.
        seed: seed of the case's condition and noise.
        attempt: how often the case was drawn again before it was accepted.
        fold: fold for which the case was made.
        condition_asked: feature name -> value in its unit; missing features are left out.
        condition_obtained: the same features measured on the decoded mask.
        sampler: name, steps, guidance scale and batch size.
        versions: library versions and device type.
        nearest_real_case: nearest training case and its distance, as measured in latent space.
        condition_told: what the denoiser was told, where that is not what was asked: corrected sizes, or a removed lesion.
        gate: scores of the quality gate, and of a rejection the reasons and the rules, see
            :meth:`nnunet_sbldm.quality.gate.Verdict.to_json`.
        edit: of an edited host: its id and transform, what was done, and where; empty for whole cases.
        format: of the record; it is the version of the random streams that the case was made with.
    """

    case_id: str
    generator_hash: str
    generator_path: str
    seed: int
    attempt: int
    fold: int | str
    condition_asked: dict[str, float]
    condition_obtained: dict[str, float]
    sampler: dict[str, Any]
    versions: dict[str, str]
    nearest_real_case: dict[str, Any] = field(default_factory=dict)
    condition_told: dict[str, float] = field(default_factory=dict)
    gate: dict[str, Any] = field(default_factory=dict)
    edit: dict[str, Any] = field(default_factory=dict)
    format: int = STREAMS

    def save(self, folder: Path) -> None:
        """Write ``CASE.json`` into ``folder``."""
        write_json(folder / f"{self.case_id}.json", {"format": self.format, **asdict(self)})


def streams_of(record: Mapping[str, Any]) -> int:
    """Version of the random streams that a recorded case was made with.

    Raises:
        UserError: the record is of a newer version of this package.
    """
    found = record.get("format", 1)  # the traces of version 1 do not say it
    if found not in range(1, STREAMS + 1):
        raise UserError(
            f"The record of {record['case_id']} has format {found}; this version reads 1 to {STREAMS}: update nnunet-sbldm."
        )
    return int(found)


@dataclass
class SyntheticIndex:
    """The synthetic cases of one place (a pool or an expanded dataset) and what their generators have seen.

    Attributes:
        plans_hash: hash of the preprocessing that the cases went through.
        cases: synthetic case id -> generator hash.
        generators: generator hash -> every real case that any part of that generator has seen.
    """

    plans_hash: str
    cases: dict[str, str] = field(default_factory=dict)
    generators: dict[str, tuple[CaseFingerprint, ...]] = field(default_factory=dict)

    def add(self, case_ids: Iterable[str], generator_hash: str, seen: Iterable[CaseFingerprint]) -> None:
        """Register cases of one generator."""
        self.generators[generator_hash] = tuple(seen)
        self.cases.update(dict.fromkeys(case_ids, generator_hash))

    def seen_by(self) -> dict[str, tuple[CaseFingerprint, ...]]:
        """For each synthetic case the real cases its generator has seen."""
        return {case_id: self.generators[g] for case_id, g in self.cases.items()}

    def save(self, folder: Path) -> None:
        """Write the index into ``folder`` atomically."""
        generators = {g: {"seen": [c.to_json() for c in seen]} for g, seen in self.generators.items()}
        write_json(
            folder / INDEX_NAME,
            {"format": INDEX_FORMAT_VERSION, "plans_hash": self.plans_hash, "cases": self.cases, "generators": generators},
        )

    @staticmethod
    def load(folder: Path) -> SyntheticIndex | None:
        """The index of ``folder``, or None if there is none."""
        if not (folder / INDEX_NAME).is_file():
            return None
        value = read_json(folder / INDEX_NAME)
        if value.get("format") != INDEX_FORMAT_VERSION:
            found = value.get("format")
            raise UserError(f"{folder / INDEX_NAME} has format {found}; this version reads {INDEX_FORMAT_VERSION}.")
        generators = {g: tuple(CaseFingerprint.from_json(c) for c in v["seen"]) for g, v in value["generators"].items()}
        return SyntheticIndex(value["plans_hash"], value["cases"], generators)


TRACE_NAME = "sbldm_on_the_fly.jsonl"


def add_to_trace(path: Path, number: int, record: SyntheticRecord) -> None:
    """Add a case."""
    line = json.dumps({"number": number, **asdict(record)})
    with open(path, "ab+") as f:
        f.seek(max(0, f.tell() - 1))
        is_cut = f.read(1) not in (b"", b"\n")  # by a full disk or a kill
        f.write(f"{chr(10) * is_cut}{line}\n".encode())


def read_trace(path: Path) -> list[dict[str, Any]]:
    """Every whole line: the number of a case and the fields of its record; empty if there is no trace."""
    cases = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        with suppress(ValueError):  # cut by a full disk or a kill
            cases.append(json.loads(line))
    return cases


def next_number(path: Path) -> int:
    """Number of the first case that is not in the trace yet."""
    return max((case["number"] for case in read_trace(path)), default=-1) + 1
