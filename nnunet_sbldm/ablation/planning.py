"""The table of a study's jobs."""

from __future__ import annotations

import os

from nnunet_sbldm.ablation.arms import Arm
from nnunet_sbldm.ablation.data_jobs import configure_job, data_jobs
from nnunet_sbldm.ablation.jobs import STAGES, StudyJob
from nnunet_sbldm.ablation.network_jobs import network_jobs
from nnunet_sbldm.ablation.runs import DatasetIds, StudyRun, runs_of
from nnunet_sbldm.ablation.study import Study


def plan_study_jobs(study: Study, ids: DatasetIds) -> list[StudyJob]:
    """All jobs of a study, every job after those it needs."""
    runs = [StudyRun(study, ids, run) for run in runs_of(study)]
    arms: dict[str, list[Arm]] = {}
    for run in runs:
        arms.setdefault(run.dataset, []).append(run.arm)
    table: dict[str, StudyJob] = {}
    for run in runs:
        own = [*data_jobs(run), configure_job(run, sorted(arms[run.dataset], key=study.arms.index)), *network_jobs(run)]
        for job in own:  # those that arms share come out alike from every arm
            table.setdefault(job.job_id, job)
    return sorted(table.values(), key=lambda job: STAGES.index(job.stage))


def job_environment(folder: str, processes: int) -> dict[str, str]:
    """Variables that all jobs of a study run with."""
    from importlib.util import find_spec

    names = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
    variables = {name: os.path.join(folder, name) for name in names}
    variables |= {"nnUNet_def_n_proc": str(processes), "OMP_WAIT_POLICY": "PASSIVE"}
    trainers = find_spec("nnunet_sbldm.trainers")
    if "nnUNet_extTrainer" not in os.environ and trainers and trainers.submodule_search_locations:
        variables["nnUNet_extTrainer"] = os.path.abspath(trainers.submodule_search_locations[0])
    return variables
