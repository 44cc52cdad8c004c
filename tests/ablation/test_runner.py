"""Running a table of jobs, and what becomes of a study with its report; jobs are small programs."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from phantom_fixtures import SMALL_PHANTOM

from nnunet_sbldm.ablation import runner as study_runner
from nnunet_sbldm.ablation.arms import Arm
from nnunet_sbldm.ablation.cases import CaseGroup, CaseRecord, record_cases, recorded_cases
from nnunet_sbldm.ablation.draws import RunDraws
from nnunet_sbldm.ablation.jobs import DatasetIds, StudyJob, plan_study_jobs, predictions_folder, runs_of
from nnunet_sbldm.ablation.report import write_study_report
from nnunet_sbldm.ablation.runner import load_table, run_table, save_table, states_of, study_folder
from nnunet_sbldm.ablation.scores import time_per_arm
from nnunet_sbldm.ablation.setup import set_up
from nnunet_sbldm.ablation.split import SourceDataset, Split, open_source
from nnunet_sbldm.ablation.study import EvaluationSettings, RunSettings, Study
from nnunet_sbldm.ablation.surface_distances import measure_folder, surface_distances
from nnunet_sbldm.ablation.tables import NOT_MEASURED, markdown_table
from nnunet_sbldm.common.files import read_json, write_json
from nnunet_sbldm.common.job_state import SILENT_S
from nnunet_sbldm.common.locks import try_lock
from nnunet_sbldm.common.processes import start_of
from nnunet_sbldm.data.formats import write_case
from nnunet_sbldm.data.phantom import write_phantom_dataset
from nnunet_sbldm.mixing.audit import append_to_audit_file
from nnunet_sbldm.types import Case, Geometry, UserError


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


# --- the report ----------------------------------------------------------------------------------------------------

ARMS = (Arm("real_only", "real_only"), Arm("copy_paste", "copy_paste_25", 0.25), Arm("oracle", "oracle", num_cases=4))
MISSED = {"real_only": 0.35, "copy_paste_25": 0.6, "oracle": 0.0, "sbldm_25": 0.35}
"""Share of the foreground that the made-up predictions miss."""


@pytest.fixture
def finished(tmp_path, monkeypatch):
    """A study whose predictions are the references with a part of the foreground removed; one run has failed."""
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    write_phantom_dataset(tmp_path / "raw", 900, 14, config=SMALL_PHANTOM)
    study = Study("900", (2, 3), ARMS, 9, seeds=(0, 1), evaluation=EvaluationSettings(num_resamples=300), run=RunSettings("cpu"))
    folder = tmp_path / "out"
    jobs, _ = set_up(study, folder)
    source = open_source(study, folder)
    for run in runs_of(study):
        predict(run, source, folder)
        if run.subset.key != "n3_f0_s1":
            audit(run, DatasetIds(read_json(folder / "datasets.json"))[run.subset.key], folder)
    for j in jobs:
        lost = j.arm == "copy_paste_25" and j.subset == "n3_f0_s1"
        state = ("failed" if lost and j.stage == "train" else "waiting") if lost else "done"
        study_folder(folder).write(j, state, {"seconds": 60.0, **({"error": "no memory"} if state == "failed" else {})})
    return study, jobs, folder


def audit(run, dataset, folder):
    """What the run drew: at n = 2 what was asked, at n = 3 no synthetic case."""
    model = f"{run.arm.what.trainer}__nnUNetPlans__{run.arm.name}"
    model = folder / "nnUNet_results" / f"Dataset{dataset:03d}_x" / model / "fold_all"
    model.mkdir(parents=True)
    for i, losses in enumerate(((9.0, 9.0), (-0.5, -0.6, -0.7, -0.8, -0.9))):  # interrupted once
        log = "".join(f"2026: train_loss {v} \n2026: val_loss 7\n" for v in losses)
        (model / f"training_log_2026_10_{9 + i}_08_00_00.txt").write_text(log)
    for epoch in range(2):
        drawn = round(100 * run.arm.ratio) if run.subset.num_cases == 2 else 0
        source = {"source": {"reason": "starting"}} if run.arm.ratio and not drawn else {}
        append_to_audit_file(model, {"epoch": epoch, "draws": 100, "synthetic_draws": drawn, "asked": run.arm.ratio, **source})


def predict(run, source, folder):
    target = folder / predictions_folder(run)
    rng = np.random.default_rng(zlib.crc32(run.key.encode()))
    entries = []
    for case_id in read_json(folder / "split.json")["test"]:
        case = source.read(case_id)
        kept = case.label * (rng.random(case.label.shape) >= MISSED[run.arm.name])
        write_case(replace(case, label=kept.astype(np.int16)), [folder / "unused" / f"{case_id}_0000.nii.gz",
                   folder / "unused" / f"{case_id}_0001.nii.gz"][: len(case.image)], target / f"{case_id}.nii.gz")
        true, found = int((case.label > 0).sum()), int((kept > 0).sum())
        dice = float("nan") if true + found == 0 else 2 * found / (true + found)
        counts = {"TP": found, "FP": 0, "FN": true - found, "n_ref": true, "n_pred": found}
        entries.append({"prediction_file": str(target / f"{case_id}.nii.gz"), "metrics": {"1": {"Dice": dice, **counts}}})
    write_json(target / "summary.json", {"metric_per_case": entries})
    write_json(target / "dataset.json", {k: v for k, v in source.dataset_json.items() if k != "dataset"})


def test_report_of_a_study(finished):
    study, jobs, folder = finished
    html = write_study_report(study, jobs, folder).read_text()
    results = read_json(folder / "report" / "results.json")
    rows = {(r["arm"], r["num_cases"]): r for r in results["comparisons"]}
    assert rows["copy_paste_25", 2]["verdict"] == "worse"
    assert rows["copy_paste_25", 2]["difference"]["mean"] < -0.1
    assert rows["oracle", 3]["verdict"] == "better"
    assert rows["oracle", 3]["mean"]["mean"] == pytest.approx(1)
    assert (rows["copy_paste_25", 2]["num_runs"], rows["copy_paste_25", 3]["num_runs"]) == (2, 1)
    without_pictures = re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]+", "DATA", html)
    assert not re.search(r"https?:|<link|<script|@import|url\(", without_pictures)
    assert set(re.findall(r'src="([^"]*)"', without_pictures)) == {"DATA"}
    assert "<b>worse: 2</b>\ncopy_paste_25 at 2; copy_paste_25 at 3" in html
    assert "9 of 10 trainings" in html
    assert "no memory" in html
    assert "Every arm trained nnU-Net&#39;s 3d_fullres" in html
    assert len(list((folder / "report" / "pictures").glob("*.png"))) == 3
    assert "Differences to real_only" in html


def test_report_tells_what_was_drawn_and_warns_where_that_is_not_what_was_asked(finished):
    study, jobs, folder = finished
    html = write_study_report(study, jobs, folder).read_text()
    results = read_json(folder / "report" / "results.json")
    shares = {(r["arm"], r["num_cases"]): r["draws"] for r in results["comparisons"]}
    assert shares["copy_paste_25", 2] == {"asked": 0.25, "drawn": 0.25, "lowest": 0.25, "highest": 0.25, "num_runs": 2}
    assert (shares["copy_paste_25", 3]["asked"], shares["copy_paste_25", 3]["drawn"]) == (0.25, 0)
    assert shares["real_only", 2]["drawn"] == 0
    (warning,) = [w for w in results["warnings"] if "copy_paste_25" in w]
    assert warning in html
    assert warning.startswith("copy_paste_25 at 3: 1 of 1 trainings drew another share of synthetic cases than asked, at worst "
                              "0.0 % instead of 25.0 % (fold 0, seed 0); without any, such a training is one on real cases alone")
    assert "none was there in the first 2 epoch(s)" in warning
    assert warning.endswith("the generator said: starting.")
    assert "| 3 | copy_paste_25 | 1 | 0.0 % (25.0 %) |" in (folder / "report" / "table.md").read_text()
    header = (folder / "report" / "table.csv").read_text().splitlines()[0].split(",")
    assert {"share_asked", "share_drawn", "share_lowest", "share_highest"} < set(header)


def test_report_tells_what_was_missed_and_how_far_trainings_came(finished):
    study, jobs, folder = finished
    html = write_study_report(study, jobs, folder).read_text()
    rows = {(r["arm"], r["num_cases"]): r for r in read_json(folder / "report" / "results.json")["metrics"]}
    assert set(rows) == {("real_only", 2), ("copy_paste_25", 2), ("real_only", 3), ("copy_paste_25", 3), ("oracle", 4)}
    for (arm, _), row in rows.items():
        assert row["training_loss"] == pytest.approx(-0.7)
        assert row["scores"]["precision"]["mean"] == 1
        assert row["false_voxels"] == 0
        assert (row["missed_voxels"] > 0) == (MISSED[arm] > 0)
        assert row["scores"]["recall"]["mean"] == pytest.approx(1 - MISSED[arm], abs=0.03)
    assert "<th>training loss</th><th>Dice</th><th>precision</th><th>recall</th>" in html
    for log in (folder / "nnUNet_results").rglob("training_log_*.txt"):
        log.unlink()
    write_study_report(study, jobs, folder)
    assert all(r["training_loss"] is None for r in read_json(folder / "report" / "results.json")["metrics"])


def test_report_shows_what_training_and_test_cases_are_like(finished):
    study, jobs, folder = finished
    html = write_study_report(study, jobs, folder).read_text()
    split, groups = read_json(folder / "split.json"), read_json(folder / "report" / "results.json")["cases"]
    assert [g["name"] for g in groups] == ["test cases", "n = 2, fold 0", "n = 3, fold 0", "n = 4, fold 0"]
    assert [list(g["cases"]) for g in groups] == [split["test"], *(split["order"]["0"][:n] for n in (2, 3, 4))]
    source = open_source(study, folder)
    for case_id, told in groups[0]["cases"].items():
        case = source.read(case_id)
        assert told["foreground_ml"] == pytest.approx((case.label > 0).sum() * np.prod(case.geometry.spacing_mm) / 1000)
        assert len(told["brightness_auc"]) == len(case.image)
    assert "<td>n = 4, fold 0</td><td>4</td>" in html
    assert (folder / "report" / "cases.png").is_file()


def record_of_box(folder: Path, foreground: float, around: float, lesion: int) -> CaseRecord:
    """Record of a case with a box of ``foreground`` in ``around``, labelled ``lesion``, and voxels to ignore beside it."""
    dataset = folder / "Dataset901_Box"
    image, label = np.full((2, 8, 12, 12), around, np.float32), np.zeros((8, 12, 12), np.int16)
    image[0, :, 8:], label[:, 8:] = 9, 2  # nothing of what is ignored counts
    image[0, 3:5, 3:5, 3:5], label[3:5, 3:5, 3:5] = foreground, lesion
    image[1] = np.arange(12) + 1.0  # as bright inside as around, in the second channel
    files = [dataset / "imagesTr" / f"box_000{c}.nii.gz" for c in (0, 1)]
    write_case(Case("box", image, label, Geometry((2.0, 1.0, 1.0))), files, dataset / "labelsTr" / "box.nii.gz")
    labels = {"background": 0, "lesion": 1, "ignore": 2}
    source = SourceDataset(dataset, {"labels": labels, "file_ending": ".nii.gz", "channel_names": {"0": "a", "1": "b"}},
                           {"box": {"images": list(map(str, files)), "label": str(dataset / "labelsTr" / "box.nii.gz")}}, {})
    record = record_cases(Study("901", (1,), ARMS[:1], 1), source, Split(("box",), {0: ()}, {"box": "box"}), folder)["box"]
    assert recorded_cases(folder)["box"] == record
    return record


@pytest.mark.parametrize(("foreground", "around", "auc"), [(2.0, 1.0, 1.0), (1.0, 2.0, 0.0), (2.0, 2.0, 0.5)])
def test_brightness_of_the_foreground_is_told_by_channel_and_without_ignored_voxels(tmp_path, foreground, around, auc):
    record = record_of_box(tmp_path, foreground, around, lesion=1)
    assert record.foreground_ml == pytest.approx(8 * 2 / 1000)
    assert record.brightness_auc[0] == auc
    assert record.brightness_auc[1] == pytest.approx(0.5, abs=0.15)


def test_a_case_without_foreground_has_no_brightness(tmp_path):
    record = record_of_box(tmp_path, 2.0, 1.0, lesion=0)
    assert record.foreground_ml == 0
    assert record.brightness_auc == (None, None)
    group = CaseGroup("test cases", {"box": record})
    assert group.volumes_ml() == group.aucs(0) == group.aucs(1) == []


def test_a_study_without_records_of_its_cases_says_what_makes_them(tmp_path):
    with pytest.raises(UserError, match=r"cases.json is missing: sbldm_ablation run makes it"):
        recorded_cases(tmp_path)


def test_a_study_in_which_more_real_cases_do_not_help_says_so(finished):
    study, jobs, folder = finished
    write_study_report(study, jobs, folder)
    assert not any(w.startswith("oracle") for w in read_json(folder / "report" / "results.json")["warnings"])
    for seed in study.seeds:
        shutil.copy(folder / f"predictions/n3_f0_s{seed}.real_only/summary.json", folder / f"predictions/n4_f0_s{seed}.oracle")
    html = write_study_report(study, jobs, folder).read_text()
    warnings = [w for w in read_json(folder / "report" / "results.json")["warnings"] if w.startswith("oracle")]
    assert [w[:13] for w in warnings] == ["oracle at 2: ", "oracle at 3: "]
    zero = r"[+-]0\.0"
    assert re.search(rf"4 real cases do not bring a gain that shows over 3 \({zero} \[{zero}, {zero}\] points\)", warnings[1])
    assert warnings[1] in html


def test_another_training_on_as_many_cases_is_no_reason_to_train_longer(finished):
    study, _, folder = finished
    again = replace(study, arms=(*study.arms, Arm("oracle", "real_again", num_cases=3)))
    jobs, _ = set_up(again, folder)
    for seed in study.seeds:
        shutil.copytree(folder / f"predictions/n3_f0_s{seed}.real_only", folder / f"predictions/n3_f0_s{seed}.real_again")
    for j in jobs:
        if j.arm == "real_again":
            study_folder(folder).write(j, "done", {"seconds": 60.0})
    write_study_report(again, jobs, folder)
    results = read_json(folder / "report" / "results.json")
    (row,) = [r for r in results["comparisons"] if (r["arm"], r["num_cases"]) == ("real_again", 3)]
    assert row["difference"]["mean"] == 0
    assert not [w for w in results["warnings"] if w.startswith("real_again at 3")]


def test_a_structure_that_a_case_does_not_have_counts_in_every_arm(finished):
    """1 where none is predicted, 0 where some is: so that a false alarm, and its end, show in paired differences."""
    study, jobs, folder = finished
    for arm, predicted in (("real_only", 5), ("copy_paste_25", 0)):
        for seed in study.seeds:
            file = folder / f"predictions/n2_f0_s{seed}.{arm}" / "summary.json"
            summary = read_json(file)
            dice = 0.0 if predicted else float("nan")
            for entry in summary["metric_per_case"]:
                entry["metrics"]["1"] = {"Dice": dice, "TP": 0, "FP": predicted, "FN": 0, "n_ref": 0, "n_pred": predicted}
            write_json(file, summary)
    write_study_report(study, jobs, folder)
    rows = {(r["arm"], r["num_cases"]): r for r in read_json(folder / "report" / "results.json")["comparisons"]}
    assert rows["real_only", 2]["mean"]["mean"] == 0
    assert rows["copy_paste_25", 2]["mean"]["mean"] == 1
    assert rows["copy_paste_25", 2]["difference"]["mean"] == 1


def test_scans_of_a_patient_are_no_independent_cases(finished):
    """All scans of a patient change alike: nine cases of three patients are three pairs, too few for a test."""
    study, jobs, folder = finished
    split = read_json(folder / "split.json")
    write_json(folder / "split.json", split | {"patients": {c: f"patient_{i // 3}" for i, c in enumerate(split["test"])}})
    html = write_study_report(study, jobs, folder).read_text()
    results = read_json(folder / "report" / "results.json")
    row = next(r for r in results["comparisons"] if (r["arm"], r["num_cases"]) == ("copy_paste_25", 2))
    assert (row["num_pairs"], row["num_worse"], row["p"], row["verdict"]) == (3, 3, None, "tends worse")
    assert "Only 3 test patients" in results["warnings"][0]
    assert "patients better / worse" in html
    assert "averaged over structures, then over the scans of a patient" in results["methods"]
    assert "resample test patients and repetitions; differences are paired by patient," in results["methods"]


def test_the_report_is_of_what_is_finished_and_measured(finished):
    study, jobs, folder = finished
    more = replace(study, folds=(0, 1), num_cases=(2, 3, 5), arms=(*study.arms, Arm("sbldm", "sbldm_25", 0.25)))
    html = write_study_report(more, jobs, folder).read_text()
    assert "nnU-Net trained on 2, 3 real cases" in html
    assert [r["arm"] for r in read_json(folder / "report" / "results.json")["time"]] == [a.name for a in study.arms]
    methods = (folder / "report" / "methods.txt").read_text()
    assert "for 1 draw(s) (0) and 2 repetition(s)" in methods
    assert "sbldm_25" not in methods
    distances = replace(study, evaluation=replace(study.evaluation, surface_distances=True))
    with pytest.raises(UserError, match="Surface distances at 1 mm are not measured: sbldm_ablation run"):
        write_study_report(distances, jobs, folder)
    narrow = replace(study, evaluation=replace(study.evaluation, confidence=0.8))
    write_study_report(narrow, jobs, folder)
    assert read_json(folder / "report" / "results.json")["study"]["evaluation"]["confidence"] == 0.8


def test_without_the_images_there_is_a_report_without_pictures(finished, tmp_path):
    study, jobs, folder = finished
    assert "Best, median and worst" in write_study_report(study, jobs, folder).read_text()
    (tmp_path / "raw").rename(tmp_path / "archive")
    html = write_study_report(study, jobs, folder).read_text()
    (warning,) = [w for w in read_json(folder / "report" / "results.json")["warnings"] if "no pictures" in w]
    assert f"18 files of test cases are not where they were, such as {tmp_path}/raw/" in warning
    assert 'alt="Test cases of' not in html


def test_few_draws_of_training_cases_are_warned_of_whatever_the_seeds(finished):
    study, jobs, folder = finished
    html = write_study_report(study, jobs, folder).read_text()
    (warning,) = [w for w in read_json(folder / "report" / "results.json")["warnings"] if w.startswith("Fewer than three")]
    assert "(folds) in 6 of 6 rows: however many seeds" in warning
    assert warning in html


def test_a_generator_on_a_gpu_of_its_own_counts(finished):
    study, _, folder = finished
    arms = (Arm("real_only", "real_only"), Arm("on_the_fly", "on_the_fly_25", 0.25))
    for generator_device, hours in ((None, 4 * 60 / 3600), ("cuda:1", 8 * 60 / 3600)):
        trained = replace(study, arms=arms, run=RunSettings("cuda", generator_device=generator_device))
        jobs = plan_study_jobs(trained, DatasetIds({}))
        for j in jobs:
            study_folder(folder).write(j, "done", {"seconds": 60.0 if j.stage == "train" else 0.0})
        row = next(r for r in time_per_arm(trained, jobs, folder) if r["arm"] == "on_the_fly_25")
        assert row["gpu_hours"] == pytest.approx(hours, abs=0.001)


def test_a_training_without_an_audit_is_named(finished):
    study, jobs, folder = finished
    for file in (folder / "nnUNet_results").rglob("sbldm_audit.jsonl"):
        file.unlink()
    write_study_report(study, jobs, folder)
    warnings = read_json(folder / "report" / "results.json")["warnings"]
    assert "copy_paste_25 at 2: 2 of 2 trainings left no audit, so that it is not known what they drew." in warnings
    assert not any("real_only" in w for w in warnings)
    assert re.search(rf"^\| 2 \| real_only \| 2 \| {NOT_MEASURED} \|", (folder / "report" / "table.md").read_text(), re.MULTILINE)


def test_a_share_may_miss_by_a_few_draws():
    exact = RunDraws("a", 5, 0, 0, 100, 0.25, 0.25, 0, "")
    assert not exact.differs
    assert not replace(exact, drawn=0.3).differs
    assert replace(exact, drawn=0.32).differs
    assert replace(exact, draws=10000, drawn=0.28).differs


def test_arms_with_a_generator_are_also_compared_with_copy_paste(finished):
    study, jobs, folder = finished
    study = replace(study, arms=(*study.arms, Arm("sbldm", "sbldm_25", 0.25)))
    jobs, _ = set_up(study, folder)
    source = open_source(study, folder)
    for run in runs_of(study):
        if run.arm.kind == "sbldm":
            predict(run, source, folder)
    for j in jobs:
        if j.arm == "sbldm_25" or not j.arm:
            study_folder(folder).write(j, "done", {"seconds": 60.0})
    html = write_study_report(study, jobs, folder).read_text()
    rows = {(r["arm"], r["num_cases"]): r["baseline"] for r in read_json(folder / "report" / "results.json")["comparisons"]}
    assert {key for key, baseline in rows.items() if baseline} == {("sbldm_25", 2), ("sbldm_25", 3)}
    assert rows["sbldm_25", 2]["arm"] == "copy_paste_25"
    assert rows["sbldm_25", 2]["verdict"] == "better"
    assert "Compared with copy-paste" in html
    assert "| difference to copy_paste_25 [95 % CI] |" in (folder / "report" / "table.md").read_text().splitlines()[0]


def test_tables_of_a_study(finished):
    study, jobs, folder = finished
    write_study_report(study, jobs, folder)
    report = folder / "report"
    cases = (report / "cases.csv").read_text().splitlines()
    assert cases[0].startswith("arm,num_cases,fold,seed,case_id,label,dice")
    assert len(cases) == 1 + 9 * 9
    assert len((report / "table.csv").read_text().splitlines()) == 1 + 6
    table = (report / "table.md").read_text()
    assert re.search(r"\| 2 \| copy_paste_25 \| 2 \| 25\.0 % \(25\.0 %\) "
                     r"\| 0\.\d{3} \[0\.\d{3}, 0\.\d{3}\] \| -\d+\.\d \[-.*\| worse \|", table)
    time_rows = {r["arm"]: r for r in read_json(report / "results.json")["time"]}
    assert (time_rows["real_only"]["training_seconds"], time_rows["real_only"]["gpu_hours"]) == (240.0, 0.0)
    methods = (report / "methods.txt").read_text()
    assert "9 test cases" in methods
    assert "oracle (real cases alone, 4 cases)" in methods


def test_a_study_without_the_reference_cannot_be_reported(finished):
    study, jobs, folder = finished
    for j in jobs:
        if j.stage == "evaluate" and j.arm == "real_only":
            (folder / "jobs" / f"{j.job_id}.json").unlink()
    with pytest.raises(UserError, match="No run of real_only is finished"):
        write_study_report(study, jobs, folder)


def test_a_generator_that_has_seen_a_test_case_voids_the_report(finished):
    study, jobs, folder = finished
    seen = read_json(folder / "cases.json")[read_json(folder / "split.json")["test"][0]]["content"]
    write_json(folder / "nnUNet_results" / "Dataset001_x" / "SBLDM__nnUNetPlans__tiny" / "fold_all" / "training_cases.json",
               [{**seen, "case_id": "renamed"}])
    with pytest.raises(UserError, match="has seen test cases"):
        write_study_report(study, jobs, folder)


def test_surface_distances_do_not_look_at_ignored_voxels(tmp_path):
    pytest.importorskip("monai")
    reference, prediction = np.zeros((8, 16, 16), np.int16), np.zeros((8, 16, 16), np.int16)
    reference[2:6, 2:6, 2:6] = prediction[2:6, 2:6, 2:6] = 1
    reference[:, 10:], prediction[2:6, 11:15, 2:6] = 2, 1
    for folder, label in (("labels", reference), ("predictions", prediction)):
        case = Case("a", np.ones((1, *label.shape), np.float32), label, Geometry((1.0, 1.0, 1.0)))
        write_case(case, [tmp_path / "unused" / "a_0000.nii.gz"], tmp_path / folder / "a.nii.gz")
    write_json(tmp_path / "predictions" / "dataset.json", {
        "labels": {"background": 0, "lesion": 1, "ignore": 2}, "channel_names": {"0": "a"}, "file_ending": ".nii.gz"})
    write_json(tmp_path / "predictions" / "plans.json", {"plans_name": "nnUNetPlans"})
    found = read_json(measure_folder(tmp_path / "labels", tmp_path / "predictions", 1.0))
    assert found == {"a": {"1": {"NSD": 1.0, "HD95": 0.0}}}


def test_surface_distances_of_a_shifted_box():
    pytest.importorskip("monai")

    box, shifted, empty = (np.zeros((12, 20, 20), bool) for _ in range(3))
    box[3:9, 5:15, 5:15] = True
    shifted[3:9, 7:17, 5:15] = True
    same = surface_distances(box, box, (2.0, 1.0, 1.0), 1.0)
    assert same == {"NSD": 1.0, "HD95": 0.0}
    moved = surface_distances(box, shifted, (2.0, 1.5, 1.0), 1.0)
    assert moved["HD95"] == pytest.approx(3.0)
    assert 0.5 < moved["NSD"] < 1
    assert surface_distances(box, empty, (1.0, 1.0, 1.0), 1.0) == {"NSD": 0.0, "HD95": None}
    assert surface_distances(empty, empty, (1.0, 1.0, 1.0), 1.0) == {"NSD": 1.0, "HD95": None}


def test_missing_numbers_are_dashes():
    row = {"num_cases": 5, "arm": "a", "num_runs": 1, "mean": {"mean": 0.5, "low": None, "high": None}, "difference": None,
           "p_holm": None, "verdict": None, "draws": None, "baseline": None}
    assert markdown_table([row], 0.95).splitlines()[2] == f"| 5 | a | 1 | {NOT_MEASURED} | 0.500 |{f' {NOT_MEASURED} |' * 3}"
