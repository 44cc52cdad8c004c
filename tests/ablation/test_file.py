"""A study's file: what it may hold, and the sentences that refuse what it may not."""

from pathlib import Path

import pytest

from nnunet_sbldm.ablation.file import read_study
from nnunet_sbldm.ablation.planning import plan_study_jobs
from nnunet_sbldm.ablation.runs import DatasetIds, runs_of
from nnunet_sbldm.types import UserError

STUDIES = Path(__file__).parents[2] / "benchmarks" / "studies"


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
    ({"arms": ["real_only", {"sbldm": {"preset": None}}]}, "study.yaml, arm sbldm: preset is null; leave it out, or give"),
    ({"generator": {"steps": None}}, "study.yaml, generator: steps is null; leave it out, or give it a value"),
    ({"groups": None}, "study.yaml: groups is null; leave it out, or give it a value"),
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


@pytest.mark.parametrize("file", sorted(STUDIES.glob("*.yaml")), ids=lambda p: p.stem)
def test_studies_that_come_along_are_valid(file):
    study = read_study(file)
    jobs = plan_study_jobs(study, DatasetIds({}))
    assert len(jobs) > 3 * len(runs_of(study))
