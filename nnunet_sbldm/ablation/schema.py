"""JSON Schema of a study's file, for editors that check and complete YAML.

``python -m nnunet_sbldm.ablation.schema`` prints it; docs/reference/study.schema.json is what it printed.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from nnunet_sbldm.ablation.arms import ARM_KINDS, Arm, ArmKind
from nnunet_sbldm.ablation.settings import EvaluationSettings, GeneratorSettings, RunSettings, TrainingSettings
from nnunet_sbldm.ablation.study import Study

SECTIONS = (TrainingSettings, GeneratorSettings, EvaluationSettings, RunSettings)
ATTRIBUTE = re.compile(r"^ {4}(\w+): (.+(?:\n {8}.+)*)", re.MULTILINE)
"""An entry of a docstring's list of attributes, with the lines that go on with it."""


class _Untitled(GenerateJsonSchema):
    """Without titles, which would be the keys again."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        """Never."""
        return False


def study_schema() -> dict[str, Any]:
    """The schema, with the meaning of every key from the docstrings of the settings."""
    schema = TypeAdapter(Study).json_schema(schema_generator=_Untitled)
    arm = schema["$defs"].pop("Arm")
    _describe(schema, Study)
    _describe(arm, Arm)
    for section in SECTIONS:
        _describe(schema["$defs"][section.__name__], section)
    schema["properties"]["arms"] |= {"items": {"anyOf": _entries(arm["properties"])}, "minItems": 1}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _describe(schema: dict[str, Any], model: type) -> None:
    """Add the meaning of every key; the first line of the docstring is that of the whole."""
    text = inspect.getdoc(model) or ""
    meanings = {name: " ".join(words.split()).replace("``", "") for name, words in ATTRIBUTE.findall(text)}
    schema["description"] = text.partition("\n")[0]
    for name, field in model.__pydantic_fields__.items():  # type: ignore[attr-defined]
        key = field.validation_alias or name
        schema["properties"][key] = {**_given(schema["properties"][key]), "description": meanings[name]}


def _given(field: dict[str, Any]) -> dict[str, Any]:
    """What a key may be where it is given: None is for Python, a file leaves the key out."""
    kept = [shape for shape in field.get("anyOf", ()) if shape != {"type": "null"}]
    if len(kept) == len(field.get("anyOf", ())):
        return field
    return kept[0] if len(kept) == 1 else {"anyOf": kept}


def _entries(fields: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What may stand in the list of arms: a name, or a name with keys."""
    alone = [kind.name for kind in ARM_KINDS.values() if not kind.required]
    keyed = {kind.name: _keys(kind, fields) for kind in ARM_KINDS.values() if kind.options}
    return [{"enum": alone},
            {"type": "object", "properties": keyed, "additionalProperties": False, "minProperties": 1, "maxProperties": 1}]


def _keys(kind: ArmKind, fields: Mapping[str, Any]) -> dict[str, Any]:
    own = {key: {k: v for k, v in fields[key].items() if k != "default"} for key in kind.options}
    if "ratio" in own:
        number = {k: v for k, v in own["ratio"].items() if k != "description"}
        several = {"type": "array", "items": number, "minItems": 1, "uniqueItems": True}
        own["ratio"] = {"anyOf": [number, several], "description": own["ratio"]["description"], "default": kind.ratio}
    shape = {"type": "object" if kind.required else ["object", "null"], "description": kind.title, "properties": own}
    return {**shape, "additionalProperties": False, **({"required": list(kind.required)} if kind.required else {})}


if __name__ == "__main__":
    print(json.dumps(study_schema(), indent=1))
