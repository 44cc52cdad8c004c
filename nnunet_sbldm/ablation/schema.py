"""Keys and values of a study's YAML file: what each must be, and what is said if it is not."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nnunet_sbldm.ablation.arms import ARM_KINDS
from nnunet_sbldm.ablation.study import NETWORKS, TEST_FOLDER
from nnunet_sbldm.generator.presets import PRESETS, known_preset
from nnunet_sbldm.ldm.config import DiffusionConfig
from nnunet_sbldm.mixing.schedule import SCHEDULES
from nnunet_sbldm.mixing.settings import CPU_PRECISIONS, MAX_WAIT_S
from nnunet_sbldm.types import UserError

EDIT_KINDS = ("replace", "add", "remove")
DEVICES = ("cpu", "cuda", "mps")

Parser = Callable[[Any], Any]
Fields = Mapping[str, tuple[Parser, str]]


def refuse_unknown(word: Any, valid: Sequence[str], what: str) -> None:
    """Raise a :class:`UserError` with the nearest valid word if ``word`` is none of ``valid``."""
    if word not in valid:
        near = difflib.get_close_matches(str(word), valid, n=1, cutoff=0)[0]
        raise UserError(f"{what} {word!r} is unknown, did you mean {near!r}? Valid are {', '.join(valid)}.")


def parsed(value: Any, known: Fields, where: str) -> dict[str, Any]:
    """The fields of a mapping, each read by its parser.

    Raises:
        UserError: no mapping, unknown key, or a value that its parser refuses.
    """
    if not isinstance(value, Mapping):
        raise UserError(f"{where} holds keys and values such as {next(iter(known))}: ...; got {value!r}.")
    for key in value:
        refuse_unknown(key, list(known), f"{where}: the key")
    return {key: _read(*known[key], v, f"{where}: {key}") for key, v in value.items()}


def _read(parse: Parser, expected: str, value: Any, where: str) -> Any:
    try:
        return parse(value)
    except (ValueError, TypeError):
        raise UserError(f"{where} must be {expected}; got {value!r}.") from None


def _number(low: float, high: float = float("inf")) -> Parser:
    def parse(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high or math.isinf(value):
            raise ValueError
        return float(value)

    return parse


def _whole(low: int, high: float = math.inf) -> Parser:
    def parse(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError
        return value

    return parse


def _one_of(*valid: str) -> Parser:
    def parse(value: Any) -> str:
        if value not in valid:
            raise ValueError
        return str(value)

    return parse


def _device(value: Any) -> str:
    kind, _, number = _text(value).partition(":")
    if kind not in DEVICES or (number and not number.isdecimal()) or value.endswith(":"):
        raise ValueError
    return _text(value)


def _preset(value: Any) -> str:
    return known_preset(_text(value))


def _text(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | str) or not str(value).strip():
        raise ValueError
    return str(value)


def _dataset(value: Any) -> str:
    """A name, or a number without leading zeros."""
    text = _text(value)
    return str(int(text)) if text.isdecimal() else text


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError
    return value


def _several(parse: Parser) -> Parser:
    def parse_all(value: Any) -> tuple[Any, ...]:
        values = tuple(parse(v) for v in (value if isinstance(value, list) else [value]))
        if not values or len(set(values)) != len(values):
            raise ValueError
        return values

    return parse_all


def _volume_range(value: Any) -> tuple[float, float]:
    if not isinstance(value, list) or len(value) != 2:
        raise ValueError
    low, high = (_number(0.0)(v) for v in value)
    if not 0 < low <= high:
        raise ValueError
    return low, high


def _numbers_list(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or len(value) != 3:
        raise ValueError
    return tuple(_whole(1)(v) for v in value)


def _options(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ValueError
    return tuple(_text(v) for v in value)


def _arms(value: Any) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise ValueError
    return value


def _test_cases(value: Any) -> int | str | tuple[str, ...]:
    if value == TEST_FOLDER:
        return TEST_FOLDER
    return _several(_text)(value) if isinstance(value, list) else _whole(1)(value)


_COUNT = (_whole(1), "a whole number from 1")
_YES_NO = (_flag, "true or false")

_PRESET = (_preset, f"one of {', '.join(PRESETS)}, or such a name with a length, as small_x2")
_EDIT_KINDS = (_several(_one_of(*EDIT_KINDS)), f"a list of {', '.join(EDIT_KINDS)}")
TRAINING_FIELDS: Fields = {
    "num_epochs": _COUNT,
    "num_iterations_per_epoch": _COUNT,
    "num_val_iterations_per_epoch": _COUNT,
    "network": (_one_of(*NETWORKS), f"one of {', '.join(NETWORKS)}"),
    "patch_size": (_numbers_list, "three whole numbers from 1"),
    "batch_size": (_whole(2), "a whole number from 2"),
    "test_time_augmentation": _YES_NO,
    "cpu_precision": (_one_of(*CPU_PRECISIONS), " or ".join(CPU_PRECISIONS)),
}
GENERATOR_FIELDS: Fields = {
    "preset": _PRESET,
    "cases_per_real": (_number(0.01), "a number above 0"),
    "steps": (_whole(1, DiffusionConfig.num_train_timesteps), f"a whole number from 1 to {DiffusionConfig.num_train_timesteps}"),
    "guidance": (_number(0), "a number from 0"),
    "edit_kinds": _EDIT_KINDS,
    "gate": _YES_NO,
}
EVALUATION_FIELDS: Fields = {
    "surface_distances": _YES_NO,
    "tolerance_mm": (_number(0), "a number from 0"),
    "num_resamples": (_whole(100), "a whole number from 100"),
    "confidence": (_number(0.5, 0.999), "a number from 0.5 to 0.999"),
}
RUN_FIELDS: Fields = {
    "device": (_one_of(*DEVICES), f"one of {', '.join(DEVICES)}"),
    "parallel_jobs": _COUNT,
    "background_workers": (_whole(0), "a whole number from 0"),
    "processes": _COUNT,
    "generator_device": (_device, "a device such as cuda:1"),
    "keep_checkpoints": _YES_NO,
    "slurm_options": (_options, "a list of options"),
    "slurm_gpu_options": (_options, "a list of options"),
}
ARM_FIELDS: Fields = {
    "name": (_text, "a name"),
    "ratio": (_several(_number(0, 1)), "a number from 0 to 1, or a list of such"),
    "schedule": (_one_of(*SCHEDULES), f"one of {', '.join(SCHEDULES)}"),
    "preset": _PRESET,
    "size_range": (_volume_range, "a list of two volumes in ml, LOW and HIGH, with 0 < LOW <= HIGH"),
    "edit_kinds": _EDIT_KINDS,
    "generator_cases": _COUNT,
    "num_cases": _COUNT,
    "wait_s": (_number(0, MAX_WAIT_S), f"a number of seconds from 0 to {MAX_WAIT_S}"),
}


def _section(known: Fields) -> tuple[Parser, str]:
    def as_mapping(value: Any) -> Mapping[str, Any]:
        if not isinstance(value, Mapping):
            raise ValueError
        return value

    return as_mapping, f"keys and values such as {next(iter(known))}: ..."


STUDY_FIELDS: Fields = {
    "dataset": (_dataset, "the number or name of a dataset in nnUNet_raw, or phantom"),
    "num_cases": (_several(_whole(2)), "a whole number from 2, or a list of different ones"),
    "arms": (_arms, f"a list of arms ({', '.join(ARM_KINDS)})"),
    "test_cases": (_test_cases, f"a whole number from 1, a list of case ids, or {TEST_FOLDER}"),
    "folds": (_several(_whole(0)), "a whole number from 0, or a list of different ones"),
    "seeds": (_several(_whole(0)), "a whole number from 0, or a list of different ones"),
    "split_seed": (_whole(0), "a whole number from 0"),
    "groups": (_text, "a JSON file, case id to patient"),
    "num_phantom_cases": _COUNT,
    "training": _section(TRAINING_FIELDS),
    "generator": _section(GENERATOR_FIELDS),
    "evaluation": _section(EVALUATION_FIELDS),
    "run": _section(RUN_FIELDS),
}
