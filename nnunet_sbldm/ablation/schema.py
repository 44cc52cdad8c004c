"""JSON Schema of a study's file, for editors that check and complete YAML.

``python -m nnunet_sbldm.ablation.schema`` prints it; docs/reference/study.schema.json is what it printed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from nnunet_sbldm.ablation.arms import ARM_KINDS, Arm, ArmKind
from nnunet_sbldm.ablation.study import Study
from nnunet_sbldm.common.json_schema import DIALECT, schema_of


def study_schema() -> dict[str, Any]:
    """The schema, with the meaning of every key from the docstrings of the settings."""
    schema, arm = schema_of(Study), schema_of(Arm)
    del schema["$defs"]["Arm"]
    schema["properties"]["arms"] |= {"items": {"anyOf": _entries(arm["properties"])}, "minItems": 1}
    return {"$schema": DIALECT, **schema}


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
