"""The fold rule: no synthetic case trains where its generator has seen a validation case, and none ever validates."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnunet_sbldm.data.folds import (
    CaseFingerprint,
    find_copies,
    find_leaks,
    guard_split,
    names_of,
    refuse_leaks,
    with_groups,
    without_patients_of_val,
)
from nnunet_sbldm.generator.records import SyntheticIndex
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


def test_every_copy_of_a_held_out_case_is_found():
    copies = [CaseFingerprint("a", ("i1",), "x"), CaseFingerprint("b", ("i1",)), CaseFingerprint("c", ("new",), "m")]
    original = CaseFingerprint("original", ("i1", "i2"), "m")
    found = find_copies([*copies, CaseFingerprint("d", ("i3",), "y")], [original])
    assert found == {
        "a": "a (same image content as original)",
        "b": "b (same image content as original)",
        "c": "c (same label content as original)",
    }


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


# --- salted lists --------------------------------------------------------------------------------------------------

HASHES = st.sampled_from(["h1", "h2", "h3", "h4"])
IMAGES, PATIENTS = st.lists(HASHES, max_size=2).map(tuple), st.sampled_from(["", "p", "q"])
FINGERPRINTS = st.builds(CaseFingerprint, NAMES, IMAGES, st.just("") | HASHES, PATIENTS)
SALTS = st.sampled_from(["", "salt", "another"])


@given(st.lists(st.tuples(FINGERPRINTS, SALTS), max_size=8), st.lists(FINGERPRINTS, max_size=8))
def test_salting_never_changes_which_leaks_are_found(seen, validation):
    """Whatever is salted, by one salt or several: the same validation cases leak, for the same reasons."""
    plain = find_leaks([c for c, _ in seen], validation)
    salted = find_leaks([c.salted(salt) if salt else c for c, salt in seen], validation)
    assert [(leak.validation_case, leak.reason) for leak in salted] == [(leak.validation_case, leak.reason) for leak in plain]


@given(st.lists(FINGERPRINTS, max_size=8), st.lists(FINGERPRINTS, max_size=8), GROUPS)
def test_salting_never_changes_which_patients_are_known(seen, validation, groups):
    plain, salted = (find_leaks(with_groups(s, groups), validation) for s in (seen, [c.salted("salt") for c in seen]))
    assert [(leak.validation_case, leak.reason) for leak in salted] == [(leak.validation_case, leak.reason) for leak in plain]


@given(st.lists(st.tuples(FINGERPRINTS, SALTS), max_size=8), st.lists(NAMES, unique=True))
def test_a_dataset_finds_its_own_cases_in_a_salted_list(seen, case_ids):
    salted = [c.salted(salt) if salt else c for c, salt in seen]
    assert names_of(salted, case_ids) == list(dict.fromkeys(c.case_id for c, _ in seen if c.case_id in case_ids))


def test_a_salted_list_says_nothing_by_itself_and_no_digest_is_shown_as_a_name():
    case = CaseFingerprint("patient_7", ("i1", "i2"), "m", "Smith")
    salted, other = case.salted("salt"), case.salted("other salt")
    fields = [v for c in (salted, other) for v in (c.case_id, *c.image_hashes, c.label_hash, c.group)]
    assert len(set(fields)) == 10
    assert all(len(v) == 64 for v in fields)
    assert salted.salted("again") is salted
    assert CaseFingerprint.from_json(salted.to_json()) == salted
    assert str(find_leaks([salted], [case])[0]) == "patient_7 (same case id)"
    renamed = CaseFingerprint("renamed", ("i2",))
    assert str(find_leaks([salted], [renamed])[0]) == "renamed (same image content as one of its training cases)"


def test_a_value_of_one_kind_is_not_taken_for_the_same_value_of_another():
    assert find_leaks([CaseFingerprint("a", ("x",), "y").salted("s")], [CaseFingerprint("x", ("y",), "a", "a")]) == []


def test_an_index_keeps_the_salt(tmp_path):
    index = SyntheticIndex("plans")
    index.add(["s"], "generator", [CaseFingerprint("a", ("x",)).salted("salt"), CaseFingerprint("b")])
    index.save(tmp_path)
    loaded = SyntheticIndex.load(tmp_path)
    assert loaded.generators == index.generators
    with pytest.raises(UserError, match="1 of this fold's validation cases: c .same image content"):
        guard_split(["s"], ["c"], loaded.seen_by(), {"c": CaseFingerprint("c", ("x",))}, 0)
