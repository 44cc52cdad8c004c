"""Checking what a user wrote in a file with pydantic: annotations of fields, and one clear sentence for the first fault."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler, TypeAdapter, ValidationError
from pydantic_core import CoreSchema, ErrorDetails, PydanticCustomError, core_schema

from nnunet_sbldm.types import UserError

FILE = ConfigDict(extra="forbid", validate_by_alias=True, validate_by_name=True)
"""Of dataclasses that a file is read into: no other keys. Code uses the names of fields, a file their aliases alone."""
MUST_BE = "must_be"

T = TypeVar("T")


# --- annotations ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MustBe:
    """What a value has to be, in the words of the sentence that refuses another one.

    Attributes:
        what: such as ``a whole number from 1``.
    """

    what: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Replace every fault of the annotated type by one in our words."""
        return core_schema.no_info_wrap_validator_function(self._checked, self._schema(source, handler))

    def _schema(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return handler(source)

    def _checked(self, value: Any, inner: Callable[[Any], Any]) -> Any:
        try:
            return inner(value)
        except ValueError:  # pydantic's own among them
            raise PydanticCustomError(MUST_BE, "must be {what}; got {got}", {"what": self.what, "got": repr(value)}) from None


class OneOf(MustBe):
    """The value is one of some words."""

    def __init__(self, words: Sequence[str]) -> None:
        super().__init__(f"one of {', '.join(words)}")
        object.__setattr__(self, "words", list(words))

    def _schema(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.literal_schema(self.words)  # type: ignore[attr-defined]


class Different:
    """The values of a tuple are all different, and there is one at least."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Check the tuple once it is read."""
        return core_schema.no_info_after_validator_function(self._checked, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Say the same to editors."""
        return {**handler(schema), "minItems": 1, "uniqueItems": True}

    @staticmethod
    def _checked(values: tuple[Hashable, ...]) -> tuple[Hashable, ...]:
        if not values or len(set(values)) != len(values):
            raise ValueError
        return values


class OneOrSeveral(Different):
    """A tuple of different values; a single one may stand there without a list."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Make a list of a single value first."""
        return core_schema.no_info_before_validator_function(
            lambda value: value if isinstance(value, list | tuple) else [value],
            super().__get_pydantic_core_schema__(source, handler))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Say the same to editors."""
        several = super().__get_pydantic_json_schema__(schema, handler)
        return {"anyOf": [several["items"], several]}


def text(value: Any) -> str:
    """A word, which YAML may have read as a whole number.

    Raises:
        ValueError: it is something else, or empty.
    """
    if isinstance(value, bool) or not isinstance(value, int | str) or not str(value).strip():
        raise ValueError
    return str(value)


# --- reading -------------------------------------------------------------------------------------------------------


def checked(model: type[T], value: Any, where: str) -> T:
    """Read keys and values into a pydantic dataclass or model.

    Args:
        model: the class.
        value: as the file gave it.
        where: the place that sentences name, such as ``study.yaml``.

    Raises:
        UserError: unknown key (with the nearest valid one), missing key, or a value that its field refuses.
    """
    try:
        return TypeAdapter(model).validate_python(value, by_alias=True, by_name=False)
    except ValidationError as e:
        raise UserError(_sentence(e.errors(include_url=False), model, where)) from None


def refuse_unknown(word: Any, valid: Sequence[str], what: str) -> None:
    """Raise a :class:`UserError` with the nearest valid word if ``word`` is none of ``valid``."""
    if word not in valid:
        raise UserError(f"{what} {_unknown_word(word, valid)}")


def refuse_null(given: Mapping[str, Any], where: str) -> None:
    """Raise a :class:`UserError` if a key stands there without a value: None is for Python alone."""
    empty = [key for key, value in given.items() if value is None]
    if empty:
        raise UserError(f"{where}: {empty[0]} is null; leave it out, or give it a value.")


def _unknown_word(word: Any, valid: Sequence[str]) -> str:
    near = difflib.get_close_matches(str(word), valid, n=1, cutoff=0)[0]
    return f"{word!r} is unknown, did you mean {near!r}? Valid are {', '.join(valid)}."


def keys_of(model: Any) -> dict[str, Any]:
    """Keys that a file may give for a pydantic dataclass or model, each with the type of its value."""
    return {str(f.validation_alias or name): f.annotation for name, f in model.__pydantic_fields__.items()}


def _sentence(faults: Sequence[ErrorDetails], model: Any, where: str) -> str:
    """One sentence for the gravest fault: an unknown key explains a missing one."""
    gravity = {kind: i for i, kind in enumerate(_SENTENCES)}
    fault = min(faults, key=lambda f: gravity.get(f["type"], len(gravity)))
    sections, key = fault["loc"][:-1], ", ".join(map(str, fault["loc"][-1:]))
    for section in sections:
        model = keys_of(model)[str(section)]
    if fault["type"] == "missing":
        key = ", ".join(str(f["loc"][-1]) for f in faults if f["type"] == "missing" and f["loc"][:-1] == sections)
    return _SENTENCES.get(fault["type"], _other)(", ".join([where, *map(str, sections)]), key, fault, model)


def _unknown(place: str, key: str, fault: ErrorDetails, model: Any) -> str:
    return f"{place}: the key {_unknown_word(key, list(keys_of(model)))}"


def _missing(place: str, key: str, fault: ErrorDetails, model: Any) -> str:
    return f"{place}: {key} must be given."


def _no_mapping(place: str, key: str, fault: ErrorDetails, model: Any) -> str:
    shape = f"keys and values such as {next(iter(keys_of(keys_of(model)[key] if key else model)))}: ...; got {fault['input']!r}."
    return f"{place}: {key} must be {shape}" if key else f"{place} holds {shape}"


def _other(place: str, key: str, fault: ErrorDetails, model: Any) -> str:
    return f"{place}: {key} {fault['msg']}."


_SENTENCES: dict[str, Callable[[str, str, ErrorDetails, Any], str]] = {
    "unexpected_keyword_argument": _unknown,
    "extra_forbidden": _unknown,
    "missing": _missing,
    "dataclass_type": _no_mapping,
    "model_type": _no_mapping,
    MUST_BE: _other,
}
"""What is said of each kind of fault, the gravest first."""
