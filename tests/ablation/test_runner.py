"""Running a table of jobs; jobs are small programs."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from nnunet_sbldm.ablation import runner as study_runner
from nnunet_sbldm.ablation.jobs import StudyJob
from nnunet_sbldm.ablation.runner import load_table, run_table, save_table, states_of, study_folder
from nnunet_sbldm.common.files import read_json, write_json
from nnunet_sbldm.common.job_state import SILENT_S
from nnunet_sbldm.common.locks import try_lock
from nnunet_sbldm.common.processes import start_of
from nnunet_sbldm.types import UserError


def job(name, program, *needs, **more):
    return StudyJob(name, "train", ("python", "-c", program), needs, **more)


def note(name, *needs, **more):
    """A job that appends to a file each time it runs."""
    return job(name, f"open('{name}.txt', 'a').write('ran\\n')", *needs, **more)


def runs(folder, name):
    return len((folder / f"{name}.txt").read_text().splitlines()) if (folder / f"{name}.txt").is_file() else 0


# --- the runner ----------------------------------------------------------------------------------------------------


def test_a_failed_job_blocks_its_dependents_alone_and_resumes(tmp_path):
    broken = job("broken", "import os, sys\nif not os.path.exists('mended'): raise ValueError('the reason')")
    jobs = [note("a"), broken, note("b", "a"), note("c", "broken"), note("d", "c")]
    assert run_table(jobs, tmp_path, {}, 2) == {"done": 2, "failed": 1, "blocked": 2}
    states = states_of(jobs, tmp_path)
    assert states["broken"]["error"] == "exit code 1: ValueError: the reason"
    assert states["d"]["error"] == "needs c"
    (tmp_path / "mended").touch()
    assert run_table(jobs, tmp_path, {}, 2) == {"done": 5}
    assert [runs(tmp_path, n) for n in "abcd"] == [1, 1, 1, 1]
    assert states_of(jobs, tmp_path)["a"]["seconds"] >= 0


def test_a_job_with_another_command_runs_again(tmp_path):
    run_table([note("a")], tmp_path, {}, 1)
    run_table([replace(note("a"), command=(*note("a").command, "more"))], tmp_path, {}, 1)
    assert runs(tmp_path, "a") == 2
    moved = replace(note("a"), command=(*note("a").command, "more", "-device", "cuda"), environment={"nnUNet_n_proc_DA": "4"})
    run_table([moved], tmp_path, {}, 1)
    assert runs(tmp_path, "a") == 2


@pytest.mark.parametrize(("own", "parallel_jobs", "expected"), [(None, 1, "6"), (None, 4, "1"), (None, 9, "1"), ("3", 2, "3")])
def test_jobs_share_the_cores_that_the_study_may_use(tmp_path, monkeypatch, own, parallel_jobs, expected):
    monkeypatch.setattr(study_runner, "usable_cores", lambda: 6)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if own:
        monkeypatch.setenv("OMP_NUM_THREADS", own)
    run_table([job("a", "import os; open('threads', 'w').write(os.environ['OMP_NUM_THREADS'])")], tmp_path, {}, parallel_jobs)
    assert (tmp_path / "threads").read_text() == expected


def test_no_more_jobs_at_a_time_than_asked(tmp_path):
    program = ("import os, pathlib, time; p = pathlib.Path(f'on_{os.getpid()}'); p.touch(); "
               "open('seen', 'a').write(f\"{len(list(pathlib.Path().glob('on_*')))}\\n\"); time.sleep(0.3); p.unlink()")
    run_table([job(f"j{i}", program) for i in range(5)], tmp_path, {}, 2)
    assert max(map(int, (tmp_path / "seen").read_text().split())) <= 2


def test_files_are_pruned_once_a_job_is_done(tmp_path):
    for name in ("checkpoint_best.pth", "checkpoint_final.pth", "progress.png"):
        (tmp_path / "model").mkdir(exist_ok=True)
        (tmp_path / "model" / name).touch()
    failing = job("a", "raise SystemExit(1)", deletes=("mod*/checkpoint_*.pth",))
    run_table([failing], tmp_path, {}, 1)
    assert len(list((tmp_path / "model").iterdir())) == 3
    run_table([note("a", deletes=("mod*/checkpoint_*.pth",))], tmp_path, {}, 1)
    assert [p.name for p in (tmp_path / "model").iterdir()] == ["progress.png"]


def test_variables_reach_a_job(tmp_path):
    printing = job("a", "import os; print(os.environ['COMMON'], os.environ['OWN'])", environment={"OWN": "2"})
    run_table([printing], tmp_path, {"COMMON": "1", "OWN": "1"}, 1)
    assert (tmp_path / "logs" / "a.log").read_text() == "1 2\n"


def test_a_job_whose_process_is_gone_waits_again(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    study_folder(tmp_path).write(note("a"), "running", {"pid": ended.pid})
    assert study_folder(tmp_path).state(note("a"))["state"] == "waiting"
    ours = start_of(os.getpid())
    study_folder(tmp_path).write(note("a"), "running", {"pid": os.getpid(), "started": ours - 3600})
    assert study_folder(tmp_path).state(note("a"))["state"] == "waiting"  # the number was given to another process
    study_folder(tmp_path).write(note("a"), "running", {"pid": os.getpid(), "started": ours})
    assert run_table([note("a"), note("b", "a"), note("c")], tmp_path, {}, 1) == {"running": 1, "waiting": 1, "done": 1}


def test_two_runners_do_not_start_one_job_twice(tmp_path):
    table = [job(f"j{i}", f"import time; open('j{i}.txt', 'a').write('ran\\n'); time.sleep(0.3)") for i in range(6)]
    save_table(table, {}, tmp_path)
    program = ("import sys; from pathlib import Path; from nnunet_sbldm.ablation.runner import load_table, run_table; "
               "folder = Path(sys.argv[1]); run_table(load_table(folder)[0], folder, {}, 2)")
    runners = [subprocess.Popen([sys.executable, "-c", program, str(tmp_path)]) for _ in range(3)]
    assert [r.wait() for r in runners] == [0, 0, 0]
    assert [runs(tmp_path, f"j{i}") for i in range(6)] == [1] * 6


def test_what_another_runner_has_just_finished_does_not_end_the_run(tmp_path, monkeypatch):
    calls = []

    def states_before_the_other(jobs, folder):
        states = states_of(jobs, folder)
        if not calls:
            calls.append(states)
            run_table([note("a")], folder, {}, 1)  # another runner, between our look and our start
        return states

    monkeypatch.setattr(study_runner, "states_of", states_before_the_other)
    assert run_table([note("a"), note("b", "a")], tmp_path, {}, 1) == {"done": 2}
    assert [runs(tmp_path, n) for n in "ab"] == [1, 1]


def test_a_job_counts_what_all_its_attempts_took(tmp_path):
    slow = job("a", "import os, time; time.sleep(0.5); raise SystemExit(not os.path.exists('mended'))")
    run_table([slow], tmp_path, {}, 1)
    once = study_folder(tmp_path).state(slow)["seconds"]
    (tmp_path / "mended").touch()
    run_table([slow], tmp_path, {}, 1)
    assert study_folder(tmp_path).state(slow)["seconds"] >= once + 0.5


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGHUP])
def test_terminating_the_runner_ends_its_jobs(tmp_path, end):
    sleeper = "import os, time; open('pid.tmp', 'w').write(str(os.getpid())); os.rename('pid.tmp', 'pid'); time.sleep(60)"
    save_table([job("a", sleeper)], {}, tmp_path)
    process = subprocess.Popen([sys.executable, "-m", "nnunet_sbldm.ablation.runner", str(tmp_path), "a"],
                               preexec_fn=lambda: signal.signal(end, signal.SIG_DFL))  # tests run under nohup, too
    while not (tmp_path / "pid").is_file():
        assert process.poll() is None
        time.sleep(0.05)
    time.sleep(0.3)  # long enough to be counted
    process.send_signal(end)
    assert process.wait(timeout=20) == 1
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
    assert read_json(tmp_path / "jobs" / "a.json")["state"] == "waiting"  # wherever it is looked at
    assert read_json(tmp_path / "jobs" / "a.json")["seconds"] > 0


def task(folder, name):
    """Exit code of a task of a cluster."""
    with pytest.raises(SystemExit) as e:
        study_runner.main([str(folder), name])
    return e.value.code


def test_a_task_that_is_submitted_again_waits_for_no_attempt_that_is_over(tmp_path):
    save_table([note("a")], {}, tmp_path)
    study_folder(tmp_path).write(note("a"), "running", {"pid": 1, "started": 1, "seconds": 60.0})
    state = tmp_path / "jobs" / "a.json"
    write_json(state, {**read_json(state), "host": "another"})
    assert run_table([note("a")], tmp_path, {}, 1) == {"running": 1}
    lock = try_lock(tmp_path / "jobs" / "a.lock")
    assert try_lock(tmp_path / "jobs" / "a.lock") is None
    assert task(tmp_path, "a") == 1
    lock.close()
    assert task(tmp_path, "a") == 0
    assert runs(tmp_path, "a") == 1
    assert study_folder(tmp_path).state(note("a"))["seconds"] >= 60


def test_a_run_that_ended_on_another_machine_without_a_word_is_taken_over(tmp_path):
    study_folder(tmp_path).write(note("a"), "running", {"pid": 1, "started": 1, "seconds": 60.0})
    state = tmp_path / "jobs" / "a.json"
    write_json(state, {**read_json(state), "host": "another"})
    assert run_table([note("a")], tmp_path, {}, 1) == {"running": 1}
    silent = time.time() - SILENT_S - 1
    os.utime(state, (silent, silent))
    with try_lock(tmp_path / "jobs" / "a.lock"):  # it was asleep
        run_table([note("a")], tmp_path, {}, 1)
        assert runs(tmp_path, "a") == 0
    assert run_table([note("a")], tmp_path, {}, 1) == {"done": 1}
    assert runs(tmp_path, "a") == 1


def test_a_job_that_leaves_out_files_has_failed_whatever_it_says(tmp_path):
    for name in ("one.png", "two.png", "two.json"):
        (tmp_path / "given").mkdir(exist_ok=True)
        (tmp_path / "given" / name).touch()
    made = "import os; os.makedirs('made', exist_ok=True); open('made/{}', 'w')"
    wanted = {"counterparts": ("given", "made")}
    assert run_table([job("a", made.format("one.png"), **wanted)], tmp_path, {}, 1) == {"failed": 1}
    error = read_json(tmp_path / "jobs" / "a.json")["error"]
    assert error == f"it ended well and left 1 of 2 files out, such as {tmp_path}/made/two.png"
    assert run_table([job("a", made.format("two.png"), **wanted)], tmp_path, {}, 1) == {"done": 1}
    save_table([job("a", "", **wanted)], {}, tmp_path)
    assert load_table(tmp_path)[0] == [job("a", "", **wanted)]


def test_a_task_of_a_cluster_runs_its_job_alone(tmp_path, capsys):
    save_table([note("a"), note("b", "a"), note("c")], {}, tmp_path)
    assert task(tmp_path, "b") == 1  # its need is not done
    assert [task(tmp_path, n) for n in "ab"] == [0, 0]
    assert task(tmp_path, "d") == 2
    assert "has no job d any more" in capsys.readouterr().err
    assert [runs(tmp_path, n) for n in "abc"] == [1, 1, 0]
    assert load_table(tmp_path)[0] == [note("a"), note("b", "a"), note("c")]


def test_a_folder_without_a_study(tmp_path):
    with pytest.raises(UserError, match="holds no study"):
        load_table(tmp_path)


def test_subsets_and_arms_are_worked_off_one_after_another(tmp_path):
    order = [note("plan5", subset="n5"), note("plan10", subset="n10"), note("train5a", "plan5", subset="n5", arm="a"),
             note("train5b", "plan5", subset="n5", arm="b"), note("train10a", "plan10", subset="n10", arm="a"),
             note("test5a", "train5a", subset="n5", arm="a")]
    table = [replace(j, command=("python", "-c", f"open('order', 'a').write('{j.job_id} ')")) for j in order]
    run_table(table, tmp_path, {}, 1)
    assert (tmp_path / "order").read_text().split() == ["plan5", "train5a", "test5a", "train5b", "plan10", "train10a"]
