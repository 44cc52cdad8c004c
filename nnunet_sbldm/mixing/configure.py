"""Settings of our trainer as a configuration of the plans, so that stock nnU-Net keeps, shows and compares them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_sbldm.common.files import read_json, write_atomically
from nnunet_sbldm.data.paths import DEFAULT_CONFIGURATION, DEFAULT_PLANS, dataset_name, nnunet_folder, planning_command
from nnunet_sbldm.mixing.settings import SETTINGS_KEY, MixingSettings
from nnunet_sbldm.types import UserError

NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def add_configuration(
    dataset_id: str, plans_name: str = DEFAULT_PLANS, base_configuration: str = DEFAULT_CONFIGURATION,
    settings: MixingSettings | None = None, name: str | None = None,
) -> str:
    """Add a configuration that differs from ``base_configuration`` in its mixing settings alone.

    It shares the preprocessed data of ``base_configuration`` and gets its own results folder. A second, equal call
    changes nothing.

    Args:
        dataset_id: number or full name of a planned dataset.
        plans_name: plans identifier.
        base_configuration: configuration to inherit from.
        settings: the mixing settings; the defaults if left out.
        name: name of the new configuration; by default :func:`default_name`.

    Returns:
        The name of the configuration.

    Raises:
        UserError: no such plans or configuration, second stage of a cascade, unusable name, or the name is taken by other
            settings.
    """
    settings = settings or MixingSettings()
    name = name or default_name(base_configuration, settings)
    dataset = dataset_name(dataset_id)
    path = nnunet_folder("nnUNet_preprocessed") / dataset / f"{plans_name}.json"
    if not path.is_file():
        raise UserError(f"{dataset} has no plans {plans_name}: run {planning_command(dataset, plans_name)}.")
    plans = read_json(path)
    _check(name, base_configuration, PlansManager(plans))
    wanted = {"inherits_from": base_configuration, SETTINGS_KEY: settings.to_block()}
    existing = plans["configurations"].setdefault(name, wanted)
    if existing != wanted:
        raise UserError(f"The plans {plans_name} of {dataset} already have another configuration {name}: {json.dumps(existing)}; "
                        "choose a new name with -name.")
    _write_plans(path, plans)
    return name


def default_name(base_configuration: str, settings: MixingSettings) -> str:
    """The base name with the ratio in percent, and with schedule, source, mode and precision where these are chosen.

    ``3d_fullres_sbldm50`` for a ratio of 0.5, ``3d_fullres_sbldm12p5_ramp_down`` for 0.125 and ``ramp_down``.
    """
    percent = f"{100 * settings.ratio:.6g}".replace(".", "p")
    defaults, names = MixingSettings(), ("schedule", "source", "mode", "cpu_precision")
    chosen = [getattr(settings, n) for n in names if getattr(settings, n) != getattr(defaults, n)]
    return "_".join([f"{base_configuration}_sbldm{percent}", *chosen])


def _check(name: str, base_configuration: str, plans: PlansManager) -> None:
    if base_configuration not in plans.available_configurations:
        raise UserError(f"The plans have no configuration {base_configuration}; "
                        f"they have {', '.join(plans.available_configurations)}.")
    if plans.get_configuration(base_configuration).previous_stage_name is not None:
        raise UserError(f"{base_configuration} is the second stage of a cascade, for which synthetic cases have no predictions "
                        "of the first stage; choose another configuration.")
    if "__" in name or not NAME_PATTERN.fullmatch(name):
        raise UserError("A configuration's name is part of a folder name: letters, digits, dots, hyphens and single underscores; "
                        f"got {name!r}.")


def _write_plans(path: Path, plans: dict[str, Any]) -> None:
    """As nnU-Net writes them, so that all else stays as it is, byte for byte."""
    text = json.dumps(plans, indent=4)
    if path.read_text(encoding="utf-8") != text:
        write_atomically(path, lambda tmp: tmp.write_text(text, encoding="utf-8"))
