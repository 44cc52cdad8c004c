"""Evaluations as tables, and the functions that the commands of the same name call."""

import pytest
import yaml

from nnunet_sbldm import SBLDM, UserError, expand, run_study
from nnunet_sbldm.api.expansion import ExpansionSettings
from nnunet_sbldm.editing.choices import EditSettings
from nnunet_sbldm.evaluation.settings import EvaluationSettings
from nnunet_sbldm.generator.requests import ExpansionRequest
from nnunet_sbldm.generator.sharing import Sharing, export_model
from nnunet_sbldm.ldm.config import EDIT_SAMPLER, SamplerConfig
from nnunet_sbldm.types import SBLDMWarning

SAMPLER = SamplerConfig(num_steps=2, max_corrections=0)


def test_an_evaluation_is_a_table(generator, tmp_path):
    model = SBLDM.load(generator.folder, device="cpu")
    settings = EvaluationSettings(sampler=SAMPLER, use_gate=False)
    evaluation = model.evaluate(900, n=2, folder=tmp_path, settings=settings)
    table = evaluation.table
    assert list(table.columns) == ["value", "floor", "goal", "reached", "num_cases"]
    assert len(table) == sum(len(v) for v in evaluation.result["sections"].values())
    row = table.loc[("condition", "tumour: r of log volume")]
    assert row["goal"] == "at least 0.9"
    assert (tmp_path / "evaluation.html").is_file()
    assert set(evaluation.near_copies) <= {"sbldm_00000", "sbldm_00001"}


def test_an_evaluation_of_edits_is_a_table(generator, tmp_path):
    from dataclasses import replace

    model = SBLDM.load(generator.folder, device="cpu")
    settings = EvaluationSettings(sampler=replace(EDIT_SAMPLER, num_steps=2, max_corrections=0))
    evaluation = model.evaluate_edits(900, n=1, editing=EditSettings((), ("remove",)), folder=tmp_path, settings=settings)
    assert list(evaluation.table.columns) == ["meaning", "all", "accepted"]
    assert evaluation.table.loc["num", "all"] == 1
    assert evaluation.table.loc["unchanged_outside", "all"] == 1


def test_a_shared_model_is_not_written_to(generator, tmp_path):
    export_model(generator, tmp_path / "a.zip", Sharing({}))
    with pytest.raises(UserError, match="is a shared one and stays as it came"):
        SBLDM.load(tmp_path / "a.zip", device="cpu").evaluate(900, n=2)


def test_a_pool_is_filled_from_python(generator, phantom_dataset):
    settings = ExpansionSettings(sampler=SAMPLER, device="cpu", use_gate=False)
    with pytest.warns(SBLDMWarning, match="fold 0 has 8 real training cases") as caught:
        outcome = expand(900, "pool", ExpansionRequest(num_cases=1), folds=[0], settings=settings)
    assert {w.filename for w in caught if w.category is SBLDMWarning} == {__file__}
    assert outcome.installed == {0: 1}
    assert (outcome.folders[0] / "provenance" / "sbldm_f0_0000.json").is_file()
    with pytest.raises(UserError, match="a new one, whose id is given, into 'pool', or 'in_place'; got 'elsewhere'"):
        expand(900, "elsewhere", folds=[0], settings=settings)
    with pytest.raises(UserError, match="trained on 2 of this fold's validation cases"):
        expand(900, "pool", folds=[1], model=generator.folder, settings=settings)


def test_a_bad_study_is_refused_as_by_the_command(tmp_path):
    (tmp_path / "study.yaml").write_text(yaml.safe_dump({"name": "x"}))
    with pytest.raises(UserError):
        run_study(tmp_path / "study.yaml", tmp_path / "out")
    assert not (tmp_path / "out").exists()
