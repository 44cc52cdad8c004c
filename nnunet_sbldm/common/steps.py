"""Commands run one after another, each with its title, its time and the time that is left; none is run twice."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from nnunet_sbldm.common.files import read_json
from nnunet_sbldm.common.job_state import JobFolder, lines_of, typed
from nnunet_sbldm.common.jobs import JobRunner, Reporter, RunningJob, clock
from nnunet_sbldm.common.progress import Report
from nnunet_sbldm.types import UserError

STATES = "steps"
LOG_LINES_SHOWN = 30


@dataclass(frozen=True)
class Step:
    """One command.

    Attributes:
        job_id: short name, also of its log file.
        title: what it does, for people.
        command: program and arguments; the program is looked for beside this Python.
        expected_seconds: how long it took on two CPU cores, for the estimate of the remaining time.
        environment: variables for this command alone.
        before: called right before the command.
    """

    job_id: str
    title: str
    command: tuple[str, ...]
    expected_seconds: float
    environment: Mapping[str, str] = field(default_factory=dict)
    before: Callable[[], None] | None = None


@dataclass(frozen=True)
class StepResult:
    """What a finished command took.

    Attributes:
        name: name of the step.
        title: what it does.
        command: the command as one would type it.
        seconds: wall-clock time.
        peak_memory_mb: largest memory of the command and all its children together; 0 where it cannot be measured.
    """

    name: str
    title: str
    command: str
    seconds: float
    peak_memory_mb: float


class _StepReporter(Reporter):
    """The step has its title above it, and what it took below."""

    def started(self, job: object) -> None:
        pass

    def ended(self, one: RunningJob, error: str) -> None:
        self.clear()

    def progressed(self, one: RunningJob, report: Report) -> None:
        if not self._line.is_shown:
            self._print(f"      {report.text}")

    def running(self, jobs: Sequence[RunningJob]) -> None:
        self._line.show("      " + " ".join(f"{clock(one.seconds)} min {one.last.text if one.last else ''}" for one in jobs))


def run_steps(steps: Sequence[Step], folder: Path, environment: Mapping[str, str]) -> list[StepResult]:
    """Run commands in order, skipping those that an earlier call has finished.

    A step whose command has changed is run again, and with it all that follow.

    Args:
        steps: what to run.
        folder: where commands run; ``logs/STEP.log`` and ``steps/STEP.json`` are written here.
        environment: variables for all commands.

    Returns:
        One result per step.

    Raises:
        SystemExit: a command failed; its last lines have been printed.
    """
    jobs, results, fresh = JobFolder(folder, STATES), list[StepResult](), False
    for number, step in enumerate(steps, 1):
        done = None if fresh else _finished(step, jobs)
        print(f"[{number}/{len(steps)}] {step.title}{' (already done)' if done else ''}\n      $ {typed(step)}", flush=True)
        fresh = done is None
        results.append(done or _run(step, jobs, environment))
        _print_estimate(results, steps)
    return results


def _finished(step: Step, jobs: JobFolder) -> StepResult | None:
    state = jobs.written(step) or _of_older_version(step, jobs)
    return _result(step, state) if state.get("state") == "done" else None


def _of_older_version(step: Step, jobs: JobFolder) -> dict[str, Any]:
    """A step that was finished when its file held nothing but its result."""
    value = read_json(jobs.state_file(step)) if jobs.state_file(step).is_file() else {}
    return {**value, "state": "done"} if "state" not in value and value.get("command") == typed(step) else {}


def _result(step: Step, state: Mapping[str, Any]) -> StepResult:
    return StepResult(step.job_id, step.title, typed(step), state["seconds"], state["peak_memory_mb"])


def _run(step: Step, jobs: JobFolder, environment: Mapping[str, str]) -> StepResult:
    if jobs.written(step).get("state") == "done":  # what it needs has changed
        jobs.state_file(step).unlink()
    if step.before:
        step.before()
    JobRunner(jobs, environment, 1, _StepReporter()).run(lambda: [step])
    state = jobs.state(step)
    if state["state"] == "failed":
        _fail(step, state["returncode"], jobs.log_file(step))
    if state["state"] != "done":
        raise UserError(f"Another process runs this command in {jobs.path}: wait for its end, or end it.")
    return _result(step, state)


def _print_estimate(results: Sequence[StepResult], steps: Sequence[Step]) -> None:
    spent, last = sum(r.seconds for r in results), results[-1]
    speed = spent / sum(s.expected_seconds for s in steps[: len(results)])
    total = spent + speed * sum(s.expected_seconds for s in steps[len(results):])
    print(f"      {clock(last.seconds)} min, {last.peak_memory_mb / 1024:.1f} GB; "
          f"{clock(spent)} of about {clock(total)} min", flush=True)


def _fail(step: Step, returncode: int, log_file: Path) -> NoReturn:
    print("\n".join(lines_of(log_file)[-LOG_LINES_SHOWN:]), file=sys.stderr)
    print(f"{step.command[0]} failed with exit code {returncode}; its log is {log_file}. "
          "Run the same command again to continue from this step.", file=sys.stderr)
    raise SystemExit(1)
