"""Dataset names as nnU-Net writes them, and the commands that messages recommend."""

import pytest

from nnunet_sbldm.data.paths import names_with, number_of, planning_command, preprocessing_command, title_of, undo_command
from nnunet_sbldm.types import UserError


@pytest.mark.parametrize(
    ("name", "number", "title"),
    [("Dataset004_Hippocampus", 4, "Hippocampus"), ("Dataset1234_Toy_2", 1234, "Toy_2"), ("Dataset910", 910, "")],
)
def test_all_digits_of_a_name_are_its_number(name, number, title):
    assert (number_of(name), title_of(name)) == (number, title)
    assert undo_command(name) == f"sbldm_expand_dataset -d {number} --undo"


def test_a_number_is_that_of_names_with_and_without_title_and_of_no_longer_number(tmp_path):
    for name in ("Dataset091_A", "Dataset910", "Dataset910_B", "Dataset9100_C", "Dataset0910_D", "Task910_E"):
        (tmp_path / name).mkdir()
    assert names_with(910, tmp_path) == ["Dataset0910_D", "Dataset910", "Dataset910_B"]
    assert names_with(91, tmp_path) == ["Dataset091_A"]


def test_other_names_are_refused():
    with pytest.raises(UserError, match="named DatasetXXX_Name"):
        number_of("Task04_Hippocampus")


@pytest.mark.parametrize(
    ("plans", "words"),
    [
        ("nnUNetPlans", ""),
        ("nnUNetResEncUNetMPlans", " -pl nnUNetPlannerResEncM"),
        ("nnUNetResEncUNetXLPlans", " -pl nnUNetPlannerResEncXL"),
        ("myPlans", " -overwrite_plans_name myPlans"),
    ],
)
def test_the_recommended_command_makes_the_plans_that_were_asked_for(plans, words):
    assert planning_command("Dataset1234_Toy", plans, "3d_fullres") == (
        f"nnUNetv2_plan_and_preprocess -d 1234 -c 3d_fullres{words}"
    )
    assert preprocessing_command("Dataset919_Toy", plans, "2d") == f"nnUNetv2_preprocess -d 919 -plans_name {plans} -c 2d"
