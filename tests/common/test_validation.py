"""Sentences for what a user wrote in a file."""

from typing import Annotated

import pytest
from pydantic import Field
from pydantic.dataclasses import dataclass

from nnunet_sbldm.common.validation import FILE, Different, MustBe, OneOf, OneOrSeveral, checked
from nnunet_sbldm.types import UserError

Count = Annotated[int, Field(strict=True, ge=1), MustBe("a whole number from 1")]


@dataclass(frozen=True, config=FILE)
class Inner:
    colour: Annotated[str, OneOf(("red", "green"))] = "red"


@dataclass(frozen=True, config=FILE)
class Outer:
    number: Count
    names: Annotated[tuple[str, ...], Different(), MustBe("different names")]
    counts: Annotated[tuple[Count, ...], OneOrSeveral(), MustBe("a whole number from 1, or several")] = Field(
        (1,), validation_alias="how_many")
    inner: Inner = Field(default_factory=Inner)


GOOD = {"number": 1, "names": ["a", "b"]}
KEYS = "Valid are number, names, how_many, inner."


def test_what_is_right_is_read():
    found = checked(Outer, {**GOOD, "how_many": 3, "inner": {"colour": "green"}}, "file")
    assert found == Outer(1, ("a", "b"), (3,), Inner("green"))
    assert checked(Outer, {**GOOD, "how_many": [3, 4]}, "file").counts == (3, 4)


@pytest.mark.parametrize(("value", "sentence"), [
    ({**GOOD, "number": 0}, "file: number must be a whole number from 1; got 0."),
    ({**GOOD, "number": True}, "file: number must be a whole number from 1; got True."),
    ({**GOOD, "names": ["a", "a"]}, "file: names must be different names; got ['a', 'a']."),
    ({**GOOD, "names": []}, "file: names must be different names; got []."),
    ({**GOOD, "how_many": [1, 0]}, "file: how_many must be a whole number from 1, or several; got [1, 0]."),
    ({**GOOD, "counts": 3}, f"file: the key 'counts' is unknown, did you mean 'names'? {KEYS}"),
    ({**GOOD, "inner": {"color": "red"}}, "file, inner: the key 'color' is unknown, did you mean 'colour'? Valid are colour."),
    ({**GOOD, "inner": {"colour": "{blue}"}}, "file, inner: colour must be one of red, green; got '{blue}'."),
    ({**GOOD, "inner": [1]}, "file: inner must be keys and values such as colour: ...; got [1]."),
    ({}, "file: number, names must be given."),
    ({"nmber": 1, "names": []}, f"file: the key 'nmber' is unknown, did you mean 'number'? {KEYS}"),
    ([1], "file holds keys and values such as number: ...; got [1]."),
])
def test_every_fault_is_one_sentence(value, sentence):
    with pytest.raises(UserError) as e:
        checked(Outer, value, "file")
    assert str(e.value) == sentence
