"""What becomes of a study with its report."""

import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from study_fixtures import MISSED, predict

from nnunet_sbldm.ablation.arms import Arm
from nnunet_sbldm.ablation.report import write_study_report
from nnunet_sbldm.ablation.runner import study_folder
from nnunet_sbldm.ablation.runs import runs_of
from nnunet_sbldm.ablation.setup import set_up
from nnunet_sbldm.ablation.split import open_source_dataset
from nnunet_sbldm.ablation.tables import NOT_MEASURED
from nnunet_sbldm.common.files import read_json, write_json
from nnunet_sbldm.types import UserError


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
    source = open_source_dataset(study, folder)
    for case_id, told in groups[0]["cases"].items():
        case = source.read(case_id)
        assert told["foreground_ml"] == pytest.approx((case.label > 0).sum() * np.prod(case.geometry.spacing_mm) / 1000)
        assert len(told["brightness_auc"]) == len(case.image)
    assert "<td>n = 4, fold 0</td><td>4</td>" in html
    assert (folder / "report" / "cases.png").is_file()


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
    more = replace(study, draws=(0, 1), num_cases=(2, 3, 5), arms=(*study.arms, Arm("sbldm", "sbldm_25", 0.25)))
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


def test_a_training_without_an_audit_is_named(finished):
    study, jobs, folder = finished
    for file in (folder / "nnUNet_results").rglob("sbldm_audit.jsonl"):
        file.unlink()
    write_study_report(study, jobs, folder)
    warnings = read_json(folder / "report" / "results.json")["warnings"]
    assert "copy_paste_25 at 2: 2 of 2 trainings left no audit, so that it is not known what they drew." in warnings
    assert not any("real_only" in w for w in warnings)
    assert re.search(rf"^\| 2 \| real_only \| 2 \| {NOT_MEASURED} \|", (folder / "report" / "table.md").read_text(), re.MULTILINE)


def test_arms_with_a_generator_are_also_compared_with_copy_paste(finished):
    study, jobs, folder = finished
    study = replace(study, arms=(*study.arms, Arm("sbldm", "sbldm_25", 0.25)))
    jobs, _ = set_up(study, folder)
    source = open_source_dataset(study, folder)
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
