"""Setting a study up, letting it grow, and refusing what would change it."""

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from phantom_fixtures import SMALL_PHANTOM, hash_tree
from study_fixtures import SMALL

from nnunet_sbldm.ablation import runner as study_runner
from nnunet_sbldm.ablation.setup import refuse_other_study, set_up
from nnunet_sbldm.ablation.split import SourceDataset
from nnunet_sbldm.common.files import read_json, write_json
from nnunet_sbldm.data.phantom import write_phantom_dataset
from nnunet_sbldm.types import UserError


def test_a_phantom_may_be_given_more_cases_before_the_study_is_set_up(study_of, tmp_path, monkeypatch):
    monkeypatch.setattr("nnunet_sbldm.ablation.split.write_phantom_dataset", partial(write_phantom_dataset, config=SMALL_PHANTOM))
    with pytest.raises(UserError, match="has 1 case"):
        set_up(study_of(dataset="phantom", num_phantom_cases=4), tmp_path / "out")
    set_up(study_of(dataset="phantom", num_phantom_cases=7), tmp_path / "out")


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
