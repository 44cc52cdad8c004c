"""nnU-Net's dialect: its folders and their variables, dataset numbers and names, folds."""

from __future__ import annotations

import os
import re
from pathlib import Path

from nnunet_sbldm.types import UserError

FOLDERS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
DEFAULT_PLANS = "nnUNetPlans"
DEFAULT_CONFIGURATION = "3d_fullres"
Fold = int | str
"""A fold number, or ``"all"``."""


def nnunet_folder(variable: str) -> Path:
    """The folder an nnU-Net environment variable names; it must be set and exist."""
    value = os.environ.get(variable)
    if not value:
        raise UserError(
            f"The environment variable {variable} is not set: export {', '.join(FOLDERS)} as for nnU-Net "
            "(see its documentation/setting_up_paths.md)."
        )
    if not Path(value).is_dir():
        raise UserError(f"{variable} points to {value}, which is not a folder.")
    return Path(value)


def number_of(name: str) -> int:
    """The number of a dataset by its full name, all digits of it: 1234 of ``Dataset1234_Name``.

    Raises:
        UserError: the name does not begin with ``Dataset`` and a number.
    """
    found = re.match(r"Dataset(\d+)", name)
    if found is None:
        raise UserError(f"A dataset is named DatasetXXX_Name, XXX its number; got {name!r}.")
    return int(found[1])


def names_with(number: int, folder: Path) -> list[str]:
    """Sorted names of the datasets in a folder that have this number, whether or not a title follows it."""
    pattern = re.compile(rf"Dataset0*{number}(?!\d).*")
    return sorted(p.name for p in folder.iterdir() if pattern.fullmatch(p.name))


def title_of(name: str) -> str:
    """What a dataset is called after its number: ``Name`` of ``Dataset123_Name``; empty for ``Dataset123``."""
    return name.partition("_")[2]


def parse_fold(text: str) -> Fold:
    """``"all"`` or a non-negative integer, as in nnU-Net."""
    if text == "all":
        return text
    if not text.isdigit():
        raise UserError(f"A fold is a number from 0, or all; got {text!r}.")
    return int(text)


def dataset_name(dataset_id: str) -> str:
    """Full name of a dataset given by number or by name."""
    for variable in FOLDERS:
        nnunet_folder(variable)
    if dataset_id.startswith("Dataset"):
        return dataset_id
    if not dataset_id.isdigit():
        raise UserError(f"A dataset is given by its number or as DatasetXXX_Name; got {dataset_id!r}.")
    from nnunetv2.utilities.dataset_name_id_conversion import find_candidate_datasets

    names = list(find_candidate_datasets(int(dataset_id)))
    if len(names) != 1:
        found = f"several: {', '.join(names)}" if names else "none"
        raise UserError(
            f"Expected one dataset with the id {dataset_id} in nnUNet_raw ({nnunet_folder('nnUNet_raw')}), "
            f"nnUNet_preprocessed and nnUNet_results; found {found}."
        )
    return str(names[0])


def planning_command(name: str, plans_name: str = DEFAULT_PLANS, configuration: str | None = None) -> str:
    """nnU-Net's command that makes plans of that name and preprocesses; planners of residual encoders have names of their own."""
    residual = re.fullmatch(r"nnUNetResEncUNet(M|L|XL)Plans", plans_name)
    words = ["nnUNetv2_plan_and_preprocess", "-d", str(number_of(name)), *(["-c", configuration] if configuration else [])]
    if residual:
        words += ["-pl", f"nnUNetPlannerResEnc{residual[1]}"]
    elif plans_name != DEFAULT_PLANS:
        words += ["-overwrite_plans_name", plans_name]
    return " ".join(words)


def preprocessing_command(name: str, plans_name: str, configuration: str) -> str:
    """nnU-Net's command that preprocesses a planned dataset for a configuration."""
    return f"nnUNetv2_preprocess -d {number_of(name)} -plans_name {plans_name} -c {configuration}"


def undo_command(name: str) -> str:
    """The command that takes the in-place expansion of a dataset back."""
    return f"sbldm_expand_dataset -d {number_of(name)} --undo"
