"""Commands run one after another, measured, logged, and not run twice."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NoReturn

from nnunet_sbldm.common.files import read_json, write_json
from nnunet_sbldm.common.processes import end_tree, ending_with_us, tree_memory_bytes
from nnunet_sbldm.types import UserError

SAMPLE_EVERY_S = 0.25
LOG_LINES_SHOWN = 30


@dataclass(frozen=True)
class Step:
    """One command.

    Attributes:
        name: short name, also of its log file.
        title: what it does, for people.
        command: program and arguments; the program is looked for beside this Python.
        expected_seconds: how long it took on two CPU cores, for the estimate of the remaining time.
        environment: variables for this command alone.
        before: called right before the command.
    """

    name: str
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


def run_steps(steps: Sequence[Step], folder: Path, environment: Mapping[str, str]) -> list[StepResult]:
    """Run commands in order, skipping those that an earlier call has finished.

    A step whose command has changed is run again, and with it all that follow.

    Args:
        steps: what to run.
        folder: where commands run; ``logs/STEP.log`` and, once a step is done, ``steps/STEP.json`` are written here.
        environment: variables for all commands.

    Returns:
        One result per step.
    """
    results: list[StepResult] = []
    fresh = False
    for number, step in enumerate(steps, 1):
        done = None if fresh else _finished(step, folder)
        print(f"[{number}/{len(steps)}] {step.title}{' (already done)' if done else ''}\n      $ {_typed(step)}", flush=True)
        fresh = done is None
        results.append(done or _run(step, folder, environment))
        _print_progress(results[-1], results, steps)
    return results


def clock(seconds: float) -> str:
    """Minutes and seconds, as in 3:07."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def _finished(step: Step, folder: Path) -> StepResult | None:
    marker = folder / "steps" / f"{step.name}.json"
    if not marker.is_file():
        return None
    result = StepResult(**read_json(marker))
    return result if result.command == _typed(step) else None


def _typed(step: Step) -> str:
    """The command as one would type it, with its own variables in front."""
    return " ".join([*(f"{k}={v}" for k, v in step.environment.items()), shlex.join(step.command)])


def _print_progress(result: StepResult, results: Sequence[StepResult], steps: Sequence[Step]) -> None:
    spent = sum(r.seconds for r in results)
    speed = spent / sum(s.expected_seconds for s in steps[: len(results)])
    total = spent + speed * sum(s.expected_seconds for s in steps[len(results):])
    print(f"      {clock(result.seconds)} min, {result.peak_memory_mb / 1024:.1f} GB; "
          f"{clock(spent)} of about {clock(total)} min", flush=True)


def _run(step: Step, folder: Path, environment: Mapping[str, str]) -> StepResult:
    log_file = folder / "logs" / f"{step.name}.log"
    log_file.parent.mkdir(parents=True, exist_ok=True)
    program = find_program(step.command[0])
    started, peak = time.monotonic(), 0
    if step.before:
        step.before()
    variables = {**os.environ, **environment, **step.environment}
    with open(log_file, "wb") as log:
        process = subprocess.Popen([program, *step.command[1:]], cwd=folder, env=variables, stdin=subprocess.DEVNULL, stdout=log,
                                   stderr=subprocess.STDOUT, start_new_session=True)
        with ending_with_us(lambda: end_tree(process)):
            while process.poll() is None:
                peak = max(peak, tree_memory_bytes(process.pid))
                time.sleep(SAMPLE_EVERY_S)
    if process.returncode != 0:
        _fail(step, process.returncode, log_file)
    result = StepResult(step.name, step.title, _typed(step), round(time.monotonic() - started, 1), round(peak / 2**20, 1))
    write_json(folder / "steps" / f"{step.name}.json", asdict(result))
    return result


def find_program(name: str) -> str:
    """Path of a command that is installed beside this Python, or on ``PATH``."""
    if name == "python":
        return sys.executable
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.is_file() else shutil.which(name)
    if not found:
        raise UserError(f"The command {name} is neither in {beside.parent} nor on PATH: install nnunet-sbldm with pip.")
    return found


def _fail(step: Step, returncode: int, log_file: Path) -> NoReturn:
    lines = log_file.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES_SHOWN:]
    print("\n".join(lines), file=sys.stderr)
    print(f"{step.command[0]} failed with exit code {returncode}; its log is {log_file}. "
          "Run the same command again to continue from this step.", file=sys.stderr)
    raise SystemExit(1)
