"""Arms of a study: what each may set, and what becomes of it."""

import ast
import json
from pathlib import Path

import pytest

from nnunet_sbldm.ablation import arms
from nnunet_sbldm.ablation.arms import ARM_KINDS, ArmKind
from nnunet_sbldm.ablation.methods import methods_paragraph
from nnunet_sbldm.ablation.planning import plan_study_jobs
from nnunet_sbldm.ablation.runner import load_table
from nnunet_sbldm.ablation.runs import DatasetIds
from nnunet_sbldm.ablation.schema import study_schema
from nnunet_sbldm.ablation.split import largest_subset
from nnunet_sbldm.cli.ablation import ablation_entry
from nnunet_sbldm.types import UserError


class HalfAsLarge(ArmKind):
    """An arm that is made up here; no other file knows of it."""

    name = "half_as_large"
    title = "SBLDM, made up"
    trainer = "nnUNetTrainerMadeUp"
    options = ("ratio", "edit_kinds", "wait_s")
    required = {"wait_s": "its made-up seconds"}
    fixed = {"schedule": "ramp_down"}
    modes = ("edit",)
    ratio = 0.1

    def mixing(self, arm, generator, run):
        """A setting of its trainer alone."""
        return {"max_reuse": 3}


def test_an_arm_is_one_class(study_of, raw, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(ARM_KINDS, HalfAsLarge.name, HalfAsLarge())
    with pytest.raises(UserError, match="the arm half_as_large needs wait_s, its made-up seconds"):
        study_of(arms=["real_only", "half_as_large"])
    study = study_of(arms=["real_only", "copy_paste", {"half_as_large": {"wait_s": 5, "edit_kinds": ["add"]}}], num_cases=2)
    assert study.arms[2].name == "half_as_large_10_add"
    ablation_entry(["run", str(tmp_path / "study.yaml"), "-o", str(tmp_path / "out"), "--dry_run"])
    jobs = {j.job_id: j for j in load_table(tmp_path / "out")[0]}
    assert "# n2_f0_s0.half_as_large_10_add.train\n" in capsys.readouterr().out
    train = jobs["n2_f0_s0.half_as_large_10_add.train"].command
    assert train[5] == "nnUNetTrainerMadeUp"
    expand = jobs["n2_f0_s0.expand.small.edit_add"]
    assert expand.needs == ("n2_f0_s0.plan", "n2_f0_s0.generator.small")
    assert train[1] == expand.command[expand.command.index("-o") + 1]
    blocks = json.loads(jobs["n2_f0_s0_small_edit_add.configure"].command[-1])["half_as_large_10_add"]
    assert (blocks["ratio"], blocks["schedule"], blocks["max_reuse"]) == (0.1, "ramp_down", 3)
    said = "half_as_large_10_add (SBLDM, made up, share of draws 0.1, schedule ramp_down, edits add, after waiting at most 5 s"
    assert said in methods_paragraph(study, {}, 3)
    entries = study_schema()["properties"]["arms"]["items"]["anyOf"][1]["properties"]
    assert set(entries["half_as_large"]["properties"]) == {"ratio", "edit_kinds", "wait_s"}


def test_no_other_file_asks_for_an_arm_by_its_kind():
    compared = [
        (file.name, node.lineno, list(ast.walk(node)))
        for file in Path(arms.__file__).parent.glob("*.py") if file.name != "arms.py"
        for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Compare)
    ]
    asked = [f"{file}:{line}" for file, line, parts in compared
             if any(isinstance(p, ast.Attribute) and p.attr in ("kind", "name") for p in parts)
             and any(isinstance(p, ast.Constant) and p.value in ARM_KINDS for p in parts)]
    assert asked == []


def test_several_ratios_are_several_arms(study_of):
    arms = study_of(arms=["real_only", {"sbldm": {"ratio": [0.125, 0.5], "schedule": "ramp_down"}}, "pretrain"]).arms
    assert [a.name for a in arms] == ["real_only", "sbldm_12p5_ramp_down", "sbldm_50_ramp_down", "pretrain_50"]
    assert (arms[1].ratio, arms[3].schedule) == (0.125, "pretrain")


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


def test_an_arm_on_the_fly_waits_for_its_first_cases_if_asked(study_of):
    waiting = study_of(arms=["real_only", {"on_the_fly": {"wait_s": 60}}, {"on_the_fly": {"name": "at_once"}}])
    (configure, *_) = [j for j in plan_study_jobs(waiting, DatasetIds({})) if j.stage == "configure"]
    blocks = json.loads(configure.command[-1])
    assert blocks["on_the_fly_25"]["wait_s"] == 60
    assert "wait_s" not in blocks["at_once"]
    said = "on_the_fly_25 (SBLDM, made on the fly, share of draws 0.25, after waiting at most 60 s for its first cases)"
    assert said in methods_paragraph(waiting, {}, 3)
