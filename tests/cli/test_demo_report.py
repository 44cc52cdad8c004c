import re
from dataclasses import replace

import numpy as np
import pytest
from phantom_fixtures import SMALL_PHANTOM

from nnunet_sbldm.cli.demo import add_small_configuration, demo_steps, run_demo
from nnunet_sbldm.cli.demo_report import ReportInput, write_report
from nnunet_sbldm.common.files import read_json, write_json
from nnunet_sbldm.common.plots import curves
from nnunet_sbldm.common.steps import StepResult
from nnunet_sbldm.data.cases import preprocess_case
from nnunet_sbldm.data.conditions import Target, as_dict, feature_names, measure
from nnunet_sbldm.data.dataset import open_dataset
from nnunet_sbldm.data.phantom import make_phantom_case
from nnunet_sbldm.data.splits import fold_cases
from nnunet_sbldm.expansion.places import pool_cases_folder, pool_folder
from nnunet_sbldm.generator.records import SyntheticIndex, SyntheticRecord
from nnunet_sbldm.types import OUTSIDE, UserError

TARGETS = (Target("tumour", (1,)),)


def fill_pool_with_heads(dataset):
    """Three heads as synthetic cases: as asked, twice the volume asked, and without the tumour that was asked for."""
    place = (dataset.preprocessed, dataset.config.data_identifier, 0)
    index = SyntheticIndex(dataset.plans_hash())
    pool_cases_folder(*place).mkdir(parents=True)
    for i, factor in enumerate((1.0, 2.0, 0.0)):
        case, _ = make_phantom_case(SMALL_PHANTOM, 100 + i)
        case = replace(case, case_id=f"made_{i}", label=case.label * (factor > 0))
        preprocess_case(dataset, case, pool_cases_folder(*place) / case.case_id)
        label = np.where(case.image[0] == 0, OUTSIDE, case.label)
        obtained = as_dict(feature_names(TARGETS), measure(label, TARGETS, case.geometry.spacing_mm))
        asked = {"tumour/presence": 1.0, **{f"tumour/centroid_{a}": 0.5 for a in "dhw"}, **obtained}
        asked["tumour/volume_ml"] = obtained.get("tumour/volume_ml", 5.0) / (factor or 1.0)
        record = SyntheticRecord(case.case_id, "hash", "generator", i, 0, 0, asked, obtained, {}, {})
        record.save(pool_folder(*place) / "provenance")
        index.add([case.case_id], "hash", [])
    index.save(pool_folder(*place))


def write_dice(folder, case_ids, dice):
    folder.mkdir(parents=True)
    write_json(folder / "summary.json", {"metric_per_case": [
        {"prediction_file": f"/somewhere/{c}.nii.gz", "metrics": {"1": {"Dice": dice}}} for c in case_ids]})


@pytest.fixture
def report(phantom, phantom_dataset, tmp_path):
    """The text of a report and the folder it lies in."""
    fill_pool_with_heads(phantom_dataset)
    generator = phantom.results / phantom_dataset.name / "SBLDM__nnUNetPlans__nano" / "fold_0"
    results, predictions, output = tmp_path / "network", tmp_path / "predictions", tmp_path / "demo"
    write_dice(results / "validation", fold_cases(phantom_dataset, 0)[1], 0.75)
    write_dice(predictions, ["phantom_010"], 0.875)
    curves(generator / "training_log.csv", results / "progress.png")
    steps = [StepResult("a", "First step", "command --one", 61.0, 2048.0),
             StepResult("b", "Second step", "command --two", 59.0, 512.0)]
    source = ReportInput(phantom_dataset, 0, generator, results, predictions, steps, [("Phantom", "nnUNet_raw")])
    return write_report(source, output).read_text(), output


def test_report_needs_nothing_but_itself(report):
    html, output = report
    without_pictures = re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]+", "DATA", html)
    assert not re.search(r"https?:|<link|<script|@import|url\(", without_pictures)
    assert set(re.findall(r'src="([^"]*)"', without_pictures)) == {"DATA"}
    assert len(html) < 3e6
    assert (output / "demo.png").stat().st_size < 400_000


def test_report_tells_which_cases_have_what_was_asked(report):
    html, _ = report
    assert "2 of the 3 cases that were asked for a tumour have one" in html
    assert "median error of volume is 50 %, and of place 0.000 of the head" in html
    assert re.search(r"<td>made_2</td><td>5.0</td><td>0.50, 0.50, 0.50</td><td>\N{EN DASH}</td>", html)


def test_report_gives_dice_of_test_and_validation_cases(report, phantom_dataset):
    html, _ = report
    rows = re.findall(r"<td>(\w+)</td><td>(test|validation, fold 0)</td>\s*<td>([\d.]+)</td>", html)
    validation = [(c, "validation, fold 0", "0.750") for c in [*fold_cases(phantom_dataset, 0)[1], "mean"]]
    assert rows == [("phantom_010", "test", "0.875"), ("mean", "test", "0.875"), *validation]


def test_report_gives_time_memory_and_commands(report):
    html, _ = report
    assert "<td>First step</td><td>1:01</td><td>2.00</td>" in html
    assert "<td>total, largest</td><td>2:00</td><td>2.00</td>" in html
    assert "command --two" in html
    assert "sbldm_train -d 4 -f 0" in html


def test_small_configuration_shares_the_preprocessed_data(phantom):
    folder = phantom.preprocessed / "Dataset900_Phantom"
    before = read_json(folder / "nnUNetPlans.json")
    add_small_configuration(folder / "nnUNetPlans.json")
    dataset = open_dataset("900", configuration="3d_demo")
    assert dataset.config.data_identifier == open_dataset("900").config.data_identifier
    assert dataset.config.network_arch_init_kwargs["features_per_stage"] == [8, 16, 32]
    after = read_json(folder / "nnUNetPlans.json")
    del after["configurations"]["3d_demo"]
    assert after == before


def test_commands_of_the_demo_are_those_of_a_user(tmp_path):
    commands = [s.command[0] for s in demo_steps("cpu", tmp_path)]
    assert commands == ["python", "nnUNetv2_plan_and_preprocess", "sbldm_train", "sbldm_expand_dataset", "sbldm_configure",
                        "nnUNetv2_train", "nnUNetv2_predict", "nnUNetv2_evaluate_folder"]


def test_demo_refuses_a_folder_with_other_things_and_a_file(tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(UserError, match="neither empty nor"):
        run_demo(tmp_path)
    with pytest.raises(UserError, match="is a file"):
        run_demo(tmp_path / "thesis.txt")
    with pytest.raises(UserError, match="cannot be written"):
        run_demo(tmp_path / "thesis.txt" / "below")
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]
