import os
import subprocess
import sys
import time

import pytest

from nnunet_sbldm.common.files import read_json, write_json
from nnunet_sbldm.common.job_state import JobFolder, typed
from nnunet_sbldm.common.steps import Step, run_steps
from nnunet_sbldm.types import UserError

ALLOCATE = "import time; block = bytearray(200 * 2**20); block[::4096] = bytes([1]) * len(block[::4096]); time.sleep(1.2)"


def count(name):
    """A step that appends a line to a file each time it runs."""
    return Step(name, name, ("python", "-c", f"open('{name}.txt', 'a').write('ran\\n')"), 1)


def runs(folder, name):
    return len((folder / f"{name}.txt").read_text().splitlines())


def test_a_finished_step_is_not_run_again(tmp_path):
    first = run_steps([count("a"), count("b")], tmp_path, {})
    assert run_steps([count("a"), count("b")], tmp_path, {}) == first
    assert [runs(tmp_path, n) for n in "ab"] == [1, 1]


def test_a_step_that_an_older_version_has_finished_is_not_run_again(tmp_path):
    step = count("a")
    result = {"name": "a", "title": "a", "command": typed(step), "seconds": 12.5, "peak_memory_mb": 34.0}
    write_json(tmp_path / "steps" / "a.json", result)
    assert vars(run_steps([step], tmp_path, {})[0]) == result
    assert not (tmp_path / "a.txt").exists()
    write_json(tmp_path / "steps" / "a.json", {**result, "command": "another"})
    run_steps([step, count("b")], tmp_path, {})
    assert [runs(tmp_path, n) for n in "ab"] == [1, 1]


def test_a_step_that_another_process_runs_is_left_to_it(tmp_path):
    with JobFolder(tmp_path, "steps").lock(count("a")), pytest.raises(UserError, match="Another process runs this command"):
        run_steps([count("a")], tmp_path, {})
    assert not (tmp_path / "a.txt").exists()


def test_what_a_step_says_of_its_progress_is_passed_on(tmp_path, capfd):
    program = ("import sys, time\n"
               "for p in range(0, 101, 2): sys.stderr.write(f'denoiser: {p} % ({p} of 100 steps)\\n')\n"
               "time.sleep(2.5)")
    run_steps([Step("a", "Train", ("python", "-c", program), 1)], tmp_path, {})
    assert "      denoiser: 100 % (100 of 100 steps)\n" in capfd.readouterr().out


def test_a_changed_step_is_run_again_with_all_that_follow(tmp_path):
    run_steps([count("a"), count("b"), count("c")], tmp_path, {})
    changed = Step("b", "b", (*count("b").command, "other"), 1)
    run_steps([count("a"), changed, count("c")], tmp_path, {})
    assert [runs(tmp_path, n) for n in "abc"] == [1, 2, 2]


def test_a_failing_step_shows_its_last_lines_and_runs_again(tmp_path, capfd):
    failing = Step("b", "b", ("python", "-c", "import sys; print('the reason'); sys.exit(3)"), 1)
    with pytest.raises(SystemExit) as error:
        run_steps([count("a"), failing], tmp_path, {})
    assert error.value.code == 1
    assert "the reason" in capfd.readouterr().err
    assert (tmp_path / "logs/b.log").read_text() == "the reason\n"
    run_steps([count("a"), count("b")], tmp_path, {})
    assert [runs(tmp_path, n) for n in "ab"] == [1, 1]


def test_variables_reach_a_step(tmp_path):
    command = ("python", "-c", "import os; print(os.environ['COMMON'], os.environ['OWN'])")
    run_steps([Step("a", "a", command, 1, {"OWN": "2"})], tmp_path, {"COMMON": "1", "OWN": "1"})
    assert (tmp_path / "logs/a.log").read_text() == "1 2\n"


@pytest.mark.parametrize("in_child", [False, True])
def test_memory_is_that_of_a_step_and_its_children(tmp_path, in_child):
    program = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {ALLOCATE!r}])" if in_child else ALLOCATE
    result = run_steps([Step("a", "a", ("python", "-c", program), 1)], tmp_path, {})[0]
    assert 200 < result.peak_memory_mb < 300
    assert result.seconds > 1
    assert read_json(tmp_path / "steps/a.json")["peak_memory_mb"] == result.peak_memory_mb


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_terminating_us_ends_the_running_command(tmp_path):
    sleeper = "import os, time; open('pid.tmp', 'w').write(str(os.getpid())); os.rename('pid.tmp', 'pid'); time.sleep(60)"
    program = ("from pathlib import Path; from nnunet_sbldm.common.steps import Step, run_steps; "
               f"run_steps([Step('a', 'a', ('python', '-c', {sleeper!r}), 1)], Path({str(tmp_path)!r}), {{}})")
    process = subprocess.Popen([sys.executable, "-c", program])
    while not (tmp_path / "pid").is_file():
        assert process.poll() is None
        time.sleep(0.05)
    process.terminate()
    assert process.wait(timeout=10) == 1
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
    assert read_json(tmp_path / "steps" / "a.json")["state"] == "waiting"
