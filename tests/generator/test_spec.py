"""What cases shall be like: what is written is what is asked, and what cannot be is refused with the entry that says so."""

import json
from dataclasses import fields, replace
from pathlib import Path

import pytest
from label_plans import CORE, WHOLE, plan_of

from nnunet_sbldm.cli.sample import DESCRIPTION, sample_entry
from nnunet_sbldm.generator.requests import ExpansionRequest, plan_requests
from nnunet_sbldm.generator.spec import SpecEntry, read_entry, read_spec, spec_schema, target_named
from nnunet_sbldm.types import UserError

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"


@pytest.fixture
def plan(generator):
    return generator.plan


def written(tmp_path, value):
    file = tmp_path / "spec.json"
    file.write_text(value if isinstance(value, str) else json.dumps(value))
    return file


def test_x_y_z_of_the_file_become_the_axes_of_the_plan(plan):
    turned = replace(plan, grid=replace(plan.grid, transpose_forward=(2, 0, 1)))  # D, H, W are x, z, y of the file
    asked = SpecEntry(centroid=(0.1, 0.2, 0.3), extent_mm=(10.0, 20.0, 30.0)).features(turned)
    assert [asked[f"tumour/centroid_{a}"] for a in "dhw"] == [0.1, 0.3, 0.2]
    assert [asked[f"tumour/extent_{a}_mm"] for a in "dhw"] == [10, 30, 20]


def test_a_label_is_found_by_name_then_by_its_own_number_then_as_part_of_a_region():
    targets = [WHOLE, CORE]
    assert [target_named(targets, t, "-label").name for t in (None, "core", "3", "2")] == ["whole", "core", "core", "whole"]
    with pytest.raises(UserError, match="-label 7 is none of whole, core"):
        target_named(targets, "7", "-label")


def test_a_spec_says_what_every_case_is_like(plan, tmp_path):
    plan = plan_of(plan, [[1, 0], [1, 1]])
    spec = [
        {"count": 2, "label": "core", "volume_ml": [2, 8], "centroid": [0.1, 0.5, 0.9], "num_components": 2},
        {"count": 1, "label": 3, "presence": False},
        {"count": 1, "volume_ml": 4, "sphericity": 0.8},
        {"count": 3},
    ]
    requests = plan_requests(plan, 1, 8, ExpansionRequest(spec=read_spec(written(tmp_path, spec))), [])
    asked = [dict(r.asked) for r in requests]
    volumes = [a.pop("core/volume_ml") for a in asked[:2]]
    assert volumes[0] != volumes[1]
    assert all(2 <= v <= 8 for v in volumes)
    centroid = {"core/centroid_d": 0.9, "core/centroid_h": 0.5, "core/centroid_w": 0.1}
    assert plan.grid.transpose_forward == (0, 1, 2)
    assert asked[:2] == [{"core/presence": 1.0, **centroid, "core/num_components": 2.0}] * 2
    assert asked[2:4] == [{"core/presence": 0.0}, {"whole/presence": 1.0, "whole/volume_ml": 4.0, "whole/sphericity": 0.8}]
    assert asked[4:] == [{}] * 3


def test_an_unknown_label_names_its_entry(plan, tmp_path):
    spec = read_spec(written(tmp_path, [{"count": 1}, {"count": 1, "label": "edema"}]))
    with pytest.raises(UserError, match="-spec, entry 2: label edema is none of tumour"):
        plan_requests(plan, 0, 8, ExpansionRequest(spec=spec), [])


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        ({"volume": 3}, "the key 'volume' is unknown, did you mean 'volume_ml'"),
        ({"centriod": [0, 0, 0]}, "did you mean 'centroid'"),
        ({"count": 0}, "count must be a whole number from 1; got 0"),
        ({"count": True}, "count must be a whole number from 1; got True"),
        ({"count": 2.5}, "count must be a whole number from 1; got 2.5"),
        ({"label": None}, "label is null; leave it out, or give it a value"),
        ({"volume_ml": 0}, "volume_ml must be a number above 0"),
        ({"volume_ml": "big"}, "got 'big'"),
        ({"volume_ml": [3, 2]}, r"0 < low <= high; got \[3, 2\]"),
        ({"volume_ml": [1, 2, 3]}, r"got \[1, 2, 3\]"),
        ({"volume_ml": float("nan")}, "got nan"),
        ({"centroid": [0.5, 0.5]}, "fractions of the anatomy from 0 to 1"),
        ({"centroid": [0.5, 0.5, 1.2]}, "fractions of the anatomy from 0 to 1"),
        ({"centroid": 0.5}, "fractions of the anatomy from 0 to 1"),
        ({"presence": 1}, "presence must be true or false"),
        ({"presence": False, "volume_ml": 3}, r"an absent label \(presence false\) has no volume_ml"),
        ({"sphericity": 2}, "sphericity must be a number from 0 to 1"),
    ],
    ids=str,
)
def test_a_bad_entry_is_named_by_its_number(tmp_path, entry, sentence):
    with pytest.raises(UserError, match=rf"^-spec .*spec\.json, entry 2: .*{sentence}"):
        read_spec(written(tmp_path, [{"count": 1}, {"count": 1, **entry}]))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[{]", "not valid JSON"),
        ("\ud800", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("{}", "must hold a list of at least one entry"),
        ("[]", "must hold a list of at least one entry"),
        ("[3]", "entry 1: expected an object"),
        ('[{"label": "core"}]', "entry 1: count is missing"),
        ('[{"count": 1, "count": 2}]', "has the key 'count' twice"),
    ],
    ids=lambda v: v[:12].encode("ascii", "replace").decode(),
)
def test_unreadable_specs_end_with_one_sentence(tmp_path, text, sentence):
    file = tmp_path / "spec.json"
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(UserError, match=sentence):
        read_spec(file)
    with pytest.raises(UserError, match="is not a file"):
        read_spec(tmp_path)


def test_numbers_of_python_and_of_a_file_are_the_same_entry():
    entry = read_entry({"count": 2, "label": 3, "volume_ml": 5, "centroid": [0.1, 0.2, 0.3]}, "here")
    assert entry == SpecEntry(count=2, label="3", volume_ml=(5.0, 5.0), centroid=(0.1, 0.2, 0.3))


def test_the_options_of_a_command_are_the_fields_of_an_entry(generator, tmp_path, capsys):
    assert set(DESCRIPTION) == {f.name for f in fields(SpecEntry)} - {"count", "presence"}
    command = ["-m", str(generator.folder), "-o", str(tmp_path / "x"), "-n", "1", "-device", "cpu"]
    with pytest.raises(SystemExit) as e:
        sample_entry([*command, "-sphericity", "2"])
    assert e.value.code == 2
    assert "What is asked: sphericity must be a number from 0 to 1; got 2.0." in capsys.readouterr().err


def test_the_schema_for_editors_is_that_of_the_entries():
    """Else write it again: ``python -m nnunet_sbldm.generator.spec > docs/reference/spec.schema.json``."""
    assert json.loads((REFERENCE / "spec.schema.json").read_text()) == spec_schema()
    entry = spec_schema()["items"]
    assert set(entry["properties"]) == {f.name for f in fields(SpecEntry)}
    assert (entry["required"], entry["additionalProperties"]) == (["count"], False)
