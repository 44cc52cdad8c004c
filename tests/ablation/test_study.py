"""A study's file, data, table of jobs and statistics."""

import json
import re
import shlex
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from phantom_fixtures import SMALL_PHANTOM, hash_tree

from nnunet_sbldm.ablation import runner as study_runner
from nnunet_sbldm.ablation.arms import ARM_KINDS
from nnunet_sbldm.ablation.cases import record_cases, refuse_content_leaks
from nnunet_sbldm.ablation.file import read_study
from nnunet_sbldm.ablation.jobs import DatasetIds, plan_study_jobs, runs_of
from nnunet_sbldm.ablation.methods import methods_paragraph
from nnunet_sbldm.ablation.runner import study_folder
from nnunet_sbldm.ablation.setup import refuse_other_study, set_up
from nnunet_sbldm.ablation.slurm import write_slurm_scripts
from nnunet_sbldm.ablation.split import SourceDataset, Subset, largest_subset, open_source, split_cases
from nnunet_sbldm.ablation.statistics import (
    Comparison,
    Interval,
    compare,
    holm,
    interval_of_mean,
    signed_rank,
    terciles,
    verdict,
)
from nnunet_sbldm.cli.ablation import ablation_entry
from nnunet_sbldm.common.files import read_json, write_json
from nnunet_sbldm.data.phantom import write_phantom_dataset
from nnunet_sbldm.types import UserError

STUDIES = Path(__file__).parents[2] / "benchmarks" / "studies"
ALL_ARMS = [*(k for k in ARM_KINDS if k != "oracle"), {"oracle": {"num_cases": 6}}]
SMALL = {"dataset": 900, "num_cases": [2, 4], "test_cases": 3, "arms": ["real_only", "copy_paste"]}


@pytest.fixture
def study_of(tmp_path):
    """Writes a study, JSON being YAML, and reads it."""
    def read(**content):
        path = tmp_path / "study.yaml"
        path.write_text(json.dumps({**SMALL, **content}))
        return read_study(path)

    return read


@pytest.fixture
def raw(tmp_path, monkeypatch):
    """Ten raw phantom cases in ``nnUNet_raw``."""
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    return write_phantom_dataset(tmp_path / "raw", 900, 10, config=SMALL_PHANTOM)


# --- the file ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("content", "message"), [
    ({"arm": []}, "the key 'arm' is unknown, did you mean 'arms'"),
    ({"arms": ["real_only", "copypaste"]}, "the arm 'copypaste' is unknown, did you mean 'copy_paste'"),
    ({"arms": ["real_only", {"sbldm": {"ration": 0.5}}]}, "the key 'ration' is unknown, did you mean 'ratio'"),
    ({"arms": ["copy_paste"]}, "the arm real_only is missing"),
    ({"arms": ["real_only", {"sbldm": {"ratio": 2}}]}, "ratio must be a number from 0 to 1"),
    ({"arms": ["real_only", {"oracle": {}}]}, "oracle needs num_cases"),
    ({"arms": ["real_only", "real_only"]}, "two arms are called real_only"),
    ({"arms": ["real_only", {"sbldm": {"name": "a/b"}}]}, "the name of an arm is part of file names"),
    ({"arms": ["real_only", {"synthetic_only": {"ratio": 0.5}}]}, "the key 'ratio' is unknown"),
    ({"arms": "real_only"}, "arms must be a list of arms"),
    ({"num_cases": [5, 5]}, "num_cases must be"),
    ({"num_cases": 1}, "num_cases must be"),
    ({"training": {"epochs": 3}}, "the key 'epochs' is unknown, did you mean 'num_epochs'"),
    ({"training": [3]}, "training must be keys and values"),
    ({"generator": {"preset": "tinny"}}, "preset must be one of tiny"),
    ({"generator": {"preset": "tiny_x"}}, "preset must be one of tiny, small, base, or such a name with a length"),
    ({"arms": ["real_only", {"on_the_fly": {"wait_s": -1}}]}, "wait_s must be a number of seconds from 0 to 600"),
    ({"arms": ["real_only", {"sbldm": {"edit_kinds": ["add"]}}]}, "the key 'edit_kinds' is unknown"),
    ({"arms": ["real_only", {"sbldm": {"wait_s": 10}}]}, "the key 'wait_s' is unknown"),
    ({"arms": ["real_only", {"sbldm": {"size_range": [30]}}]}, "size_range must be a list of two volumes in ml"),
    ({"arms": ["real_only", {"sbldm_edit": {"size_range": [60, 30]}}]}, "size_range must be a list of two volumes in ml"),
    ({"arms": ["real_only", {"copy_paste": {"size_range": [30, 60]}}]}, "the key 'size_range' is unknown"),
    ({"run": {"device": "gpu"}}, "device must be one of cpu"),
    ({"run": {"generator_device": "cuda:x"}}, "generator_device must be a device such as cuda:1"),
    ({"generator": {"steps": 2000}}, "steps must be a whole number from 1 to 1000"),
    ({"generator": {"cases_per_real": float("inf")}}, "cases_per_real must be"),
    ({"arms": ["real_only", {"sbldm": {"name": "3d_fullres"}}]}, "an arm cannot be called 3d_fullres"),
    ({"arms": ["real_only", {"sbldm": {"name": "3d_study"}}]}, "an arm cannot be called 3d_study"),
    ({"arms": ["real_only", {"sbldm": {"name": "a" * 101}}]}, "100 at most"),
])
def test_bad_studies_are_refused_with_what_would_be_right(study_of, content, message):
    with pytest.raises(UserError, match=message):
        study_of(**content)


def test_a_file_that_is_no_yaml_or_lacks_keys(tmp_path):
    (tmp_path / "bad.yaml").write_text("arms: [real_only")
    (tmp_path / "short.yaml").write_text("dataset: 4")
    (tmp_path / "twice.yaml").write_text("dataset: 4\narms:\n  - sbldm: {ratio: 0.5, ratio: 0.25}\n")
    (tmp_path / "endless.yaml").write_text("dataset: &a [*a]\n")
    for name, message in (("bad", "is not valid YAML"), ("endless", "holds itself"),
                          ("twice", "line 3: the key 'ratio' stands there twice"),
                          ("short", "num_cases, arms, test_cases must be given"),
                          ("none", "is not a file")):
        with pytest.raises(UserError, match=message):
            read_study(tmp_path / f"{name}.yaml")


def test_numbers_with_leading_zeros_and_dates_are_what_they_look_like(tmp_path):
    (tmp_path / "study.yaml").write_text("dataset: 010\nnum_cases: 5\ntest_cases: [001, 12_05, 2020-01-01]\narms: [real_only]\n")
    study = read_study(tmp_path / "study.yaml")
    assert (study.dataset, study.test_cases, study.num_cases) == ("10", ("001", "12_05", "2020-01-01"), (5,))


def test_several_ratios_are_several_arms(study_of):
    arms = study_of(arms=["real_only", {"sbldm": {"ratio": [0.125, 0.5], "schedule": "ramp_down"}}, "pretrain"]).arms
    assert [a.name for a in arms] == ["real_only", "sbldm_12p5_ramp_down", "sbldm_50_ramp_down", "pretrain_50"]
    assert (arms[1].ratio, arms[3].schedule) == (0.125, "pretrain")


@pytest.mark.parametrize("file", sorted(STUDIES.glob("*.yaml")), ids=lambda p: p.stem)
def test_studies_that_come_along_are_valid(file):
    study = read_study(file)
    jobs = plan_study_jobs(study, DatasetIds({}))
    assert len(jobs) > 3 * len(runs_of(study))


# --- the data ------------------------------------------------------------------------------------------------------


@given(st.integers(0, 50), st.integers(2, 5), st.integers(1, 4))
def test_subsets_are_nested_and_no_patient_is_on_both_sides(seed, scans, num_test):
    cases = [f"case_{i:02d}" for i in range(20)]
    groups = {c: f"patient_{i // scans}" for i, c in enumerate(cases)}
    split = split_with(groups, seed, num_test)
    tested = {groups[c] for c in split.test}
    assert len(split.test) >= num_test
    for order in split.order.values():
        assert sorted({*order, *split.test}) == cases
        assert not {groups[c] for c in order} & tested
    small, large = (set(split.training(Subset(n, 1, 0))) for n in (2, 5))
    assert small < large
    assert split_with(groups, seed, num_test) == split


def split_with(groups, seed, num_test):
    """The split of a dataset that consists of ids alone."""
    import tempfile

    from nnunet_sbldm.ablation.arms import Arm
    from nnunet_sbldm.ablation.study import Study

    with tempfile.TemporaryDirectory() as folder:
        write_json(Path(folder) / "groups.json", groups)
        study = Study("1", (2, 5), (Arm("real_only", "real_only"),), num_test, (0, 1), split_seed=seed,
                      groups=f"{folder}/groups.json")
        return split_cases(study, SourceDataset(Path("Dataset001_X"), {}, {c: {} for c in groups}, {}))


def test_too_few_cases_and_unknown_ones(study_of, raw, tmp_path):
    source = open_source(study_of(), tmp_path)
    for content, message in (({"num_cases": 8}, "has 7 case.s. besides 3 test case.s.; the study asks for 8"),
                             ({"arms": ["real_only", {"oracle": {"num_cases": 9}}]}, "asks for 9"),
                             ({"num_cases": 7, "folds": [0, 1]}, "7 are all of them, the same in each of 2 folds"),
                             ({"test_cases": ["nobody"]}, "test_cases names nobody"),
                             ({"test_cases": "imagesTs"}, "holds no case")):
        with pytest.raises(UserError, match=message):
            split_cases(study_of(**content), open_source(study_of(**content), tmp_path))
    groups = {c: "one" if c in ("phantom_000", "phantom_001") else c for c in source.case_files}
    write_json(tmp_path / "groups.json", groups)
    with pytest.raises(UserError, match="hold only some scans of one"):
        split_cases(study_of(groups="groups.json", test_cases=["phantom_000"]), source)


def test_patients_of_imagests_are_not_trained_on(study_of, raw, tmp_path):
    for part in ("images", "labels"):
        (raw / f"{part}Ts").mkdir(exist_ok=True)
        for file in (raw / f"{part}Tr").glob("phantom_000*"):
            file.rename(raw / f"{part}Ts" / file.name)
    groups = {f"phantom_{i:03d}": "P0" if i < 2 else f"P{i}" for i in range(10)}
    study = study_of(test_cases="imagesTs", groups="groups.json")
    write_json(tmp_path / "groups.json", groups)
    with pytest.raises(UserError, match="hold only some scans of P0"):
        split_cases(study, open_source(study, tmp_path))
    write_json(tmp_path / "groups.json", {**groups, "phantom_001": "P1"})
    split = split_cases(study, open_source(study, tmp_path))
    assert split.test == ("phantom_000",)
    assert len(split.order[0]) == 9
    del groups["phantom_000"]
    for bad, message in ((groups, "gives no patient for phantom_000"), ({**groups, "phantom_000": 7}, "must be a text"),
                         ([1], "must hold an object")):
        write_json(tmp_path / "groups.json", bad)
        with pytest.raises(UserError, match=message):
            split_cases(study, open_source(study, tmp_path))


def test_a_phantom_may_be_given_more_cases_before_the_study_is_set_up(study_of, tmp_path, monkeypatch):
    monkeypatch.setattr("nnunet_sbldm.ablation.split.write_phantom_dataset", partial(write_phantom_dataset, config=SMALL_PHANTOM))
    with pytest.raises(UserError, match="has 1 case"):
        set_up(study_of(dataset="phantom", num_phantom_cases=4), tmp_path / "out")
    set_up(study_of(dataset="phantom", num_phantom_cases=7), tmp_path / "out")


def test_a_renamed_copy_of_a_test_case_is_a_leak(study_of, raw, tmp_path):
    study = study_of(test_cases=["phantom_000"], num_cases=[9])
    source = open_source(study, tmp_path)
    split = split_cases(study, source)
    refuse_content_leaks(study, split, record_cases(study, source, split, tmp_path / "clean"))
    copied = replace(source, case_files={**source.case_files, "phantom_005": source.case_files["phantom_000"]})
    with pytest.raises(UserError, match="1 test case.s. are copies of training cases: phantom_000"):
        refuse_content_leaks(study, split, record_cases(study, copied, split, tmp_path / "leaking"))


def test_datasets_list_files_where_they_are(study_of, raw, tmp_path):
    study, folder = study_of(), tmp_path / "out"
    set_up(study, folder)
    contents = {p.parent.name: read_json(p) for p in (folder / "nnUNet_raw").glob("*/dataset.json")}
    split = read_json(folder / "split.json")
    assert sorted(len(c["dataset"]) for c in contents.values()) == [2, 4]
    for content in contents.values():
        assert not set(content["dataset"]) & set(split["test"])
        assert all(Path(e["label"]).parent == raw / "labelsTr" for e in content["dataset"].values())
        assert content["numTraining"] == len(content["dataset"])
    for splits in (folder / "nnUNet_raw").glob("*/splits_final.json"):
        assert all(not set(s["train"]) & set(s["val"]) for s in read_json(splits))
    images = list((folder / "test" / "imagesTs").iterdir())
    assert len(images) == 3 * len(content["channel_names"])
    assert all(p.is_symlink() for p in images)
    assert not list(folder.rglob("*.nii.gz")) or all(p.is_symlink() for p in folder.rglob("*.nii.gz"))


def test_a_study_may_grow_but_not_change(study_of, raw, tmp_path):
    folder = tmp_path / "out"
    before, _ = set_up(study_of(), folder)
    grown, _ = set_up(study_of(num_cases=[2, 3, 4], seeds=[0, 1], arms=[*SMALL["arms"], "sbldm"]), folder)
    commands = {j.job_id: j.command for j in grown}
    assert all(commands[j.job_id] == j.command for j in before if j.stage != "configure")
    for change, name in (({"test_cases": 4}, "test_cases"), ({"training": {"num_epochs": 3}}, "training"),
                         ({"arms": ["real_only", {"copy_paste": {"ratio": 0.5, "name": "copy_paste_25"}}]}, "arm copy_paste_25")):
        with pytest.raises(UserError, match=f"with other {name}"):
            refuse_other_study(study_of(**change), folder)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.txt").write_text("precious")
    with pytest.raises(UserError, match="holds other files"):
        set_up(study_of(), tmp_path / "thesis")


def test_a_study_may_move_with_the_file_of_its_patients(study_of, raw, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    patients = {f"phantom_{i:03d}": f"patient_{i // 2}" for i in range(10)}
    for name in ("groups.json", "elsewhere/groups.json"):
        write_json(tmp_path / name, patients)
    set_up(study_of(groups="groups.json"), tmp_path / "out")
    refuse_other_study(study_of(groups="elsewhere/groups.json"), tmp_path / "out")
    set_up(study_of(groups="elsewhere/groups.json"), tmp_path / "out")
    tested = read_json(tmp_path / "out" / "split.json")["test"]
    write_json(tmp_path / "groups.json", patients | {tested[0]: "another"})
    with pytest.raises(UserError, match="or their patients, are others than when"):
        set_up(study_of(groups="groups.json"), tmp_path / "out")
    write_json(tmp_path / "groups.json", patients)
    split = read_json(tmp_path / "out" / "split.json")
    write_json(tmp_path / "out" / "split.json", {k: v for k, v in split.items() if k != "patients"})  # of an older version
    set_up(study_of(groups="groups.json"), tmp_path / "out")
    assert read_json(tmp_path / "out" / "split.json") == split


def test_a_study_does_not_grow_under_a_run_that_knows_nothing_of_it(study_of, raw, tmp_path, monkeypatch):
    folder = tmp_path / "out"
    jobs, _ = set_up(study_of(), folder)
    with study_runner._working_on(jobs, folder), study_runner._working_on(jobs, folder):
        monkeypatch.setenv("nnUNet_extTrainer", "elsewhere")  # as in another shell: the jobs are the same
        set_up(study_of(), folder)
        before = hash_tree(folder)
        with pytest.raises(UserError, match="Another run is working on"):
            set_up(study_of(seeds=[0, 1]), folder)
        assert hash_tree(folder) == before
    set_up(study_of(seeds=[0, 1]), folder)
    with pytest.raises(UserError, match="Another run is working on"):  # it began with the jobs of before
        study_runner.run_table(jobs, folder, {}, 1)


def test_links_to_test_cases_follow_a_dataset_that_moves(study_of, raw, tmp_path, monkeypatch):
    set_up(study_of(), tmp_path / "out")
    raw.parent.rename(tmp_path / "moved")
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "moved"))
    assert not any(p.exists() for p in (tmp_path / "out" / "test" / "imagesTs").iterdir())
    set_up(study_of(), tmp_path / "out")
    assert all(p.exists() for p in (tmp_path / "out" / "test" / "imagesTs").iterdir())


def test_single_slices_are_refused_before_anything_is_made(study_of, raw, tmp_path, monkeypatch):
    def one_slice(source, case_id):
        case = read(source, case_id)
        return replace(case, image=case.image[:, :1], label=case.label[:1])

    read = SourceDataset.read
    monkeypatch.setattr(SourceDataset, "read", one_slice)
    with pytest.raises(UserError, match="are single slices: studies train 3d_fullres"):
        set_up(study_of(), tmp_path / "out")


def test_an_arm_does_not_come_back_as_another(study_of, raw, tmp_path):
    def arms(ratio):
        return ["real_only", *([{"copy_paste": {"ratio": ratio, "name": "cp"}}] if ratio else [])]

    for ratio in (0.25, None, None):
        set_up(study_of(arms=arms(ratio)), tmp_path / "out")
    with pytest.raises(UserError, match="with other arm cp"):
        set_up(study_of(arms=arms(0.5)), tmp_path / "out")
    set_up(study_of(arms=arms(0.25)), tmp_path / "out")


@pytest.mark.parametrize("test_cases", [3, ["phantom_000"]])
def test_the_cases_of_a_study_do_not_change(study_of, raw, tmp_path, test_cases):
    study = study_of(test_cases=test_cases, num_cases=[3])
    set_up(study, tmp_path / "out")
    before = read_json(tmp_path / "out" / "split.json")
    label = raw / "labelsTr" / f"{before['order']['0'][0]}.nii.gz"
    kept = label.read_bytes()
    label.write_bytes((raw / "labelsTr" / f"{before['test'][0]}.nii.gz").read_bytes())
    with pytest.raises(UserError, match=f"{before['order']['0'][0]} changed since .* was set up"):
        set_up(study, tmp_path / "out")
    label.write_bytes(kept)
    set_up(study, tmp_path / "out")
    for part, name in (("images", "phantom_{}_0000"), ("labels", "phantom_{}")):
        shutil.copy(raw / f"{part}Tr" / f"{name.format('005')}.nii.gz", raw / f"{part}Tr" / f"{name.format('010')}.nii.gz")
    with pytest.raises(UserError, match="its test cases and subsets would change"):
        set_up(study, tmp_path / "out")
    assert read_json(tmp_path / "out" / "split.json") == before


def test_a_study_of_a_version_that_knew_fewer_keys_of_an_arm_can_grow(study_of, raw, tmp_path):
    folder = tmp_path / "out"
    set_up(study_of(), folder)
    content = read_json(folder / "study.json")
    for arm in content["study"]["arms"]:
        del arm["wait_s"]
    write_json(folder / "study.json", content)
    set_up(study_of(num_cases=[2, 3, 4]), folder)


def test_a_missing_gpu_is_refused_before_anything_is_made(study_of, raw, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    study_of(run={"device": "cuda"})
    with pytest.raises(SystemExit) as e:
        ablation_entry(["run", str(tmp_path / "study.yaml"), "-o", str(tmp_path / "out")])
    assert e.value.code == 2
    assert "device is cuda, and this machine has 0 CUDA device(s)" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_status_counts_jobs_and_tells_the_last_error(study_of, raw, tmp_path, capsys):
    jobs, _ = set_up(study_of(), tmp_path / "out")
    (train,) = [j for j in jobs if j.job_id == "n2_f0_s0.real_only.train"]
    study_folder(tmp_path / "out").write(train, "failed", {"error": "exit code 1: no memory"})
    arguments = [str(tmp_path / "study.yaml"), "-o", str(tmp_path / "out")]
    ablation_entry(["status", *arguments])
    shown = capsys.readouterr().out
    assert re.search(r"^train +0 +0 +3 +1 +0$", shown, re.MULTILINE)
    assert re.search(r"^predict +0 +0 +3 +0 +1$", shown, re.MULTILINE)
    assert "failed: n2_f0_s0.real_only.train: exit code 1: no memory (log: " in shown
    study_of(test_cases=4)
    for action, message in (("status", "holds this study with other test_cases"), ("report", "other test_cases")):
        with pytest.raises(SystemExit) as e:
            ablation_entry([action, *arguments])
        assert e.value.code == 2
        assert message in capsys.readouterr().err


def test_a_dry_run_prints_the_commands_and_slurm_needs_no_gpu(study_of, raw, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    study_of(run={"device": "cuda"})
    arguments = ["run", str(tmp_path / "study.yaml"), "-o", str(tmp_path / "out")]
    ablation_entry([*arguments, "--dry_run"])
    command = "nnUNetv2_train 1 real_only all -tr nnUNetTrainerSBLDM -device cuda --c"
    shown = capsys.readouterr().out
    assert f"# n2_f0_s0.real_only.train\nnnUNet_n_proc_DA=0 {command}\n" in shown
    typed = shown.splitlines()
    assert f"export nnUNet_raw={tmp_path}/out/nnUNet_raw" in typed
    configure = shlex.split(typed[typed.index("# n2_f0_s0.configure") + 1])
    assert set(json.loads(configure[-1])) == {"real_only", "copy_paste_25"}
    ablation_entry([*arguments, "--slurm", "-np", "3"])
    assert (tmp_path / "out" / "slurm" / "submit.sh").is_file()
    assert "%3\n" in (tmp_path / "out" / "slurm" / "train.sbatch").read_text()


# --- the table -----------------------------------------------------------------------------------------------------


def test_every_job_stands_after_those_it_needs(study_of):
    jobs = plan_study_jobs(study_of(arms=ALL_ARMS, folds=[0, 1], seeds=[0, 1]), DatasetIds({}))
    place = {j.job_id: i for i, j in enumerate(jobs)}
    assert len(place) == len(jobs)
    assert all(place[n] < place[j.job_id] for j in jobs for n in j.needs)


def test_generators_are_trained_once_and_every_arm_gets_equal_iterations(study_of):
    study = study_of(arms=ALL_ARMS, training={"num_epochs": 7})
    jobs = plan_study_jobs(study, DatasetIds({}))
    count = {stage: sum(j.stage == stage for j in jobs) for stage in ("plan", "generator", "expand", "join", "train", "evaluate")}
    assert count == {"plan": 3, "generator": 2, "expand": 4, "join": 2, "train": 19, "evaluate": 19}
    blocks = [b for j in jobs if j.stage == "configure" for b in json.loads(j.command[-1]).values()]
    assert len(blocks) == 19
    assert {(b["num_epochs"], b["num_iterations_per_epoch"]) for b in blocks} == {(7, 250)}
    train = {j.arm: j.command for j in jobs if j.stage == "train" and j.subset == "n2_f0_s0"}
    assert train["real_only_no_augmentation"][5] == "nnUNetTrainerSBLDMNoDA"
    assert len({train[a][1] for a in ("real_only", "copy_paste_25", "on_the_fly_25")}) == 1
    assert len({train[a][1] for a in ("sbldm_25", "pretrain_50", "synthetic_only")}) == 1
    assert len({train[a][1] for a in ("real_only", "sbldm_25", "sbldm_edit_25", "sbldm_both_25")}) == 4


def test_generators_may_be_trained_longer(study_of):
    study = study_of(arms=["real_only", "sbldm", {"sbldm": {"preset": "tiny_x2"}}], generator={"preset": "small"}, num_cases=[2])
    jobs = {j.job_id: j for j in plan_study_jobs(study, DatasetIds({}))}
    assert jobs["n2_f0_s0.generator.tiny_x2"].command[5:9] == ("-preset", "tiny", "-length", "2")
    assert jobs["n2_f0_s0.generator.small"].command[5:8] == ("-preset", "small", "-seed")
    longer = jobs["n2_f0_s0.expand.tiny_x2.generate"]
    assert "n2_f0_s0.generator.tiny_x2" in longer.needs
    assert longer.command[longer.command.index("-preset") + 1] == "tiny_x2"
    assert "preset tiny_x2" in methods_paragraph(study, {}, 3)


def test_networks_of_a_study_predict_test_cases_alone(study_of):
    (configure, *_) = [j for j in plan_study_jobs(study_of(), DatasetIds({})) if j.stage == "configure"]
    assert all(block["final_validation"] is False for block in json.loads(configure.command[-1]).values())


def test_arms_may_choose_their_edits_and_share_the_generator(study_of):
    chosen = {"edit_kinds": ["replace", "remove"]}
    study = study_of(arms=["real_only", {"sbldm_edit": {}}, {"sbldm_edit": chosen}, {"sbldm_both": chosen}, "sbldm"])
    assert [a.name for a in study.arms][1:4] == ["sbldm_edit_25", "sbldm_edit_25_replace_remove", "sbldm_both_25_replace_remove"]
    jobs = {j.job_id: j for j in plan_study_jobs(study, DatasetIds({})) if j.job_id.startswith("n2_f0_s0")}
    assert len([j for j in jobs.values() if j.stage == "generator"]) == 1
    made = {i: j.command[j.command.index("-kind") + 1 :] for i, j in jobs.items() if j.stage == "expand" and "-kind" in j.command}
    assert {i: kinds[:2] for i, kinds in made.items()} == {
        "n2_f0_s0.expand.small.edit": ("replace", "add"), "n2_f0_s0.expand.small.edit_replace_remove": ("replace", "remove")}
    (joined,) = [j for j in jobs.values() if j.stage == "join"]
    assert set(joined.needs) == {"n2_f0_s0.expand.small.generate", "n2_f0_s0.expand.small.edit_replace_remove"}
    assert "share of draws 0.25, edits replace, remove)" in methods_paragraph(study, {}, 3)


def test_arms_may_ask_for_volumes_and_share_the_generator(study_of):
    large = {"size_range": [0.5, 150]}
    study = study_of(arms=["real_only", "sbldm_edit", {"sbldm_edit": {**large, "edit_kinds": ["add"]}}, {"sbldm_both": large}])
    assert [a.name for a in study.arms][2:] == ["sbldm_edit_25_0p5to150ml_add", "sbldm_both_25_0p5to150ml"]
    jobs = {j.job_id: j for j in plan_study_jobs(study, DatasetIds({})) if j.job_id.startswith("n2_f0_s0")}
    assert len([j for j in jobs.values() if j.stage == "generator"]) == 1
    asked = {i.removeprefix("n2_f0_s0.expand.small."): j.command[j.command.index("-size_range") :][1:3]
             for i, j in jobs.items() if j.stage == "expand" and "-size_range" in j.command}
    assert asked == dict.fromkeys(("edit_0p5to150ml_add", "edit_0p5to150ml", "generate_0p5to150ml"), ("0.5", "150"))
    assert "n2_f0_s0.expand.small.edit" in jobs
    assert len({j.command[1] for j in jobs.values() if j.stage == "train"}) == 4
    assert "share of draws 0.25, 0.5 to 150 ml asked for, edits add)" in methods_paragraph(study, {}, 3)


def test_arms_may_use_a_generator_of_more_cases(study_of):
    study = study_of(num_cases=[2, 3], arms=["real_only", "sbldm_edit", {"sbldm_edit": {"generator_cases": 5}}])
    assert study.arms[2].name == "sbldm_edit_25_from5"
    assert largest_subset(study) == 5
    ids = DatasetIds({})
    jobs = {j.job_id: j for j in plan_study_jobs(study, ids) if "_f0_s0" in j.job_id}
    assert {i for i, j in jobs.items() if j.stage in ("plan", "generator")} == {
        f"n{n}_f0_s0.{what}" for n in (2, 3, 5) for what in ("plan", "generator.small")}
    assert jobs["n5_f0_s0.generator.small"].command[:3] == ("sbldm_train", "-d", str(ids["n5_f0_s0"]))
    for n in (2, 3):
        own, foreign = (jobs[f"n{n}_f0_s0.expand.small.edit{word}"] for word in ("", "_from5"))
        assert (own.command[1:3], foreign.command[1:3]) == (("-d", str(ids[f"n{n}_f0_s0"])),) * 2
        assert "-preset" in own.command
        assert "-m" not in own.command
        folder = f"nnUNet_results/{ids.name('n5_f0_s0')}/SBLDM__nnUNetPlans__small/fold_all"
        assert foreign.command[foreign.command.index("-m") + 1] == folder
        assert "n5_f0_s0.generator.small" in foreign.needs
        assert "n5_f0_s0.generator.small" not in own.needs
    assert "share of draws 0.25, generator trained on 5 cases)" in methods_paragraph(study, {}, 3)


def test_a_study_may_train_in_bf16_on_a_cpu(study_of):
    mixed = study_of(training={"cpu_precision": "bf16"})
    (configure, *_) = [j for j in plan_study_jobs(mixed, DatasetIds({})) if j.stage == "configure"]
    assert {block.get("cpu_precision") for block in json.loads(configure.command[-1]).values()} == {"bf16"}
    assert "iterations in bf16, the same" in methods_paragraph(mixed, {}, 3)
    assert "bf16" not in methods_paragraph(study_of(), {}, 3)


def test_an_arm_on_the_fly_waits_for_its_first_cases_if_asked(study_of):
    waiting = study_of(arms=["real_only", {"on_the_fly": {"wait_s": 60}}, {"on_the_fly": {"name": "at_once"}}])
    (configure, *_) = [j for j in plan_study_jobs(waiting, DatasetIds({})) if j.stage == "configure"]
    blocks = json.loads(configure.command[-1])
    assert blocks["on_the_fly_25"]["wait_s"] == 60
    assert "wait_s" not in blocks["at_once"]
    said = "on_the_fly_25 (SBLDM, made on the fly, share of draws 0.25, after waiting at most 60 s for its first cases)"
    assert said in methods_paragraph(waiting, {}, 3)


def test_the_methods_paragraph_says_what_was_done(study_of):
    text = methods_paragraph(study_of(arms=["real_only", "copy_paste", "sbldm_edit", {"oracle": {"num_cases": 6}}]), {}, 3)
    families = "to real_only, and as a family of its own over those of arms with a generator to copy_paste_25;"
    for said in ("that resample test cases;", "edits replace, add where nothing else is said",
                 "oracle (real cases alone, 6 cases)", families):
        assert said in text
    text = methods_paragraph(study_of(folds=[0, 1], seeds=[0, 1]), {}, 3)
    assert "that resample test cases, draws and repetitions;" in text
    assert "over all differences to real_only;" in text
    assert "edits" not in text


def test_slurm_scripts_run_every_job_of_a_stage(study_of, tmp_path):
    study = study_of(arms=ALL_ARMS, run={"device": "cuda", "slurm_options": ["--time=4:00:00"], "parallel_jobs": 3})
    jobs = plan_study_jobs(study, DatasetIds({}))
    submit = write_slurm_scripts(jobs, study.run, {"nnUNet_raw": "/a b"}, tmp_path)
    script = (tmp_path / "slurm" / "train.sbatch").read_text()
    assert "#SBATCH --array=0-18%3\n" in script
    assert "#SBATCH --time=4:00:00\n" in script
    assert "#SBATCH --gres=gpu:1\n" in script
    assert "--gres" not in (tmp_path / "slurm" / "plan.sbatch").read_text()
    assert "export nnUNet_raw='/a b'\n" in script
    listed = script.split("jobs=(\n")[1].split("\n)")[0].split()
    assert listed == [j.job_id for j in jobs if j.stage == "train"]
    assert script.endswith(f'nnunet_sbldm.ablation.runner {tmp_path} "${{jobs[$SLURM_ARRAY_TASK_ID]}}"\n')
    assert [line.split(".sbatch")[0].split()[-1] for line in submit.read_text().splitlines()[3:]] == [
        "plan", "generator", "expand", "join", "configure", "train", "predict", "evaluate"]


# --- statistics ----------------------------------------------------------------------------------------------------


def test_holm_on_a_worked_example():
    """Adjusted as by R's ``p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm")``."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert np.isnan(holm([0.01, float("nan")])[1])
    assert holm([0.01, float("nan")])[0] == 0.01


def test_signed_rank_on_known_values():
    """All ten pairs of one sign: 2 of the 1024 sign patterns are as extreme."""
    assert signed_rank(np.arange(1.0, 11.0)[:, None, None]) == (pytest.approx(2 / 1024), 1)
    assert signed_rank(-np.arange(1.0, 11.0)[:, None, None]) == (pytest.approx(2 / 1024), -1)
    assert signed_rank(np.zeros((10, 2, 1))) == (1, 0)
    assert np.isnan(signed_rank(np.ones((5, 2, 1)))[0])


def test_pairs_that_do_not_differ_are_no_evidence():
    unchanged = np.zeros((12, 1, 1))
    assert np.isnan(signed_rank(np.concatenate([unchanged, np.arange(1.0, 6.0)[:, None, None]]))[0])
    assert signed_rank(np.concatenate([unchanged, np.arange(1.0, 11.0)[:, None, None]])) == (pytest.approx(2 / 1024), 1)


@pytest.mark.parametrize("seeds", [1, 5])
def test_an_interval_covers_the_mean_as_often_as_it_says(seeds):
    """Seeds of one fold share its training cases: more of them make an interval no narrower than the folds allow."""
    rng, hits = np.random.default_rng(0), 0
    for i in range(200):
        folds = rng.normal(0, 0.1, (1, 8, 1)) + rng.normal(0, 0.02, (1, 8, seeds))
        interval = interval_of_mean(0.5 + rng.normal(0, 0.2, (30, 1, 1)) + folds, 400, 0.95, i)
        hits += interval.low <= 0.5 <= interval.high
    assert 0.85 < hits / 200 <= 1


def test_an_interval_of_cases_alone_is_that_of_the_standard_error():
    values = np.random.default_rng(1).normal(0, 1, (400, 1, 1))
    interval = interval_of_mean(values, 5000, 0.95)
    assert interval.mean == pytest.approx(values.mean())
    assert (interval.high - interval.low) / 2 == pytest.approx(1.96 * values.std() / 20, rel=0.1)


def test_missing_values_and_single_cases():
    table = np.array([[0.5, np.nan], [np.nan, np.nan], [0.7, 0.9]])[..., None]
    assert interval_of_mean(table, 200, 0.95).mean == pytest.approx(0.7)
    one = interval_of_mean(np.array([[[0.5]]]), 200, 0.95)
    assert (one.mean, np.isnan(one.low)) == (0.5, True)
    assert np.isnan(interval_of_mean(np.full((3, 2, 2), np.nan), 200, 0.95).mean)


def test_a_study_that_is_not_finished_has_intervals():
    table = np.random.default_rng(0).uniform(0.4, 0.6, (20, 2, 2))
    table[:, 1, 1] = np.nan
    interval = interval_of_mean(table, 500, 0.95)
    assert 0.4 < interval.low < interval.mean < interval.high < 0.6


def test_thirds_are_by_size_and_leave_out_cases_without_foreground():
    parts = terciles(np.array([5.0, 0.0, 1.0, 9.0, 2.0, 7.0, 3.0]))
    assert [p.tolist() for p in parts] == [[2, 4], [6, 0], [5, 3]]


def test_a_verdict_needs_interval_and_test_in_one_direction():
    assert verdict(Interval(0.1, 0.05, 0.15), 0.01, 1) == "better"
    assert verdict(Interval(-0.1, -0.15, -0.05), 0.01, -1) == "worse"
    assert verdict(Interval(0.1, 0.05, 0.15), 0.01, -1) == "mixed"
    assert verdict(Interval(-0.1, -0.15, -0.05), 0.01, 1) == "mixed"
    assert verdict(Interval(0.1, 0.05, 0.15), 0.06, 1) == "tends better"
    assert verdict(Interval(-0.1, -0.15, -0.05), 0.06, -1) == "tends worse"
    assert verdict(Interval(0.1, -0.05, 0.15), 0.01, 1) == "no difference shown"
    assert verdict(Interval(0.1, 0.05, 0.15), float("nan"), 0) == "tends better"
    assert verdict(Interval(0.1, float("nan"), float("nan")), 0.01, 1) == "no difference shown"


def test_few_that_gain_much_do_not_make_better_what_most_lose_by():
    real = np.full((100, 1, 1), 0.5)
    other = real + np.where(np.arange(100) < 15, 0.3, -0.01)[:, None, None]
    what = Comparison("real_only", ["real_only", "other"], [5], {}, np.arange(100.0), 500, 0.95)
    _, row = compare({("real_only", 5): real, ("other", 5): other}, what)
    assert row["difference"]["low"] > 0
    assert row["p_holm"] < 0.05
    assert row["verdict"] == "mixed"


def test_comparisons_are_paired_and_oracles_stand_at_every_number_of_cases():
    rng = np.random.default_rng(0)
    real = {n: rng.uniform(0.3, 0.9, (24, 2, 1)) for n in (5, 10)}
    scores = {("real_only", n): real[n] for n in real}
    scores |= {("good", n): real[n] + 0.02 + rng.normal(0, 0.01, (24, 2, 1)) for n in real}
    scores |= {("bad", 5): real[5] - 0.02 + rng.normal(0, 0.01, (24, 2, 1)), ("oracle", 20): real[10] + 0.05}
    what = Comparison("real_only", ["real_only", "good", "bad", "oracle"], [5, 10], {"oracle": 20}, np.arange(24.0), 500, 0.95)
    rows = {(r["arm"], r["num_cases"]): r for r in compare(scores, what)}
    assert set(rows) == {(a, n) for a in ("real_only", "good", "oracle") for n in (5, 10)} | {("bad", 5)}
    assert rows["good", 5]["difference"]["mean"] == pytest.approx(0.02, abs=0.005)
    assert rows["good", 5]["verdict"] == "better"
    assert (rows["good", 5]["num_runs"], rows["good", 5]["num_folds"]) == (2, 2)
    assert rows["bad", 5]["verdict"] == "worse"
    assert rows["bad", 5]["num_worse"] > 20
    assert rows["oracle", 10]["difference"]["mean"] == pytest.approx(0.05)
    assert rows["real_only", 5]["verdict"] is None
    assert len(rows["good", 5]["thirds"]) == 3
    with pytest.raises(UserError, match="No run of real_only is finished"):
        compare({k: v for k, v in scores.items() if k[0] != "real_only"}, what)
