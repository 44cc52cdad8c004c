"""A study as SLURM array jobs: one script per stage, and one that submits them in order."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from nnunet_sbldm.ablation.jobs import STAGES, StudyJob
from nnunet_sbldm.ablation.settings import RunSettings
from nnunet_sbldm.common.files import write_atomically

SUBMIT = "submit.sh"


def write_slurm_scripts(jobs: Sequence[StudyJob], run: RunSettings, environment: Mapping[str, str], folder: Path) -> Path:
    """Write ``slurm/STAGE.sbatch`` for each stage and ``slurm/submit.sh``.

    A stage starts when the one before has ended, however it ended; a task whose needs are not done, or whose job
    still runs, ends at once.

    Args:
        jobs: the table, which ``jobs.json`` holds too.
        run: options of SLURM, and how many tasks run at the same time.
        environment: variables of all jobs.
        folder: the study's folder.

    Returns:
        The script that submits everything.
    """
    stages = [s for s in STAGES if any(j.stage == s for j in jobs)]
    for stage in stages:
        own = [j for j in jobs if j.stage == stage]
        names = [j.job_id for j in own]
        options = [*run.slurm_options, *(run.slurm_gpu_options if run.device == "cuda" and own[0].uses_device else ())]
        _write(folder / "slurm" / f"{stage}.sbatch", _script(stage, names, run.parallel_jobs, options, environment, folder))
    submit = folder / "slurm" / SUBMIT
    _write(submit, _submit(stages))
    return submit


def _script(
    stage: str, names: Sequence[str], parallel_jobs: int, options: Sequence[str], environment: Mapping[str, str], folder: Path
) -> list[str]:
    asked = [f"--job-name=sbldm_{stage}", f"--array=0-{len(names) - 1}%{parallel_jobs}",
             f"--output={folder / 'slurm' / stage}_%a.out", *options]
    command = shlex.join([sys.executable, "-m", "nnunet_sbldm.ablation.runner", str(folder)])
    exports = [f"export {k}={shlex.quote(v)}" for k, v in environment.items()]
    listed = ["jobs=(", *(f"  {shlex.quote(n)}" for n in names), ")"]  # SLURM keeps the script as it was submitted
    return ["#!/bin/bash", *(f"#SBATCH {o}" for o in asked), *exports, *listed,
            f'exec {command} "${{jobs[$SLURM_ARRAY_TASK_ID]}}"']


def _submit(stages: Sequence[str]) -> list[str]:
    lines = ["#!/bin/bash", "set -euo pipefail", 'cd "$(dirname "$0")"']
    for i, stage in enumerate(stages):
        after = '--dependency="afterany:$id" ' if i else ""
        lines.append(f"id=$(sbatch --parsable {after}{stage}.sbatch); echo \"{stage}: $id\"")
    return lines


def _write(path: Path, lines: Sequence[str]) -> None:
    write_atomically(path, lambda tmp: tmp.write_text("\n".join(lines) + "\n", encoding="utf-8"))
    path.chmod(0o755)
