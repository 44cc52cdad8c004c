"""Generators as single files: written so that nothing but the model is in them, read so that nothing but a model gets in.

A file is a zip of a few known members and a manifest of their sizes and hashes. Nothing in it is pickled, and nothing of it
reaches its place before everything is checked.
"""

from __future__ import annotations

import errno
import hashlib
import math
import os
import re
import shutil
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from nnunet_sbldm.common.files import (
    from_json,
    link_or_copy,
    read_json,
    remove_leftovers,
    sha256_of_file,
    temporary_folder,
    write_atomically,
    write_json,
)
from nnunet_sbldm.data.paths import nnunet_folder
from nnunet_sbldm.generator.card import CARD, README, ModelCard, num_parameters, read_card, write_card
from nnunet_sbldm.generator.checkpoint import SBLDMModel, build_autoencoder, build_denoiser, load_model
from nnunet_sbldm.generator.plan import GeneratorPlan
from nnunet_sbldm.generator.zoo import IMPORTED, MANIFEST, WEIGHTS, is_shared, known_models
from nnunet_sbldm.types import UserError

FORMAT_VERSION = 1
MEMBERS = {
    **dict.fromkeys(WEIGHTS, 2**30),
    **dict.fromkeys(("generator.json", "training_cases.json"), 2**25),
    **dict.fromkeys(("dataset.json", CARD, README, MANIFEST), 2**20),
}
"""Members of a shared model, and the most bytes that each may have."""
DATASET_KEYS = ("channel_names", "modality", "labels", "regions_class_order", "file_ending")
"""What is shared of dataset.json; it may also list cases."""
MAX_GRID_VOXELS = 2**29
TIMESTAMP = (1980, 1, 1, 0, 0, 0)
CHUNK = 2**20
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


# --- writing -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sharing:
    """How a model is shared.

    Attributes:
        statements: fields of the card that are said anew: ``title``, ``data``, ``licence``.
        half: round the weights to fp16.
        plain_ids: list the training cases as they are, readable.
    """

    statements: Mapping[str, str]
    half: bool = False
    plain_ids: bool = False


def export_model(model: SBLDMModel, file: Path, sharing: Sharing) -> None:
    """Write a generator into a zip; the same generator and settings give the same bytes.

    Raises:
        UserError: weights that do not fit into fp16.
    """
    with temporary_folder(file.parent) as work:
        for name in WEIGHTS:
            if sharing.half:
                _write_half(model.folder / name, work / name)
            else:
                link_or_copy(model.folder / name, work / name)
        shutil.copyfile(model.folder / "generator.json", work / "generator.json")
        salt = "" if sharing.plain_ids else _salt_of(model)
        seen = [c.salted(salt) if salt else c for c in model.seen]
        write_json(work / "training_cases.json", [c.to_json() for c in seen])
        dataset_json = read_json(model.folder / "dataset.json")
        write_json(work / "dataset.json", {k: dataset_json[k] for k in DATASET_KEYS if k in dataset_json})
        said = {**asdict(read_card(model.folder)), **sharing.statements}
        write_card(work, from_json(ModelCard, {**said, "is_salted": any(c.salt for c in seen), "is_exported": True}))
        write_json(work / MANIFEST, _manifest(work))
        write_atomically(file, lambda tmp: _write_zip(tmp, work))


def _salt_of(model: SBLDMModel) -> str:
    """A salt of the model's own, the same at every export, so that the same model is the same file."""
    return hashlib.sha256(f"training cases of {model.hash}".encode()).hexdigest()[:32]


def _write_half(source: Path, target: Path) -> None:
    tensors = {k: v.half() if v.is_floating_point() else v for k, v in load_file(source).items()}
    if not all(v.isfinite().all() for v in tensors.values()):
        raise UserError(f"Weights in {source} are too large for fp16; export without --fp16.")
    save_file(tensors, target)


def _manifest(folder: Path) -> dict[str, Any]:
    names = [n for n in MEMBERS if n != MANIFEST]
    files = {n: {"sha256": sha256_of_file(folder / n), "bytes": (folder / n).stat().st_size} for n in names}
    return {"format": FORMAT_VERSION, "files": files}


def _write_zip(target: Path, folder: Path) -> None:
    with zipfile.ZipFile(target, "w") as archive:
        for name in MEMBERS:
            info = zipfile.ZipInfo(name, TIMESTAMP)
            info.compress_type, info.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            with open(folder / name, "rb") as source, archive.open(info, "w") as member:
                shutil.copyfileobj(source, member, CHUNK)


# --- reading -------------------------------------------------------------------------------------------------------


def import_model(file: Path, name: str | None = None) -> tuple[Path, bool]:
    """Check a shared model and put it among the known ones.

    Args:
        file: what :func:`export_model` wrote.
        name: its name from now on; by default that of the file.

    Returns:
        Its folder, ``nnUNet_results/SBLDM_models/NAME``, and whether it is new.

    Raises:
        UserError: bad file, bad name, or another model of that name.
    """
    name = file.stem if name is None else name
    if not NAME.fullmatch(name):
        raise UserError(f"A model cannot be named {name!r}: give -name letters, digits, '_', '-' and '.', at most 64.")
    home = nnunet_folder("nnUNet_results") / IMPORTED
    home.mkdir(exist_ok=True)
    remove_leftovers(home)
    with temporary_folder(home) as work:
        unpack_model(file, work / name)
        present = known_models().get(name)
        if present is not None:
            if not is_shared(present) or read_json(present / MANIFEST) != read_json(work / name / MANIFEST):
                raise UserError(f"There is another SBLDM named {name} in {present}: give this one another name with -name.")
            return present, False
        if (home / name).exists():
            raise UserError(f"{home / name} is there already and no SBLDM: remove it, or give this one another name with -name.")
        os.rename(work / name, home / name)
    return home / name, True


def unpack_model(file: Path, folder: Path) -> None:
    """Unpack a shared model into a new folder and check all of it; what is left there after an error is worth nothing.

    Raises:
        UserError: no zip, unknown, missing, duplicate, too large or changed members, or no model that can be loaded.
    """
    if not file.is_file():
        raise UserError(f"{file} is not a file.")
    try:
        with zipfile.ZipFile(file) as archive:
            _refuse_bad_members(file, archive.infolist())
            folder.mkdir()
            for name in reversed(MEMBERS):  # the manifest first
                _unpack(file, archive, name, folder)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, UnicodeDecodeError, struct.error) as e:
        raise UserError(f"{file} is no zip file, or a damaged one ({e}).") from e
    except OSError as e:
        if e.errno != errno.EINVAL:
            raise
        raise UserError(f"{file} is a damaged zip file: it points outside of itself.") from e
    _refuse_unusable(file, folder)


def _refuse(file: Path, reason: str) -> NoReturn:
    raise UserError(f"{file} is not taken: {reason}; ask for a file that sbldm_export wrote.")


def _refuse_bad_members(file: Path, infos: list[zipfile.ZipInfo]) -> None:
    names = [i.filename for i in infos]
    for info in infos:
        name = info.filename
        if name.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", name) or re.match(r"[A-Za-z]:", name):
            _refuse(file, f"the path {name!r} leads out of the folder")
        if name not in MEMBERS:
            _refuse(file, f"it holds {name!r}, which is no part of a model")
        if names.count(name) > 1:
            _refuse(file, f"it holds {name} twice")
        if info.file_size > MEMBERS[name]:
            _refuse(file, f"{name} has {info.file_size} bytes, more than the {MEMBERS[name]} that are allowed")
        if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            _refuse(file, f"{name} is encrypted or packed in an unknown way")
    missing = [n for n in MEMBERS if n not in names]
    if missing:
        _refuse(file, f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing")


def _unpack(file: Path, archive: zipfile.ZipFile, name: str, folder: Path) -> None:
    """Unpack one member, counting what really comes out, and compare it with the manifest, which is unpacked first."""
    digest, size = hashlib.sha256(), 0
    with archive.open(name) as member, open(folder / name, "wb") as target:
        while chunk := member.read(CHUNK):
            size += len(chunk)
            if size > MEMBERS[name]:
                _refuse(file, f"{name} has more than the {MEMBERS[name]} bytes that are allowed")
            digest.update(chunk)
            target.write(chunk)
    if name == MANIFEST:
        _refuse_bad_manifest(file, folder / MANIFEST)
    elif read_json(folder / MANIFEST)["files"][name] != {"sha256": digest.hexdigest(), "bytes": size}:
        _refuse(file, f"{name} is not what its manifest says (another size or hash)")


def _refuse_bad_manifest(file: Path, manifest: Path) -> None:
    try:
        value = read_json(manifest)
    except UserError:
        _refuse(file, "its manifest is no JSON")
    if not isinstance(value, dict) or value.get("format") != FORMAT_VERSION:
        found = value.get("format") if isinstance(value, dict) else None
        _refuse(file, f"its format is {found}, and this version reads {FORMAT_VERSION}")
    if not isinstance(value.get("files"), dict) or set(value["files"]) != set(MEMBERS) - {MANIFEST}:
        _refuse(file, "its manifest lists other files than a model has")


def _refuse_unusable(file: Path, folder: Path) -> None:
    """Load the model once, after a look at whether its plan asks for no more memory than its weights account for."""
    try:
        read_card(folder)
        read_json(folder / "dataset.json")["labels"].items()
        plan = GeneratorPlan.from_json(read_json(folder / "generator.json"))
        if math.prod(plan.grid.shape) > MAX_GRID_VOXELS:
            _refuse(file, f"its grid has {math.prod(plan.grid.shape)} voxels, more than the {MAX_GRID_VOXELS} that are allowed")
        with torch.device("meta"):
            planned = [sum(p.numel() for p in n.state_dict().values()) for n in (build_autoencoder(plan), build_denoiser(plan))]
        if planned != [num_parameters(folder / w) for w in WEIGHTS]:
            _refuse(file, "its weights are not those of its plan")
        load_model(folder)
    except UserError as e:
        raise UserError(str(e).replace(str(folder), str(file))) from e
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError, RecursionError, SafetensorError) as e:
        _refuse(file, f"it cannot be read ({e})")
