"""A job of a study: an ordinary command, what it needs, and what may be deleted after it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

STAGES = ("plan", "generator", "expand", "join", "configure", "train", "predict", "evaluate", "surface")
FOLD = "all"
"""nnU-Net's fold: all cases of a subset train; who is tested is in no dataset."""


@dataclass(frozen=True)
class StudyJob:
    """One command.

    Attributes:
        job_id: name, also of its state and log files.
        stage: one of ``STAGES``.
        command: program and arguments; it runs in the study's folder.
        needs: jobs that have to be done before.
        subset: key of the training cases it serves.
        arm: arm it serves; empty if arms share it.
        uses_device: whether it computes on the study's device.
        environment: variables for this command alone.
        deletes: patterns of files in the study's folder that are deleted once it is done.
        counterparts: two folders in it: for every file of the first the command has to leave one of that name in the second.
    """

    job_id: str
    stage: str
    command: tuple[str, ...]
    needs: tuple[str, ...] = ()
    subset: str = ""
    arm: str = ""
    uses_device: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)
    deletes: tuple[str, ...] = ()
    counterparts: tuple[str, ...] = ()


def job_id(owner: str, stage: str, *words: str) -> str:
    """Name of a job.

    Args:
        owner: key of the subset, dataset or run that it serves.
        stage: one of ``STAGES``.
        words: what tells it from other jobs of this stage.
    """
    return ".".join((owner, stage, *words))
