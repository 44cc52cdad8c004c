"""Evaluation of a generator: what is written, what is refused, and that like is compared with like."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from nnunet_sbldm import cli
from nnunet_sbldm.config import SamplerConfig
from nnunet_sbldm.evaluation import EvaluatedCases, evaluate, evaluated_cases, measure_quality
from nnunet_sbldm.evaluation_template import SECTIONS
from nnunet_sbldm.files import read_json
from nnunet_sbldm.measures import CaseSet
from nnunet_sbldm.nnunet import fingerprints_of, fold_cases, load_preprocessed
from nnunet_sbldm.synthesis import Request, synthesise
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


def case_set(generator, folder, cases):
    return CaseSet.collect(folder, generator.plan, [c for c, _, _ in cases], ((i, s) for _, i, s in cases))


def test_a_copied_and_a_mirrored_training_case_are_flagged(generator, phantom_dataset, tmp_path):
    train, val = fold_cases(phantom_dataset, 0)
    real = {c: load_preprocessed(phantom_dataset, c) for c in [*train, *val]}
    copy, mirrored = real[train[1]], tuple(np.flip(a, -1).copy() for a in real[train[4]])
    unseen = real[val[0]]
    sets = [case_set(generator, tmp_path / name, cases) for name, cases in (
        ("synthetic", [("copy", *copy), ("mirrored", *mirrored), ("unseen", *unseen)]),
        ("held_out", [(c, *real[c]) for c in val]),
        ("training", [(c, *real[c]) for c in train]),
    )]
    _, records = zip(*synthesise(generator, [Request(str(i), i, {}) for i in range(3)], SAMPLER), strict=True)
    _, per_case = measure_quality(generator, EvaluatedCases(*sets, records), seed=0)
    for case, original, flipped in zip(per_case, (train[1], train[4]), (False, True), strict=False):
        for kind in ("image", "mask"):
            assert case["nearest"][kind]["training_case"] == original
            assert case["nearest"][kind]["mirrored"] is flipped
            assert case["nearest"][kind]["distance"] == pytest.approx(0, abs=1e-3)
        assert case["flagged"] == ["image", "mask", "pair"]
    assert per_case[2]["flagged"] == []


def test_real_cases_as_synthetic_ones_are_on_the_floor(generator, phantom_dataset, tmp_path):
    """Whatever is measured of training cases that pose as synthetic ones is what the floor says."""
    train, val = fold_cases(phantom_dataset, 0)
    training, held_out = ([(c, *load_preprocessed(phantom_dataset, c)) for c in ids] for ids in (train, val))
    sets = [case_set(generator, tmp_path / str(i), cases) for i, cases in enumerate((training, held_out, training))]
    _, records = zip(*synthesise(generator, [Request(str(i), i, {}) for i in range(len(train))], SAMPLER), strict=True)
    sections, _ = measure_quality(generator, EvaluatedCases(*sets, records), seed=0)
    found = {name: {r.name: r for r in results} for name, results in sections.items()}
    for section in ("features", "latents"):
        kernel = found[section]["kernel distance (KID)"]
        assert kernel.value == pytest.approx(kernel.floor)
    for result in found["coherence"].values():
        assert result.value == pytest.approx(result.details["training"])
    assert found["masks"]["specks"].value == 0
    assert found["memorisation"]["image: ratio of nearest distances"].value == pytest.approx(0, abs=1e-6)


def test_equal_seeds_give_equal_numbers(result, generator, phantom_dataset, tmp_path):
    again = evaluate(generator, phantom_dataset, 4, SAMPLER, tmp_path / "again", seed=7)
    without_time = [{k: v for k, v in r.items() if k != "seconds"} for r in (result, again)]
    assert json.dumps(without_time[0]) == json.dumps(without_time[1])


def test_seen_held_out_cases_are_refused_by_id_and_by_content(generator, phantom_dataset):
    held_out = fold_cases(phantom_dataset, 0)[1][0]
    fingerprint = fingerprints_of(phantom_dataset, [held_out])[held_out]
    for seen in (fingerprint, replace(fingerprint, case_id="renamed")):
        leaking = replace(generator, seen=(*generator.seen, seen))
        with pytest.raises(UserError, match=f"has seen 1 of the held-out cases of fold 0: {held_out}"):
            evaluated_cases(leaking, phantom_dataset)


def test_other_preprocessing_and_folds_without_held_out_cases_are_refused(generator, phantom_dataset):
    with pytest.raises(UserError, match="is preprocessed differently"):
        evaluated_cases(replace(generator, plan=replace(generator.plan, plans_hash="other")), phantom_dataset)
    with pytest.raises(UserError, match="Fold all .* holds out 0"):
        evaluated_cases(replace(generator, plan=replace(generator.plan, fold="all")), phantom_dataset)


def test_command_finds_the_dataset_and_writes_beside_the_model(generator, capsys):
    cli.evaluate_entry(["-m", str(generator.folder), "-n", "2", "-steps", "2", "-device", "cpu"])
    assert "look at" in capsys.readouterr().out
    written = read_json(generator.folder / "evaluation" / "evaluation.json")
    assert written["dataset"]["name"] == generator.plan.dataset_name
    assert written["sampler"]["num_steps"] == 2
    with pytest.raises(SystemExit) as e:
        cli.evaluate_entry(["-m", str(generator.folder), "-n", "1", "-device", "cpu"])
    assert e.value.code == 2
    assert "at least 2 synthetic cases, got 1" in capsys.readouterr().err
