"""What the trainer asks of the process that makes cases beside it: one file of JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nnunet_sbldm.common.files import read_json, write_json


@dataclass(frozen=True)
class GeneratorJob:
    """All that the process is told; checked by the trainer before it starts the process.

    Attributes:
        ring: folder of the ring.
        trace: file that gets the record of every case made.
        trainer_pid: process that the generator must not outlive.
        model: folder of the generator.
        generator_hash: its hash.
        compare: whether its training cases are cases of this dataset, which synthetic ones are then compared with.
        hosts: real training cases of the fold to edit; without any, whole cases are made.
        dataset: fields of :class:`nnunet_sbldm.data.dataset.NnunetDataset`, paths as text.
        plans_hash: hash of the preprocessing of the training.
        fold: fold that is trained.
        device: where to sample.
        pool_size: cases to keep ready.
        max_reuse: draws after which a case is replaced.
        busy_share: largest share of the time in which cases are replaced once the ring is full.
        use_gate: judge every case.
        seed: seed of the whole sequence of cases.
        num_threads: threads of the process.
    """

    ring: str
    trace: str
    trainer_pid: int
    model: str
    generator_hash: str
    compare: bool
    hosts: list[str]
    dataset: dict[str, Any]
    plans_hash: str
    fold: int | str
    device: str
    pool_size: int
    max_reuse: int
    busy_share: float
    use_gate: bool
    seed: int
    num_threads: int

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        write_json(path, asdict(self))

    @staticmethod
    def load(path: Path) -> GeneratorJob:
        """Inverse of :meth:`save`."""
        return GeneratorJob(**read_json(path))
