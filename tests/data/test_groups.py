"""Patient groups: said once, known to every later command, and two scans of one patient count as one case."""

import json
import os

import pytest

from nnunet_sbldm.data.fingerprints import fingerprints_of, remembered_fingerprints
from nnunet_sbldm.data.folds import refuse_leaks, without_patients_of_val
from nnunet_sbldm.data.groups import remember_groups, remembered_groups
from nnunet_sbldm.data.splits import fold_cases
from nnunet_sbldm.types import UserError


@pytest.fixture
def give(phantom_dataset, tmp_path):
    """Write a groups file and let the dataset remember it."""

    def write(value):
        file = tmp_path / "groups.json"
        file.write_text(value if isinstance(value, str) else json.dumps(value))
        return remember_groups(phantom_dataset, file)

    return write


@pytest.fixture
def alone(phantom_dataset):
    """Every case its own patient."""
    return {c: f"patient of {c}" for c in phantom_dataset.real_case_ids}


def test_a_leak_through_a_patient_is_refused_with_both_cases_named(phantom_dataset, alone, give):
    train, val = fold_cases(phantom_dataset, 0)
    give(alone | {val[1]: "twice", train[3]: "twice"})
    seen, held_out = (fingerprints_of(phantom_dataset, cases).values() for cases in (train, val))
    with pytest.raises(UserError, match=rf"Fold 0: .* 1 of .*: {val[1]} \(same patient as {train[3]}\)\."):
        refuse_leaks(seen, held_out, 0)
    clean = without_patients_of_val(train, val, remembered_groups(phantom_dataset.preprocessed))
    assert clean == [c for c in train if c != train[3]]
    refuse_leaks(fingerprints_of(phantom_dataset, clean).values(), held_out, 0)


def test_later_calls_know_the_groups_without_the_file(phantom_dataset, alone, give, tmp_path):
    before = fingerprints_of(phantom_dataset, phantom_dataset.real_case_ids)
    give(alone)
    os.remove(tmp_path / "groups.json")
    assert remembered_groups(phantom_dataset.preprocessed) == alone
    after = fingerprints_of(phantom_dataset, phantom_dataset.real_case_ids)
    assert {c: f.group for c, f in after.items()} == alone
    assert all((after[c].image_hashes, after[c].label_hash, before[c].group) == (f.image_hashes, f.label_hash, "")
               for c, f in before.items())
    assert remembered_fingerprints(phantom_dataset.preprocessed) == after


def test_groups_leave_the_remembered_content_as_it_is_and_can_be_given_anew(phantom_dataset, alone, give):
    fingerprints_of(phantom_dataset, phantom_dataset.real_case_ids)
    cache = phantom_dataset.preprocessed / "sbldm" / "content_hashes.json"
    before = cache.read_bytes(), cache.stat().st_mtime_ns
    for groups in (alone, dict.fromkeys(alone, "one patient")):
        give(groups)
        found = fingerprints_of(phantom_dataset, phantom_dataset.real_case_ids)
        assert {c: f.group for c, f in found.items()} == groups
    assert (cache.read_bytes(), cache.stat().st_mtime_ns) == before


def test_a_patient_is_known_even_where_no_content_is(phantom_dataset, alone, give):
    give(alone)
    (phantom_dataset.preprocessed / "sbldm" / "content_hashes.json").unlink(missing_ok=True)
    assert {c: f.group for c, f in remembered_fingerprints(phantom_dataset.preprocessed).items()} == alone


def test_a_case_added_after_the_groups_is_refused_rather_than_left_unguarded(phantom_dataset, alone, give):
    give(alone)
    first, *others = phantom_dataset.real_case_ids
    stored = phantom_dataset.preprocessed / "sbldm" / "groups.json"
    stored.write_text(json.dumps({c: alone[c] for c in others}))
    with pytest.raises(UserError, match=f"Case {first} of Dataset900_Phantom is in no patient group"):
        fingerprints_of(phantom_dataset, [first])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda g, first: {c: p for c, p in g.items() if c != first}, "gives no patient for {first}; it must name every"),
        (lambda g, first: g | {"someone": "p", "else": "p"}, "names else, someone, which Dataset900_Phantom does not have"),
        (lambda g, first: g | {first: 3}, "the patient of {first} must be a text that is not empty; got 3"),
        (lambda g, first: g | {first: " "}, "the patient of {first} must be a text that is not empty; got ' '"),
        (lambda g, first: list(g), "must hold an object, case id to patient"),
        (lambda g, first: "{", "not valid JSON"),
        (lambda g, first: '{"a": "p", "a": "q"}', "has the key 'a' twice"),
    ],
)
def test_bad_groups_end_with_one_sentence_and_nothing_is_kept(phantom_dataset, alone, give, change, sentence):
    first = phantom_dataset.real_case_ids[0]
    with pytest.raises(UserError) as e:
        give(change(alone, first))
    assert sentence.format(first=first) in str(e.value)
    assert remembered_groups(phantom_dataset.preprocessed) == {}


def test_a_missing_file_is_named(phantom_dataset, tmp_path):
    with pytest.raises(UserError, match="-groups .*nowhere.json is not a file"):
        remember_groups(phantom_dataset, tmp_path / "nowhere.json")
