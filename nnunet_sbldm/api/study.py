"""Running a study from Python."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunet_sbldm.ablation.file import read_study
from nnunet_sbldm.ablation.jobs import StudyJob
from nnunet_sbldm.ablation.report import write_study_report
from nnunet_sbldm.ablation.runner import run_table
from nnunet_sbldm.ablation.setup import set_up


@dataclass(frozen=True)
class StudyOutcome:
    """How far a study is.

    Attributes:
        report: the report on what is done.
        counts: number of jobs by state: ``done``, ``failed``, ``running`` (elsewhere), ``waiting``, ``blocked``.
        jobs: all jobs.
    """

    report: Path
    counts: Mapping[str, int]
    jobs: Sequence[StudyJob]

    @property
    def is_done(self) -> bool:
        """Whether no job is left."""
        return set(self.counts) == {"done"}


def run_study(
    study: str | Path,
    folder: str | Path,
    *,
    parallel_jobs: int | None = None,
    before: Callable[[int, int], None] | None = None,
) -> StudyOutcome:
    """Run what is left of a study, and write its report; what ``sbldm_ablation run`` does.

    Calling it again finishes interrupted work; a study may be extended by arms, numbers of cases, folds and seeds.

    Args:
        study: the study's YAML file.
        folder: folder of the study.
        parallel_jobs: jobs at the same time; None takes what the study says.
        before: called with the number of jobs and of parallel ones before the first starts.

    Returns:
        The report, and the number of jobs by state.

    Raises:
        UserError: a bad study file, a dataset that does not suit it, or a folder that holds another study.

    Examples:
        >>> run_study("study.yaml", "study_results").is_done
        True
    """
    folder = Path(folder).absolute()
    read = read_study(Path(study))
    jobs, environment = set_up(read, folder)
    parallel = parallel_jobs or read.run.parallel_jobs
    if before:
        before(len(jobs), parallel)
    counts = run_table(jobs, folder, environment, parallel)
    return StudyOutcome(write_study_report(read, jobs, folder), counts, jobs)
