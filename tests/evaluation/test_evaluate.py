"""Evaluation of a generator: what is written, what is refused, and that like is compared with like."""

import json
import re
from dataclasses import asdict, replace

import numpy as np
import pytest

from nnunet_sbldm.cli.evaluate import evaluate_entry
from nnunet_sbldm.common.files import read_json, write_json
from nnunet_sbldm.data.cases import load_preprocessed
from nnunet_sbldm.data.fingerprints import fingerprints_of
from nnunet_sbldm.data.groups import remember_groups
from nnunet_sbldm.data.splits import fold_cases
from nnunet_sbldm.editing.choices import EditSettings
from nnunet_sbldm.editing.maker import edited_cases
from nnunet_sbldm.evaluation.case_set import CaseSet
from nnunet_sbldm.evaluation.cases import RealCases, evaluated_cases, make_cases, numbered_requests
from nnunet_sbldm.evaluation.compare import Reference, score
from nnunet_sbldm.evaluation.evaluate import evaluate, measure_quality
from nnunet_sbldm.evaluation.goals import DEFAULT_GOALS
from nnunet_sbldm.evaluation.sections import SECTIONS
from nnunet_sbldm.evaluation.settings import EvaluationSettings
from nnunet_sbldm.generator.nearest import NearestRealCase
from nnunet_sbldm.generator.sampling import Request, draw
from nnunet_sbldm.ldm.config import SamplerConfig
from nnunet_sbldm.types import UnfitGeneratorError, UserError

SAMPLER = SamplerConfig(num_steps=3)
RAW = EvaluationSettings(4, SAMPLER, seed=7, use_gate=False)


@pytest.fixture
def result(generator, phantom_dataset, tmp_path):
    return evaluate(generator, phantom_dataset, RAW, tmp_path / "out")


def test_everything_is_written_and_the_work_is_removed(result, generator, phantom_dataset, tmp_path):
    out = tmp_path / "out"
    pictures = {f"pictures/{n}.png" for n in ("best_median_worst", "nearest_to_training", "condition_0")}
    assert {str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()} == {"evaluation.json", "evaluation.html", *pictures}
    written = json.loads((out / "evaluation.json").read_text(), parse_constant=pytest.fail)  # no NaN
    train, val = fold_cases(phantom_dataset, 0)
    assert (written["training_cases"], written["held_out_cases"]) == (train, val)
    assert [c["seed"] for c in written["synthetic_cases"]] == [7, 8, 9, 10]
    assert set(written["sections"]) == set(SECTIONS) - {"nnunet"}
    for results in written["sections"].values():
        assert results
    assert written["generator"]["hash"] == generator.hash
    assert "only 2 held-out cases" in " ".join(written["warnings"])


def test_html_needs_nothing_but_itself(result, tmp_path):
    html = re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]+", "DATA", (tmp_path / "out" / "evaluation.html").read_text())
    assert not re.search(r"https?:|<link|<script|@import|url\(", html)
    assert set(re.findall(r'src="([^"]*)"', html)) == {"DATA"}
    for name in result["sections"]:
        assert SECTIONS[name]["title"] in html


def case_set(generator, folder, cases):
    return CaseSet.collect(folder, generator.plan, [c for c, _, _ in cases], ((i, s) for _, i, s in cases))


def measured(generator, dataset, sets, records):
    """Sections and rows of (synthetic, held-out, training) sets."""
    synthetic, held_out, training = sets
    reference = Reference.measure(generator, dataset, RealCases(training, held_out))
    return measure_quality(reference, synthetic, records, np.random.default_rng(0))


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
    records = [d.record(generator, SAMPLER) for d in draw(generator, [Request(str(i), i, {}) for i in range(3)], SAMPLER)]
    sections, per_case = measured(generator, phantom_dataset, sets, records)
    for case, original, flipped in zip(per_case, (train[1], train[4]), (False, True), strict=False):
        for kind in ("image", "mask"):
            assert case["nearest"][kind]["training_case"] == original
            assert case["nearest"][kind]["mirrored"] is flipped
            assert case["nearest"][kind]["distance"] == pytest.approx(0, abs=1e-3)
        assert case["flagged"] == ["image", "mask", "pair"]
    assert per_case[2]["flagged"] == []
    found = {r.id: r for r in sections["memorisation"]}
    for kind in ("image", "mask", "pair"):
        smallest = found[f"{kind}/smallest_distance"]
        assert smallest.value < smallest.floor
        assert found[f"{kind}/flagged"].value == 2
        assert all(c["nearest"][kind]["distance"] >= smallest.floor for c in per_case if kind not in c["flagged"])


def test_real_cases_as_synthetic_ones_are_on_the_floor(generator, phantom_dataset, tmp_path):
    """Whatever is measured of training cases that pose as synthetic ones is what the floor says."""
    train, val = fold_cases(phantom_dataset, 0)
    training, held_out = ([(c, *load_preprocessed(phantom_dataset, c)) for c in ids] for ids in (train, val))
    sets = [case_set(generator, tmp_path / str(i), cases) for i, cases in enumerate((training, held_out, training))]
    requests = [Request(str(i), i, {}) for i in range(len(train))]
    records = [d.record(generator, SAMPLER) for d in draw(generator, requests, SAMPLER)]
    sections, _ = measured(generator, phantom_dataset, sets, records)
    found = {name: {r.id: r for r in results} for name, results in sections.items()}
    for section in ("features", "latents"):
        kernel = found[section]["kid"]
        assert kernel.value == pytest.approx(kernel.floor)
    for result in found["coherence"].values():
        assert result.value == pytest.approx(result.details["training"])
    assert found["masks"]["specks"].value == 0
    roughness = found["masks"]["tumour/outline_roughness"].details
    assert roughness["mean_synthetic"] == pytest.approx(roughness["mean_training"])
    assert roughness["mean_synthetic"] != 0
    assert found["memorisation"]["image/distance_ratio"].value == pytest.approx(0, abs=1e-6)


def test_equal_seeds_give_equal_numbers(result, generator, phantom_dataset, tmp_path):
    again = evaluate(generator, phantom_dataset, RAW, tmp_path / "again")
    without_time = [{k: v for k, v in r.items() if not k.startswith("seconds")} for r in (result, again)]
    assert json.dumps(without_time[0]) == json.dumps(without_time[1])


def accept_seeds(monkeypatch, accepted):
    """A gate that accepts the draws whose number, in order, is among ``accepted``."""
    from nnunet_sbldm.expansion import production
    from nnunet_sbldm.quality.gate import Reason, Verdict

    number = iter(range(1000))
    odd = Reason("size", "the size is odd")
    monkeypatch.setattr(production, "judge", lambda *_: Verdict({}, () if next(number) in accepted else (odd,)))


@pytest.fixture
def made(generator, phantom_dataset, tmp_path, monkeypatch):
    """Three cases of which the first draws are rejected, accepted, rejected; the last is given up."""

    def make(use_gate):
        accept_seeds(monkeypatch, {1, 3})
        nearest = NearestRealCase(generator, phantom_dataset)
        folder = tmp_path / str(use_gate)
        return make_cases(phantom_dataset, nearest, numbered_requests(3, 5), SAMPLER, folder, use_gate)

    return make


def test_gated_cases_are_those_of_an_expansion_and_raw_ones_the_first_draws(made):
    gated, raw = made(True), made(False)
    assert gated.cases.case_ids == ("sbldm_00005", "sbldm_00006")
    assert [r.attempt for r in gated.records] == [1, 0]
    assert len(gated.draws) == 3 + 1 + 3
    assert gated.filled_share == pytest.approx(2 / 3)
    assert raw.cases.case_ids == ("sbldm_00005", "sbldm_00006", "sbldm_00007")
    assert [r.attempt for r in raw.records] == [0, 0, 0]
    assert raw.accepted_share == pytest.approx(1 / 3)
    np.testing.assert_array_equal(gated.cases.image(1), raw.cases.image(1))


def test_gated_evaluation_says_what_the_gate_did_and_what_came_before_it(generator, phantom_dataset, tmp_path, monkeypatch):
    accept_seeds(monkeypatch, {1, 3})
    result = evaluate(generator, phantom_dataset, replace(RAW, num_cases=3, use_gate=True), tmp_path / "out")
    gate = result["gate"]
    assert (gate["first_draws_accepted_share"], gate["cases_accepted_share"]) == (1 / 3, 2 / 3)
    assert (gate["draws"], gate["reasons"]) == (7, {"size": 5})
    assert "gave up 1 of 3 cases" in " ".join(result["warnings"])
    assert all("first_draws" in r["details"] for r in result["sections"]["condition"])
    html = (tmp_path / "out" / "evaluation.html").read_text()
    assert "33.3 % of first draws" in html
    assert "gave 66.7 % of the cases asked" in html


def test_a_generator_whose_cases_the_gate_refuses_is_unfit(generator, phantom_dataset, tmp_path, monkeypatch):
    accept_seeds(monkeypatch, {0})
    with pytest.raises(UnfitGeneratorError, match=r"accepts 1 of 3 cases .* because of size \(8 times\)"):
        evaluate(generator, phantom_dataset, replace(RAW, num_cases=3, use_gate=True), tmp_path / "out")


def test_a_score_is_the_evaluation_in_one_row(result, generator, phantom_dataset, tmp_path):
    real = RealCases.collect(generator.plan, phantom_dataset, *evaluated_cases(generator, phantom_dataset), tmp_path / "real")
    reference = Reference.measure(generator, phantom_dataset, real)
    row = score(reference, numbered_requests(4, 7), SAMPLER, tmp_path / "work", seed=7)
    found = {name: {r["id"]: r for r in results} for name, results in result["sections"].items()}
    assert row["frechet"] == found["features"]["frechet"]["value"]
    ratios = [found["memorisation"][f"{kind}/distance_ratio"]["value"] for kind in ("image", "mask", "pair")]
    assert row["memorisation"] == min(ratios)
    ssim = found["coherence"]["neighbour_ssim"]
    assert row["neighbour_ssim"] == ssim["value"] / ssim["floor"]
    assert row["accepted_share"] == result["gate"]["first_draws_accepted_share"]
    assert list((tmp_path / "work").iterdir()) == []


# --- goals ---------------------------------------------------------------------------------------------------------


def test_goals_of_a_file_judge_and_stand_in_the_report(generator, tmp_path, capsys):
    file, out = tmp_path / "targets.json", tmp_path / "out"
    file.write_text('{"max_centroid_error": 10, "min_memorisation_ratio": 0}')
    options = ["-n", "2", "-steps", "1", "-device", "cpu", "--no_gate"]
    evaluate_entry(["-m", str(generator.folder), "-o", str(out), "-targets", str(file), *options])
    written = read_json(out / "evaluation.json")
    assert written["targets"] == {**asdict(DEFAULT_GOALS), "max_centroid_error": 10, "min_memorisation_ratio": 0}
    (error,) = [r for r in written["sections"]["condition"] if r["id"] == "tumour/centroid_error"]
    assert error["target"] == "at most 10"
    assert error["reached"] in (True, None)
    assert all(r["reached"] for r in written["sections"]["memorisation"] if r["id"].endswith("/distance_ratio"))
    assert "at most 10" in (out / "evaluation.html").read_text()


# --- what is refused -----------------------------------------------------------------------------------------------


def test_seen_held_out_cases_are_refused_by_id_and_by_content(generator, phantom_dataset):
    held_out = fold_cases(phantom_dataset, 0)[1][0]
    fingerprint = fingerprints_of(phantom_dataset, [held_out])[held_out]
    for seen in (fingerprint, replace(fingerprint, case_id="renamed")):
        leaking = replace(generator, seen=(*generator.seen, seen))
        with pytest.raises(UserError, match=f"has seen 1 of the held-out cases of fold 0: {held_out}"):
            evaluated_cases(leaking, phantom_dataset)


def test_patients_that_are_named_after_training_are_held_apart(generator, phantom_dataset, tmp_path):
    train, val = fold_cases(phantom_dataset, 0)
    groups = {c: c for c in phantom_dataset.real_case_ids} | {val[0]: "one patient", train[0]: "one patient"}
    write_json(tmp_path / "groups.json", groups)
    remember_groups(phantom_dataset, tmp_path / "groups.json")
    with pytest.raises(UserError, match=rf"has seen 1 of the held-out cases of fold 0: {val[0]} \(same patient as {train[0]}\)"):
        evaluated_cases(generator, phantom_dataset)
    with pytest.raises(UserError, match=rf"{val[0]} \(same patient as {train[0]}\)"):
        edited_cases(generator, phantom_dataset, EditSettings(()))


def test_other_preprocessing_and_folds_without_held_out_cases_are_refused(generator, phantom_dataset):
    with pytest.raises(UserError, match="is preprocessed differently"):
        evaluated_cases(replace(generator, plan=replace(generator.plan, plans_hash="other")), phantom_dataset)
    with pytest.raises(UserError, match="Fold all .* holds out 0"):
        evaluated_cases(replace(generator, plan=replace(generator.plan, fold="all")), phantom_dataset)


def test_command_finds_the_dataset_and_writes_beside_the_model(generator, capsys):
    evaluate_entry(["-m", str(generator.folder), "-n", "2", "-steps", "2", "-device", "cpu", "--no_gate"])
    assert "look at" in capsys.readouterr().out
    written = read_json(generator.folder / "evaluation" / "evaluation.json")
    assert written["dataset"]["name"] == generator.plan.dataset_name
    assert written["sampler"]["num_steps"] == 2
    with pytest.raises(SystemExit) as e:
        evaluate_entry(["-m", str(generator.folder), "-n", "1", "-device", "cpu"])
    assert e.value.code == 2
    assert "at least 2 synthetic cases, got 1" in capsys.readouterr().err
