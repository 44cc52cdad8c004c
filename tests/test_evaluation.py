"""Evaluation of a generator: what is written, what is refused, and that like is compared with like."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from nnunet_sbldm import evaluation
from nnunet_sbldm.config import SamplerConfig
from nnunet_sbldm.evaluation import EvaluatedCases, evaluate, evaluated_cases, measure_quality
from nnunet_sbldm.evaluation_template import SECTIONS
from nnunet_sbldm.files import read_json, write_json
from nnunet_sbldm.nnunet import fingerprints_of, fold_cases, load_preprocessed
from nnunet_sbldm.measures import CaseSet
from nnunet_sbldm.types import UserError

SAMPLER = SamplerConfig(num_steps=3)


@pytest.fixture
def result(generator, phantom_dataset, tmp_path):
    return evaluate(generator, phantom_dataset, 4, SAMPLER, tmp_path / "out", seed=7)


def test_everything_is_written_and_the_work_is_removed(result, generator, phantom_dataset, tmp_path):
    out = tmp_path / "out"
    pictures = {f"pictures/{n}.png" for n in ("best_median_worst", "nearest_to_training", "condition_0")}
    assert {str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()} == {"evaluation.json", "evaluation.html", *pictures}
    written = json.loads((out / "evaluation.json").read_text(), parse_constant=pytest.fail)  # no NaN
    train, val = fold_cases(phantom_dataset, 0)
    assert (written["training_cases"], written["held_out_cases"]) == (train, val)
    assert [c["seed"] for c in written["synthetic_cases"]] == [7, 8, 9, 10]
    assert set(written["sections"]) == set(SECTIONS)
    for results in written["sections"].values():
        assert results
    assert written["generator"]["hash"] == generator.hash
    assert "only 2 held-out cases" in " ".join(written["warnings"])


def test_html_needs_nothing_but_itself(result, tmp_path):
    html = re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]+", "DATA", (tmp_path / "out" / "evaluation.html").read_text())
    assert not re.search(r"https?:|<link|<script|@import|url\(", html)
    assert set(re.findall(r'src="([^"]*)"', html)) == {"DATA"}
    for section in SECTIONS.values():
        assert section["title"] in html
