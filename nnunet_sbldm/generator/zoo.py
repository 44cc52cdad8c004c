"""Models by name: those installed with the package, those that were imported, and any folder that holds one.

Every ``-m`` goes through :func:`find_model`. Nothing here loads a network.
"""

from __future__ import annotations

import difflib
import glob
import os
import re
from collections.abc import Sequence
from pathlib import Path

from nnunet_sbldm.types import UserError

BUNDLED = Path(__file__).parents[1] / "models"
"""Models that are installed with the package, one folder each."""
IMPORTED = "SBLDM_models"
"""Folder below ``nnUNet_results`` for models that were imported."""
WEIGHTS = ("autoencoder.safetensors", "denoiser.safetensors")
MANIFEST = "MANIFEST"
"""Sizes and hashes of the files of a shared model; a model that has it is left as it came."""


def is_complete(folder: Path) -> bool:
    """Whether the folder holds a finished generator."""
    return (folder / "generator.json").is_file()


def is_shared(folder: Path) -> bool:
    """Whether the model came with the package or was imported."""
    return (folder / MANIFEST).is_file()


def known_models() -> dict[str, Path]:
    """Name -> folder of every model that has a name: the bundled ones, then the imported ones."""
    homes = [BUNDLED, *(results / IMPORTED for results in _results())]
    folders = [f for home in reversed(homes) for f in sorted(home.glob("*")) if is_complete(f)]
    found = {f.name: f for f in folders}
    return dict(sorted(found.items(), key=lambda item: (item[1].parent != BUNDLED, item[0])))


def _results() -> list[Path]:
    """nnU-Net's folder of results, if it is set."""
    return [Path(value)] if (value := os.environ.get("nnUNet_results")) else []


def find_model(model: str | Path, fold: int | str | None = None, near: Sequence[Path] = ()) -> Path:
    """Folder of the finished generator that ``model`` names.

    Args:
        model: its folder, or one with a single ``fold_*`` in it; the name of a bundled or imported model; or a path below
            ``nnUNet_results``.
        fold: fold that is preferred where a folder has several.
        near: further folders that ``model`` may stand for.

    Raises:
        UserError: there is none, or several.
    """
    named = [folder for name, folder in known_models().items() if name == str(model)]
    for place in (Path(model).expanduser(), *near, *named, *(r / model for r in _results())):
        found = _generator_in(place, fold)
        if found:
            return found.resolve()
    if Path(model).expanduser().is_dir():
        raise UserError(f"There is no finished SBLDM in {model}; train one with sbldm_train.")
    raise UserError(f"There is no SBLDM {model}: a model is given by its folder, or by a name {_choices(str(model))}.")


def _generator_in(place: Path, fold: int | str | None) -> Path | None:
    for folder in (place, place / f"fold_{fold}"):
        if is_complete(folder):
            return folder
    folds = sorted(f for f in place.glob("fold_*") if is_complete(f))
    if len(folds) > 1:
        raise UserError(f"{place} holds {len(folds)} SBLDMs ({', '.join(f.name for f in folds)}): name the folder of one.")
    return folds[0] if folds else None


def _choices(model: str) -> str:
    names = list(known_models())
    if not names:
        return "(none is bundled or imported)"
    near = difflib.get_close_matches(model, names, 1)
    return f"among {', '.join(names)}{f' (nearest: {near[0]})' if near else ''}"


def places_of(home: Path, plans_name: str, model: str | Path) -> list[Path]:
    """Where a dataset's folder in ``nnUNet_results`` may hold a model; a preset's name stands for its folder."""
    return [home / model, home / folder_name(plans_name, str(model))]


def finished_models(home: Path, plans_name: str, fold: int | str) -> list[Path]:
    """Folders of the finished models of a fold in a dataset's folder in ``nnUNet_results``, of every preset and length."""
    pattern = f"{folder_name(glob.escape(plans_name), '*')}/fold_{fold}"
    return [folder for folder in sorted(home.glob(pattern)) if is_complete(folder)]


def folder_name(plans_name: str, preset: str) -> str:
    """Folder of the models of a preset, beside nnU-Net's own in a dataset's folder in ``nnUNet_results``."""
    return f"SBLDM__{plans_name}__{preset}"


def name_of(folder: Path) -> str:
    """A short name for a model: that of its folder, or of the dataset and fold that it was trained on."""
    folder = folder.resolve()
    name, home = folder.name, folder.parent
    if name.startswith("fold_"):
        name = f"{home.parent.name or home.name}_f{name.removeprefix('fold_')}"
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name)
