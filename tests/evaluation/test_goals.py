"""Goals of a file: what is refused, and what editors are told."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from nnunet_sbldm.evaluation.goals import DEFAULT_GOALS, goals_schema, read_goals
from nnunet_sbldm.types import UserError

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"


def test_goals_that_a_file_leaves_out_keep_their_default(tmp_path):
    file = tmp_path / "goals.json"
    file.write_text('{"max_centroid_error": 1}')
    assert read_goals(file) == replace(DEFAULT_GOALS, max_centroid_error=1.0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1]", "holds keys and values such as min_volume_correlation: ...; got [1]."),
        ('{"volume_r": 1}', "the key 'volume_r' is unknown, did you mean 'min_volume_correlation'? Valid are min_volume"),
        ('{"max_centroid_error": "5 %"}', "max_centroid_error must be a number from 0; got '5 %'."),
        ('{"max_centroid_error": -1}', "must be a number from 0"),
        ('{"max_centroid_error": true}', "must be a number from 0"),
        ("{", "is not valid JSON"),
    ],
)
def test_bad_goals_are_refused_in_one_sentence(tmp_path, content, message):
    file = tmp_path / "targets.json"
    file.write_text(content)
    with pytest.raises(UserError, match=re.escape(message)):
        read_goals(file)


def test_the_schema_for_editors_is_that_of_the_goals():
    """Else write it again: ``python -m nnunet_sbldm.evaluation.goals > docs/reference/goals.schema.json``."""
    assert json.loads((REFERENCE / "goals.schema.json").read_text()) == goals_schema()
