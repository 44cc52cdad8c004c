"""The gate: real training cases pass, and each kind of bad case is rejected with a reason that names its fault."""

import json
import math
from dataclasses import asdict, replace
from functools import cache

import numpy as np
import pytest
from phantom_fixtures import SMALL_PHANTOM

from nnunet_sbldm.common.files import from_json
from nnunet_sbldm.data.cases import load_preprocessed
from nnunet_sbldm.data.conditions import Target, as_dict, feature_names, measure
from nnunet_sbldm.data.phantom import make_phantom_case
from nnunet_sbldm.generator.plan import GeneratorPlan
from nnunet_sbldm.quality.appearance import mask_and_shell, measure_appearance
from nnunet_sbldm.quality.gate import GateReference, Reason, Verdict, fit_gate, judge, rules_of
from nnunet_sbldm.types import OUTSIDE

TARGETS = (Target("tumour", (1, 2)), Target("core", (2,)))
NAMES = feature_names(TARGETS)
HEADS = replace(SMALL_PHANTOM, num_labels=2, healthy_probability=0.15, seed=4)
SPACING_MM = HEADS.spacing_mm
REAL_DISTANCES = (0.9, 0.8, 1.1)


@cache
def head(index):
    """Image z-scored inside the head, label with OUTSIDE marks."""
    case, _ = make_phantom_case(HEADS, index)
    inside = (case.image != 0).any(axis=0)
    values = case.image[:, inside]
    image = (case.image - values.mean(axis=1)[:, None, None, None]) / values.std(axis=1)[:, None, None, None]
    return np.where(inside, image, 0).astype(np.float32), np.where(inside, case.label, OUTSIDE).astype(np.int16)


def condition_of(label):
    return as_dict(NAMES, measure(label, TARGETS, SPACING_MM))


def appearance_of(image, label):
    return measure_appearance(image, label, TARGETS, SPACING_MM)


@cache
def reference(num_cases=12):
    heads = [head(i) for i in range(num_cases)]
    table = np.array([measure(label, TARGETS, SPACING_MM) for _, label in heads])
    return fit_gate(table, NAMES, [appearance_of(*h) for h in heads])


def reasons(image, label, asked=None, nearest_distance=0.9):
    asked = condition_of(label) if asked is None else asked
    verdict = judge(reference(), asked, condition_of(label), appearance_of(image, label), nearest_distance, REAL_DISTANCES)
    return verdict.reasons


def texts(*args, **kwargs):
    return [r.text for r in reasons(*args, **kwargs)]


def rules(*args, **kwargs):
    return {r.rule for r in reasons(*args, **kwargs)}


@pytest.fixture
def diseased():
    """The head with the largest tumour of five training cases."""
    return max((head(i) for i in range(5)), key=lambda h: (h[1] > 0).sum())


@pytest.mark.parametrize("num_cases", [2, 5, 12])
def test_every_training_case_passes_its_own_gate(num_cases):
    for i in range(num_cases):
        asked, appearance = condition_of(head(i)[1]), appearance_of(*head(i))
        verdict = judge(reference(num_cases), asked, asked, appearance, 0.8, REAL_DISTANCES)
        assert verdict.accepted, verdict.reasons
        assert all(v == 0 for k, v in verdict.scores.items() if k.startswith("error/"))


def test_most_unseen_real_cases_pass_too():
    rejected = [i for i in range(12, 52) if reasons(*head(i))]
    assert len(rejected) <= 4, [reasons(*head(i)) for i in rejected]


def test_an_inverted_contrast_is_named(diseased):
    image, label = diseased
    wrong = image.copy()
    for channel in wrong:
        shell = mask_and_shell(label > 0, label != OUTSIDE, SPACING_MM)[1]
        channel[label > 0] = 2 * channel[shell].mean() - channel[label > 0]
    assert "tumour/channel_0/contrast" in rules(wrong, label)


def test_a_mask_that_the_image_does_not_show_is_named(diseased):
    image, label = diseased
    mirrored = np.where(label == OUTSIDE, OUTSIDE, np.maximum(np.flip(label, axis=(1, 2)), 0)).astype(np.int16)
    assert "tumour/channel_0/contrast" in rules(image, mirrored)


def test_a_tumour_ten_times_too_large_is_named(diseased):
    image, label = diseased
    asked = condition_of(label)
    asked["tumour/volume_ml"] /= 10
    obtained, wanted = condition_of(label)["tumour/volume_ml"], asked["tumour/volume_ml"]
    assert f"tumour/volume_ml {obtained:.3g} obtained, {wanted:.3g} asked" in texts(image, label, asked)
    grown = label.copy()
    grown[3:-3, 5:-5, 5:-5] = np.where(label[3:-3, 5:-5, 5:-5] == OUTSIDE, OUTSIDE, 1)
    assert any(r.rule == "tumour/volume_ml" and "real cases" in r.text for r in reasons(image, grown))


def test_a_missing_and_an_unasked_label_are_named(diseased):
    image, label = diseased
    without_core = np.where(label == 2, 1, label).astype(np.int16)
    missing = Reason("core/presence", "core is missing, but was asked")
    assert missing in reasons(image, without_core, condition_of(label))
    assert missing in reasons(image, without_core, {"core/volume_ml": 2.0})
    assert Reason("core/presence", "core is there, but was not asked") in reasons(image, label, condition_of(without_core))


def test_features_that_were_not_asked_may_be_anything(diseased):
    assert reasons(*diseased, asked={}) == ()
    assert reasons(*diseased, asked={"anatomy/extent_d_mm": condition_of(diseased[1])["anatomy/extent_d_mm"]}) == ()


def test_a_copy_of_a_training_case_is_named_and_without_real_data_not_looked_for(diseased):
    image, label = diseased
    assert rules(image, label, nearest_distance=0.0) == rules(image, label, nearest_distance=0.39) == {"copy"}
    assert reasons(image, label, nearest_distance=0.41) == ()
    condition, appearance = condition_of(label), appearance_of(image, label)
    assert "distance_ratio" not in judge(reference(), condition, condition, appearance).scores
    assert not judge(reference(), condition, condition, appearance, 0.0, (0.0, 1.0)).accepted  # training holds a duplicate


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_a_constant_and_a_broken_image_are_named(diseased, value):
    _, label = diseased
    assert {"channel_0/std", "channel_1/std"} <= rules(np.full((2, *label.shape), value, np.float32), label)


def test_an_image_without_anatomy_is_named(diseased):
    image, label = diseased
    empty = np.full_like(label, OUTSIDE)
    assert appearance_of(image, empty) == {}
    verdict = judge(reference(), {}, condition_of(empty), {})
    assert Reason("channel_0/mean", "channel_0/mean cannot be measured") in verdict.reasons


def test_a_record_names_the_rules_and_one_of_an_earlier_version_is_understood():
    verdict = Verdict.of_all((
        Verdict({"a": 1.0, "b": np.nan}, (Reason("tumour/volume_ml", "tumour/volume_ml 9 obtained, 5 asked"),)),
        Verdict({}, (Reason("cut", "cut: 20% of the lesion lies in the border of the region"),)),
    ))
    written = verdict.to_json()
    assert written["scores"] == {"a": 1.0}
    assert rules_of(written) == ["tumour/volume_ml", "cut"]
    assert rules_of({"reasons": written["reasons"]}) == ["tumour/volume_ml", "cut"]
    assert rules_of({}) == rules_of({"scores": {}, "reasons": [], "rules": []}) == []


def test_bounds_let_few_further_real_cases_out_however_few_there_are_to_fit():
    rng = np.random.default_rng(0)
    for num_cases in (5, 8, 20, 100):
        outside = []
        for _ in range(400):
            appearances = [{"a/std": 1.0, "a/mean": v} for v in rng.normal(size=num_cases)]
            fitted = fit_gate(np.empty((num_cases, 0)), [], appearances)
            further = rng.normal(size=50)
            outside.append(np.mean((further < fitted.low["a/mean"]) | (further > fitted.high["a/mean"])))
        assert np.mean(outside) < 0.02


def test_bounds_from_few_cases_are_wider_for_the_same_range():
    few, many = ([{"a/std": 1.0, "a/mean": v} for v in np.linspace(0, 10, n)] for n in (5, 50))
    few, many = (fit_gate(np.empty((len(a), 0)), [], a) for a in (few, many))
    assert (few.low["a/mean"], few.high["a/mean"]) == pytest.approx((-16, 26))
    assert (many.low["a/mean"], many.high["a/mean"]) == pytest.approx((-2.5, 12.5))


def test_a_contrast_keeps_the_sign_that_all_training_cases_clearly_have():
    def bounds(*contrasts):
        fitted = fit_gate(np.empty((len(contrasts), 0)), [], [{"tumour/channel_0/contrast": c} for c in contrasts])
        return fitted.low["tumour/channel_0/contrast"], fitted.high["tumour/channel_0/contrast"]

    assert bounds(0.5, 1.0, 1.5) == pytest.approx((0.0, 1.5 + 8 / 3))
    assert bounds(-0.5, -1.0, -1.5) == pytest.approx((-1.5 - 8 / 3, 0.0))
    assert bounds(0.1, 1.0, 1.5)[0] < 0 < bounds(-0.1, -1.0, -1.5)[1]


def test_equal_training_cases_still_leave_room():
    label = head(0)[1]
    row = measure(label, TARGETS, SPACING_MM)
    fitted = fit_gate(np.array([row] * 5), NAMES, [appearance_of(*head(0))] * 5)
    volume = row[NAMES.index("tumour/volume_ml")]
    assert fitted.low["tumour/volume_ml"] == pytest.approx(volume / 1.25)
    assert fitted.tolerance["tumour/volume_ml"] == pytest.approx(math.log(1.25))
    assert fitted.tolerance["tumour/centroid_h"] == 0.05


def test_the_tolerance_is_one_standard_deviation_of_the_logarithm():
    table = np.array([measure(head(i)[1], TARGETS, SPACING_MM) for i in range(12)])
    expected = np.nanstd(np.log(table[:, NAMES.index("tumour/volume_ml")]))
    assert reference().tolerance["tumour/volume_ml"] == pytest.approx(expected)


def test_a_label_that_no_training_case_has_has_no_bounds():
    row = measure(np.minimum(head(0)[1], 1), TARGETS, SPACING_MM)
    fitted = fit_gate(np.array([row] * 3), NAMES, [{}] * 3)
    assert "core/volume_ml" not in fitted.low


def test_contrast_is_in_standard_deviations_and_the_shell_in_millimetres():
    label = np.zeros((12, 20, 20), np.int16)
    label[:2] = OUTSIDE
    label[4:8, 8:12, 8:12] = 1
    image = np.where(label == 1, 3.0, 1.0).astype(np.float32)[None]
    features = measure_appearance(image, label, TARGETS[:1], (5.0, 2.0, 2.0))
    assert features["tumour/channel_0/contrast"] == pytest.approx(2 / image[0][label != OUTSIDE].std())
    _, shell = mask_and_shell(label == 1, label != OUTSIDE, (5.0, 2.0, 2.0))
    along_d, along_h = shell[:, 9, 9], shell[5, :, 9]
    assert np.flatnonzero(along_d).tolist() == [3, 8]
    assert np.flatnonzero(along_h).tolist() == [6, 7, 12, 13]
    _, beside_the_border = mask_and_shell(label == 1, label > 0, (5.0, 2.0, 2.0))
    assert not beside_the_border.any()


def test_the_reference_survives_json_and_scores_are_plain_numbers(diseased):
    stored = json.loads(json.dumps(asdict(reference()), allow_nan=False))
    assert from_json(GateReference, stored) == reference()
    condition = condition_of(diseased[1])
    verdict = judge(reference(), condition, condition, appearance_of(*diseased), np.float32(0.9), np.array(REAL_DISTANCES))
    json.dumps(asdict(verdict), allow_nan=False)
    assert verdict.scores["distance_ratio"] == pytest.approx(0.9 / 0.8)


def test_the_training_cases_of_a_trained_generator_pass_its_gate(generator, phantom_dataset):
    plan = generator.plan
    assert GeneratorPlan.from_json(json.loads(json.dumps(plan.to_json()))).gate == plan.gate
    assert plan.gate.num_cases == len(generator.seen)
    for case in generator.seen:
        image, label = load_preprocessed(phantom_dataset, case.case_id)
        condition = as_dict(plan.condition_scaling.names, measure(label, plan.targets, phantom_dataset.config.spacing))
        appearance = measure_appearance(image, label, plan.targets, phantom_dataset.config.spacing)
        assert judge(plan.gate, condition, condition, appearance).accepted
