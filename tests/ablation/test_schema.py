"""The JSON Schema of a study's file."""

import json
from pathlib import Path

import pytest
import yaml

from nnunet_sbldm.ablation.arms import ARM_KINDS
from nnunet_sbldm.ablation.schema import study_schema

ROOT = Path(__file__).parents[2]
FILE = ROOT / "docs" / "reference" / "study.schema.json"
STUDY = {"dataset": 4, "num_cases": [5, 10], "test_cases": "imagesTs", "arms": ["real_only", {"sbldm": {"ratio": [0.25, 0.5]}}]}


def test_the_schema_in_the_docs_is_that_of_the_models():
    """Else write it again: ``python -m nnunet_sbldm.ablation.schema > docs/reference/study.schema.json``."""
    assert json.loads(FILE.read_text(encoding="utf-8")) == json.loads(json.dumps(study_schema()))


def test_every_key_has_a_meaning_and_others_are_refused():
    schema = study_schema()
    sections = [schema, *schema["$defs"].values(), *schema["properties"]["arms"]["items"]["anyOf"][1]["properties"].values()]
    assert len(sections) > 10
    for section in sections:
        assert section["additionalProperties"] is False
        assert all(key["description"] for key in section["properties"].values())


def test_keys_are_those_of_the_file():
    schema = study_schema()
    assert "folds" in schema["properties"]
    assert "draws" not in schema["properties"]
    assert schema["required"] == ["dataset", "num_cases", "arms", "test_cases"]
    names, keyed = schema["properties"]["arms"]["items"]["anyOf"]
    assert set(names["enum"]) | set(keyed["properties"]) == set(ARM_KINDS)
    assert "oracle" not in names["enum"]
    assert keyed["properties"]["oracle"]["required"] == ["num_cases"]


@pytest.fixture
def faults():
    """What the schema finds wrong with a study."""
    jsonschema = pytest.importorskip("jsonschema")
    return lambda content: [e.message for e in jsonschema.Draft202012Validator(study_schema()).iter_errors(content)]


@pytest.mark.parametrize("file", sorted((ROOT / "benchmarks" / "studies").glob("*.yaml")), ids=lambda p: p.stem)
def test_studies_that_come_along_fit_the_schema(faults, file):
    assert faults(yaml.safe_load(file.read_text())) == []


@pytest.mark.parametrize(("change", "fits"), [
    ({}, True), ({"num_cases": 5, "folds": 0, "test_cases": ["001", 2]}, True), ({"draws": 0}, False), ({"num_cases": 1}, False),
    ({"training": {"epochs": 3}}, False), ({"arms": ["oracle"]}, False), ({"arms": [{"copy_paste": {"preset": "tiny"}}]}, False),
    ({"generator": {"steps": None}}, False), ({"arms": ["real_only", {"sbldm": None}]}, True),
])
def test_the_schema_refuses_what_the_file_may_not_hold(faults, change, fits):
    assert (faults({**STUDY, **change}) == []) == fits
