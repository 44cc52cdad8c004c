"""The fold rule: no synthetic case trains where its generator has seen a validation case, and none ever validates."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnunet_sbldm.folds import (
    CaseFingerprint,
    find_leaks,
    guard_split,
    refuse_leaks,
    with_groups,
    without_patients_of_val,
)
from nnunet_sbldm.types import UserError

NAMES = st.text("case_01a", min_size=1, max_size=7)


def cases(ids):
    return [CaseFingerprint(i) for i in ids]


@given(st.sets(NAMES), st.sets(NAMES))
def test_ids_leak_exactly_where_the_sets_meet(seen, validation):
    leaks = find_leaks(cases(seen), cases(validation))
    assert {leak.validation_case for leak in leaks} == seen & validation


def test_a_prefix_is_not_a_match():
    assert find_leaks(cases(["case_1"]), cases(["case_10", "xcase_1", "case_"])) == []


@pytest.mark.parametrize(
    ("copy", "reason"),
    [
        (CaseFingerprint("renamed", ("i1",), ""), "image content"),
        (CaseFingerprint("renamed", ("new", "i2"), ""), "image content"),
        (CaseFingerprint("renamed", (), "m"), "label content"),
        (CaseFingerprint("later_scan", ("new",), "other", "p"), "patient"),
    ],
)
def test_a_renamed_copy_is_caught_by_its_content_and_a_second_scan_by_its_patient(copy, reason):
    seen = [CaseFingerprint("original", ("i1", "i2"), "m", "p")]
    (leak,) = find_leaks(seen, [copy])
    assert (leak.seen_case, leak.reason) == ("original", reason)


def test_two_empty_masks_are_not_the_same_case():
    assert find_leaks([CaseFingerprint("a", ("x",), "")], [CaseFingerprint("b", ("y",), "")]) == []


def test_cases_without_a_patient_are_not_of_the_same_patient():
    assert find_leaks([CaseFingerprint("a", group="")], [CaseFingerprint("b", group="")]) == []


def test_lists_written_before_there_were_patients_are_read():
    case = CaseFingerprint("a", ("x",), "y", "p")
    written = case.to_json()
    assert CaseFingerprint.from_json(written) == case
    del written["group"]
    assert CaseFingerprint.from_json(written) == CaseFingerprint("a", ("x",), "y")


def test_the_refusal_names_the_cases():
    with pytest.raises(UserError, match=r"Fold 3: .* 2 of .* b .*, c "):
        refuse_leaks(cases("abc"), cases("bcd"), 3)


@given(st.lists(NAMES, unique=True, min_size=2, max_size=12), st.data())
def test_a_guarded_split_never_validates_on_or_leaks_through_synthetic_cases(names, data):
    real = names
    val = data.draw(st.lists(st.sampled_from(real), unique=True))
    seen_lists = data.draw(st.lists(st.sets(st.sampled_from(real)), min_size=1, max_size=3))
    synthetic = {f"synthetic-{i}-{j}": tuple(cases(seen)) for i, seen in enumerate(seen_lists) for j in range(2)}
    train = [c for c in real if c not in val] + data.draw(st.lists(st.sampled_from(sorted(synthetic)), unique=True))
    proposed_val = val + data.draw(st.lists(st.sampled_from(sorted(synthetic)), unique=True))
    leaks = any({c.case_id for c in synthetic[t]} & set(val) for t in train if t in synthetic)
    if leaks:
        with pytest.raises(UserError):
            guard_split(train, proposed_val, synthetic, {}, 0)
    else:
        assert guard_split(train, proposed_val, synthetic, {}, 0) == (train, val)


def test_fold_all_keeps_synthetic_cases_in_training_and_out_of_validation():
    synthetic = {"s": tuple(cases(["a", "b"]))}
    assert guard_split(["a", "b", "s"], ["a", "b", "s"], synthetic, {}, "all") == (["a", "b", "s"], ["a", "b"])


GROUPS = st.dictionaries(NAMES, st.sampled_from(["", "p1", "p10", "p"]), min_size=2, max_size=12)


@given(GROUPS, st.data())
def test_scans_of_one_patient_never_straddle(groups, data):
    """Whatever the groups and the split: a patient in ``val`` is refused, and what the rule picks for training passes."""
    val = data.draw(st.lists(st.sampled_from(sorted(groups)), unique=True))
    train = [c for c in sorted(groups) if c not in val]
    content = {c: CaseFingerprint(c, group=g) for c, g in groups.items()}
    straddling = {groups[c] for c in train} & {groups[c] for c in val} - {""}
    for seen in (tuple(content[c] for c in train), tuple(cases(train))):  # a generator of before the groups were given
        if straddling:
            with pytest.raises(UserError, match="same patient as"):
                guard_split([*train, "synthetic"], val, {"synthetic": seen}, content, 0)
        else:
            guard_split([*train, "synthetic"], val, {"synthetic": seen}, content, 0)
    clean = without_patients_of_val(train, val, groups)
    assert [c for c in train if groups[c] not in straddling] == clean
    refuse_leaks(with_groups(cases(clean), groups), with_groups(cases(val), groups), 0)
