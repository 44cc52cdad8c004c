"""``sbldm_ablation``: run a study, see how far it is, and report it."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_sbldm.common.commands import Parser, count, run

if TYPE_CHECKING:
    from nnunet_sbldm.ablation.jobs import StudyJob
    from nnunet_sbldm.ablation.study import Study

STATES = ("done", "running", "waiting", "failed", "blocked")


def ablation_entry(argv: Sequence[str] | None = None) -> None:
    """``sbldm_ablation run|status|report STUDY.yaml -o DIR``."""
    parser = Parser(
        "Compare nnU-Net with and without synthetic cases, at several numbers of real cases, on test cases that nothing has "
        "seen. Running the same command again finishes the work; a study may be extended by arms, cases, folds and seeds."
    )
    parser.add_argument("action", choices=tuple(_ACTIONS), help="run the jobs and report; show their state; report alone")
    parser.add_argument("study", type=Path, metavar="STUDY.yaml", help="[REQUIRED] the study")
    parser.add_argument("-o", required=True, type=Path, metavar="DIR", help="[REQUIRED] folder of the study")
    parser.add_argument("-np", type=count, help="[OPTIONAL] run: jobs at the same time. Default: as in the study")
    parser.add_argument("--slurm", action="store_true", help="[OPTIONAL] run: write SLURM array scripts instead of running")
    parser.add_argument("--dry_run", action="store_true", help="[OPTIONAL] run: set the folder up and print the commands")
    args = parser.parse_args(argv)
    run(lambda: _ACTIONS[args.action](args))


def _run(args: argparse.Namespace) -> None:
    from nnunet_sbldm.api.study import run_study

    if args.slurm or args.dry_run:
        _set_up_alone(args)
        return

    def announce(num_jobs: int, parallel: int) -> None:
        print(f"{num_jobs} jobs, at most {parallel} at the same time", flush=True)

    outcome = run_study(args.study, args.o, parallel_jobs=args.np, before=announce)
    _show(outcome.jobs, args.o.absolute())
    print(f"Report: {outcome.report}")
    if outcome.counts.get("failed"):
        print("Some jobs failed; run the same command again to try them once more.", file=sys.stderr)
    if outcome.counts.get("running"):
        print("Some jobs run elsewhere, and what needs them waits; run the same command again later.", file=sys.stderr)
    if not outcome.is_done:
        sys.exit(1)


def _set_up_alone(args: argparse.Namespace) -> None:
    """Set the folder up for jobs that run elsewhere: print their commands, or write scripts for SLURM."""
    from nnunet_sbldm.ablation.file import read_study
    from nnunet_sbldm.ablation.setup import set_up
    from nnunet_sbldm.ablation.slurm import write_slurm_scripts
    from nnunet_sbldm.common.job_state import typed

    study, folder = read_study(args.study), args.o.absolute()
    jobs, environment = set_up(study, folder, on_cluster=True)
    if args.dry_run:
        print("\n".join([f"cd {shlex.quote(str(folder))}", *(f"export {k}={shlex.quote(v)}" for k, v in environment.items())]))
        print("\n".join(f"# {j.job_id}\n{typed(j)}" for j in jobs))
        return
    settings = replace(study.run, parallel_jobs=args.np or study.run.parallel_jobs)
    print(f"{len(jobs)} jobs. Submit them: {write_slurm_scripts(jobs, settings, environment, folder)}")


def _status(args: argparse.Namespace) -> None:
    from nnunet_sbldm.ablation.runner import load_table

    read_and_match(args.study, args.o.absolute())
    _show(load_table(args.o.absolute())[0], args.o.absolute())


def _report(args: argparse.Namespace) -> None:
    from nnunet_sbldm.ablation.report import write_study_report
    from nnunet_sbldm.ablation.runner import load_table

    folder = args.o.absolute()
    study = read_and_match(args.study, folder)
    print(f"Report: {write_study_report(study, load_table(folder)[0], folder)}")


def read_and_match(file: Path, folder: Path) -> Study:
    """The study of a file; refused if ``folder`` holds none, or another one."""
    from nnunet_sbldm.ablation.file import read_study
    from nnunet_sbldm.ablation.runner import load_table
    from nnunet_sbldm.ablation.setup import refuse_other_study

    study = read_study(file)
    load_table(folder)
    refuse_other_study(study, folder)
    return study


def _show(jobs: Sequence[StudyJob], folder: Path) -> None:
    """Jobs by stage and state, and every failure with its last error."""
    from nnunet_sbldm.ablation.jobs import STAGES
    from nnunet_sbldm.ablation.runner import states_of

    states = states_of(jobs, folder)
    print(f"{'stage':<10}" + "".join(f"{s:>9}" for s in STATES))
    for stage in STAGES:
        counts = Counter(states[j.job_id]["state"] for j in jobs if j.stage == stage)
        if counts:
            print(f"{stage:<10}" + "".join(f"{counts[s]:>9}" for s in STATES))
    for job in jobs:
        state = states[job.job_id]
        if state["state"] == "failed":
            print(f"failed: {job.job_id}: {state['error']} (log: {folder / 'logs' / job.job_id}.log)")
        if state["state"] == "running":
            print(f"running: {job.job_id} on {state['host']}")


_ACTIONS = {"run": _run, "status": _status, "report": _report}
