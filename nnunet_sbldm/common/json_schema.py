"""JSON Schema of what users write in files, for editors that check and complete it."""

from __future__ import annotations

import re
from typing import Any

DIALECT = "https://json-schema.org/draft/2020-12/schema"
ATTRIBUTE = re.compile(r"^ {8}(\w+): (.+(?:\n {12}.+)*)", re.MULTILINE)
"""An entry of a docstring's list of attributes, with the lines that go on with it."""


def schema_of(model: Any) -> dict[str, Any]:
    """Schema of one pydantic dataclass; the docstring says what it and its fields mean."""
    from pydantic import TypeAdapter

    schema = TypeAdapter(model).json_schema()
    schema["description"] = (model.__doc__ or "").partition("\n")[0]
    for name, words in ATTRIBUTE.findall(model.__doc__ or ""):
        schema["properties"][name]["description"] = " ".join(words.split()).replace("``", "")
    return schema
