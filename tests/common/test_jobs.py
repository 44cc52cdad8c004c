"""Running jobs and noting their states; jobs are small programs."""

import os
import socket
import time
from dataclasses import dataclass, field

import pytest

from nnunet_sbldm.common.files import read_json, write_json
from nnunet_sbldm.common.job_state import JobFolder, last_error, typed
from nnunet_sbldm.common.jobs import JobRunner, Reporter, find_program
from nnunet_sbldm.common.processes import start_of
from nnunet_sbldm.types import UserError


@dataclass(frozen=True)
class SmallJob:
    job_id: str
    program: str
    environment: dict = field(default_factory=dict)

    @property
    def command(self):
        return ("python", "-c", self.program)


def run_all(jobs, folder, parallel_jobs=1, **more):
    jobs_in = JobFolder(folder)
    JobRunner(jobs_in, {}, parallel_jobs, Reporter()).run(
        lambda: [j for j in jobs if jobs_in.state(j)["state"] in ("waiting", "failed")], **more)
    return [jobs_in.state(j) for j in jobs]


def test_a_state_file_says_what_a_job_took_and_how_it_ended(tmp_path, capsys):
    good, bad = SmallJob("good", "pass", {"A": "1"}), SmallJob("bad", "raise ValueError('the reason')")
    run_all([good, bad], tmp_path)
    state = read_json(tmp_path / "jobs" / "good.json")
    assert {k: state[k] for k in ("state", "identity", "command", "host", "returncode")} == {
        "state": "done", "identity": "A=1 python -c pass", "command": "A=1 python -c pass", "host": socket.gethostname(),
        "returncode": 0}
    assert state["seconds"] > 0
    assert state["peak_memory_mb"] > 0
    state = read_json(tmp_path / "jobs" / "bad.json")
    assert (state["state"], state["returncode"], state["error"]) == ("failed", 1, "exit code 1: ValueError: the reason")
    words = [line.split()[:2] for line in capsys.readouterr().out.splitlines()]
    assert words == [["start", "good"], ["done", "good"], ["start", "bad"], ["FAILED", "bad"]]


def test_each_job_is_tried_once_and_a_check_may_fail_it(tmp_path):
    jobs = [SmallJob(name, f"open('{name}', 'a').write('x')") for name in "abc"]
    states = run_all(jobs, tmp_path, 2, check=lambda job: "it is b" if job.job_id == "b" else "")
    assert [s["state"] for s in states] == ["done", "failed", "done"]
    assert states[1]["error"] == "it is b"
    assert [(tmp_path / n).read_text() for n in "abc"] == ["x", "x", "x"]


def test_a_state_of_another_identity_does_not_count(tmp_path):
    job, first = SmallJob("a", "pass"), JobFolder(tmp_path)
    first.write(job, "done", {})
    assert first.state(job)["state"] == "done"
    assert JobFolder(tmp_path, identity=lambda job: "another").state(job) == {"state": "waiting"}
    assert first.state(SmallJob("a", "1")) == {"state": "waiting"}


def test_a_job_whose_process_is_gone_waits_again(tmp_path):
    job, jobs = SmallJob("a", "pass"), JobFolder(tmp_path)
    for started, state in ((start_of(os.getpid()), "running"), (start_of(os.getpid()) - 60, "waiting"), (220042, "waiting")):
        jobs.write(job, "running", {"pid": os.getpid(), "started": started})  # the last: ticks, of older versions
        assert jobs.state(job)["state"] == state


def test_what_runs_is_killed_and_waits_when_the_runner_is_interrupted(tmp_path):
    class Interrupting(Reporter):
        def running(self, jobs):
            if (tmp_path / "pid").exists():
                raise KeyboardInterrupt

    program = "import os, time; open('p', 'w').write(str(os.getpid())); os.rename('p', 'pid'); time.sleep(60)"
    job = SmallJob("a", program)
    with pytest.raises(KeyboardInterrupt):
        JobRunner(JobFolder(tmp_path), {}, 1, Interrupting()).run(lambda: [job])
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
    assert read_json(tmp_path / "jobs" / "a.json")["state"] == "waiting"
    JobFolder(tmp_path).lock(job).close()


def test_a_silent_runner_on_another_machine_is_gone(tmp_path):
    job, jobs = SmallJob("a", "pass"), JobFolder(tmp_path)
    jobs.write(job, "running", {"pid": 1, "started": 1.0})
    write_json(jobs.state_file(job), {**read_json(jobs.state_file(job)), "host": "another"})
    assert jobs.state(job)["state"] == "running"
    os.utime(jobs.state_file(job), (time.time() - 3600,) * 2)
    assert jobs.state(job)["state"] == "waiting"


def test_a_job_is_typed_as_into_a_shell():
    assert typed(SmallJob("a", "print(1)", {"B": "2"})) == "B=2 python -c 'print(1)'"
    assert typed(SmallJob("a", "print(1)", {"B": "/my data#1"})) == "B='/my data#1' python -c 'print(1)'"


def test_the_error_of_a_log_is_its_last_line_that_looks_like_one(tmp_path):
    (tmp_path / "log").write_text("start\nRuntimeError: no memory\nexiting\n\n")
    assert last_error(tmp_path / "log", 1) == "exit code 1: RuntimeError: no memory"
    (tmp_path / "log").write_text("")
    assert last_error(tmp_path / "log", -9) == "exit code -9: no output"


def test_a_missing_program_is_named():
    with pytest.raises(UserError, match="no_such_command"):
        find_program("no_such_command")
