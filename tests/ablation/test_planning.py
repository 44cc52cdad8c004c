"""A study's table of jobs."""

import json

from study_fixtures import ALL_ARMS

from nnunet_sbldm.ablation.methods import methods_paragraph
from nnunet_sbldm.ablation.planning import plan_study_jobs
from nnunet_sbldm.ablation.runs import DatasetIds


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


def test_a_study_may_train_in_bf16_on_a_cpu(study_of):
    mixed = study_of(training={"cpu_precision": "bf16"})
    (configure, *_) = [j for j in plan_study_jobs(mixed, DatasetIds({})) if j.stage == "configure"]
    assert {block.get("cpu_precision") for block in json.loads(configure.command[-1]).values()} == {"bf16"}
    assert "iterations in bf16, the same" in methods_paragraph(mixed, {}, 3)
    assert "bf16" not in methods_paragraph(study_of(), {}, 3)
