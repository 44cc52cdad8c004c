"""The JSON Schema of a study's file."""

import json
from pathlib import Path

from nnunet_sbldm.ablation.arms import ARM_KINDS
from nnunet_sbldm.ablation.schema import study_schema

FILE = Path(__file__).parents[2] / "docs" / "reference" / "study.schema.json"


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
