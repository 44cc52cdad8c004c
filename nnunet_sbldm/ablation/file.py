"""Reading a study's YAML file; the whole file is checked before anything is made."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from nnunet_sbldm.ablation.arms import ARM_KINDS, REFERENCE, Arm, pool_words
from nnunet_sbldm.ablation.schema import (
    ARM_FIELDS,
    EVALUATION_FIELDS,
    GENERATOR_FIELDS,
    RUN_FIELDS,
    STUDY_FIELDS,
    TRAINING_FIELDS,
    parsed,
    refuse_unknown,
)
from nnunet_sbldm.ablation.study import (
    BASE_CONFIGURATION,
    EvaluationSettings,
    GeneratorSettings,
    RunSettings,
    Study,
    TrainingSettings,
)
from nnunet_sbldm.types import UserError

REQUIRED = ("dataset", "num_cases", "arms", "test_cases")
MAX_NAME = 100
INTEGER = "tag:yaml.org,2002:int"
NNUNET_NAMES = ("2d", "3d_fullres", "3d_lowres", "3d_cascade_fullres")
NAME_PATTERN = re.compile(r"[A-Za-z0-9]+(?:[_.-][A-Za-z0-9]+)*")


def read_study(path: Path) -> Study:
    """Read and check a study.

    Args:
        path: the YAML file; a relative ``groups`` is relative to its folder.

    Raises:
        UserError: unreadable, unknown key or arm (with the nearest valid one), a bad value, two arms of one name, no
            ``real_only``.
    """
    where = path.name
    given = parsed(_load(path), STUDY_FIELDS, where)
    missing = [key for key in REQUIRED if key not in given]
    if missing:
        raise UserError(f"{where}: {', '.join(missing)} must be given.")
    arms = [arm for entry in given.pop("arms") for arm in _read_arm(entry, where)]
    _refuse_bad_arms(arms, where)
    sections: dict[str, Any] = {
        "training": TrainingSettings(**parsed(given.pop("training", {}), TRAINING_FIELDS, f"{where}, training")),
        "generator": GeneratorSettings(**parsed(given.pop("generator", {}), GENERATOR_FIELDS, f"{where}, generator")),
        "evaluation": EvaluationSettings(**parsed(given.pop("evaluation", {}), EVALUATION_FIELDS, f"{where}, evaluation")),
        "run": RunSettings(**parsed(given.pop("run", {}), RUN_FIELDS, f"{where}, run")),
    }
    study = Study(**given, arms=tuple(arms), **sections)
    return replace(study, groups=_beside(path, study.groups))


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


# --- arms ----------------------------------------------------------------------------------------------------------


def _read_arm(entry: Any, where: str) -> list[Arm]:
    """The arms of one entry: ``real_only``, or ``{sbldm: {ratio: [0.25, 0.5]}}``, which are two."""
    if isinstance(entry, Mapping) and len(entry) == 1:
        ((kind, options),) = entry.items()
    elif isinstance(entry, str):
        kind, options = entry, None
    else:
        raise UserError(f"{where}: an arm is a name such as {REFERENCE}, or a name with keys such as sbldm: {{ratio: 0.5}}; "
                        f"got {entry!r}.")
    refuse_unknown(kind, list(ARM_KINDS), f"{where}: the arm")
    what = ARM_KINDS[kind]
    given = _arm_options(kind, options or {}, where)
    ratios = given.pop("ratio", (what.ratio or 0.0,))
    if "name" in given and len(ratios) > 1:
        raise UserError(f"{where}: the arm {kind} has several ratios and one name {given['name']!r}; leave the name out.")
    if kind == "pretrain":
        given["schedule"] = "pretrain"
    if kind == "oracle" and "num_cases" not in given:
        raise UserError(f"{where}: the arm oracle needs num_cases, its number of real training cases.")
    return [Arm(kind, **{"name": _default_name(kind, ratio, given), **given, "ratio": ratio}) for ratio in ratios]


def _arm_options(kind: str, options: Any, where: str) -> dict[str, Any]:
    allowed = {key: ARM_FIELDS[key] for key in ARM_KINDS[kind].options}
    if not allowed and options:
        raise UserError(f"{where}: the arm {kind} has no keys; got {options!r}.")
    return parsed(options, allowed, f"{where}, arm {kind}") if allowed else {}


def _default_name(kind: str, ratio: float, given: Mapping[str, Any]) -> str:
    """The kind, with the ratio in percent where it can be chosen, and with schedule, preset, volumes and edits where they are."""
    parts = [kind]
    if "ratio" in ARM_KINDS[kind].options:
        parts.append(f"{100 * ratio:.6g}".replace(".", "p"))
    chosen = [given[k] for k in ("schedule", "preset") if k in given and given[k] not in ("constant", kind)]
    return "_".join([*parts, *chosen, *pool_words(*map(given.get, ("size_range", "edit_kinds", "generator_cases")))])


def _refuse_bad_arms(arms: list[Arm], where: str) -> None:
    names = [arm.name for arm in arms]
    twice = [name for i, name in enumerate(names) if name in names[:i]]
    if twice:
        raise UserError(f"{where}: two arms are called {twice[0]}; give one of them another name.")
    for name in names:
        if "__" in name or len(name) > MAX_NAME or not NAME_PATTERN.fullmatch(name):
            raise UserError(f"{where}: the name of an arm is part of file names: letters, digits, and single dots, hyphens and "
                            f"underscores between them, {MAX_NAME} at most; got {name!r}.")
        if name in (*NNUNET_NAMES, BASE_CONFIGURATION):
            raise UserError(f"{where}: an arm cannot be called {name}, which is a configuration in nnU-Net's plans.")
    if not any(arm.kind == REFERENCE for arm in arms):
        raise UserError(f"{where}: the arm {REFERENCE} is missing; all others are compared with it.")
    idle = [arm.name for arm in arms if arm.kind != REFERENCE and arm.what.ratio is not None and arm.ratio == 0]
    if idle:
        raise UserError(f"{where}: the arm {idle[0]} has ratio 0, which is {REFERENCE}; leave it out.")
