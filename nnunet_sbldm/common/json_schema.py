"""JSON Schema of what users write in files, for editors that check and complete it."""

from __future__ import annotations

import inspect
import re
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

DIALECT = "https://json-schema.org/draft/2020-12/schema"
ATTRIBUTE = re.compile(r"^ {4}(\w+): (.+(?:\n {8}.+)*)", re.MULTILINE)
"""An entry of a docstring's list of attributes, with the lines that go on with it."""
NULL = {"type": "null"}


class _Untitled(GenerateJsonSchema):
    """Without titles of fields, which would be the keys again."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        """Never."""
        return False


def schema_of(model: Any) -> dict[str, Any]:
    """Schema of a pydantic dataclass and of those within it; their docstrings say what they and their fields mean.

    A field whose default is None is left out of a file, where null is refused.
    """
    schema = TypeAdapter(model).json_schema(schema_generator=_Untitled)
    _describe(schema, schema.get("$defs", {}), model)
    return schema


def _describe(schema: dict[str, Any], definitions: dict[str, Any], model: Any) -> None:
    text = inspect.getdoc(model) or ""
    meanings = {name: " ".join(words.split()).replace("``", "") for name, words in ATTRIBUTE.findall(text)}
    schema["description"] = text.partition("\n")[0]
    for name, field in model.__pydantic_fields__.items():
        key = field.validation_alias or name
        schema["properties"][key] = {**_given(schema["properties"][key]), "description": meanings[name]}
        if hasattr(field.annotation, "__pydantic_fields__"):
            _describe(definitions[field.annotation.__name__], definitions, field.annotation)


def _given(field: dict[str, Any]) -> dict[str, Any]:
    """What a key may be where it is given."""
    kept = [shape for shape in field.get("anyOf", ()) if shape != NULL]
    if len(kept) == len(field.get("anyOf", ())):
        return field
    return kept[0] if len(kept) == 1 else {"anyOf": kept}
