"""Reading a study's YAML file; the whole file is checked before anything is made."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from nnunet_sbldm.ablation.arm_entries import read_arms
from nnunet_sbldm.ablation.study import Study
from nnunet_sbldm.common.validation import checked, refuse_null
from nnunet_sbldm.types import UserError

INTEGER = "tag:yaml.org,2002:int"


def read_study(path: Path) -> Study:
    """Read and check a study.

    Args:
        path: the YAML file; a relative ``groups`` is relative to its folder.

    Raises:
        UserError: unreadable, unknown key or arm (with the nearest valid one), a bad value, two arms of one name, no
            ``real_only``.
    """
    content, where = _load(path), path.name
    given = isinstance(content, Mapping) and "arms" in content
    study = checked(Study, {**content, "arms": ()} if given else content, where)
    for name, section in content.items():
        if isinstance(section, Mapping):
            refuse_null(section, f"{where}, {name}")
    refuse_null(content, where)
    return replace(study, arms=read_arms(content["arms"], where), groups=_beside(path, study.groups))


def _load(path: Path) -> Any:
    import yaml

    if not path.is_file():
        raise UserError(f"The study {path} is not a file.")
    try:
        text = path.read_text(encoding="utf-8")
        twice = _repeated_key(yaml.compose(text, yaml.SafeLoader))
        if twice:
            raise UserError(f"{path.name}, line {twice.start_mark.line + 1}: the key {twice.value!r} stands there twice.")
        return yaml.load(text, _loader())
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(e).split())}.") from None
    except RecursionError:
        raise UserError(f"{path} is nested too deeply, or holds itself.") from None


def _loader() -> Any:
    """PyYAML's safe loader, with plain decimal numbers alone: to it ``010`` is 8, ``12_05`` is 1205, ``2020-01-01`` a date."""
    import yaml

    class Loader(yaml.SafeLoader):
        yaml_implicit_resolvers = {
            first: [(tag, pattern) for tag, pattern in resolvers if tag not in (INTEGER, "tag:yaml.org,2002:timestamp")]
            for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
        }

    Loader.add_implicit_resolver(INTEGER, re.compile(r"[-+]?(?:0|[1-9][0-9]*)$"), list("-+0123456789"))
    return Loader


def _repeated_key(node: Any) -> Any:
    """The first key of a YAML tree that its mapping already has, of which YAML would silently take the last; else None."""
    kind = getattr(node, "id", "")
    pairs = node.value if kind == "mapping" else []
    keys = [key.value for key, _ in pairs]
    found = [key for i, (key, _) in enumerate(pairs) if key.value in keys[:i]]
    children = node.value if kind == "sequence" else [value for _, value in pairs]
    return next((key for key in (*found, *map(_repeated_key, children)) if key is not None), None)


def _beside(path: Path, file: str | None) -> str | None:
    return None if file is None else str((path.parent / file).absolute())
