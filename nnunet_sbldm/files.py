"""Files that appear complete or not at all, and hashes of their content."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np


def sha256_of_array(array: np.ndarray) -> str:
    """Hash of shape and values, whatever the file format, compression or integer type they came from."""
    values = np.ascontiguousarray(array, dtype=np.float32)
    digest = hashlib.sha256(repr(values.shape).encode())
    digest.update(values.tobytes())
    return digest.hexdigest()


def sha256_of_file(path: Path) -> str:
    """Hash of a file's bytes."""
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def sha256_of_json(value: Any) -> str:
    """Hash of a JSON-serialisable value in canonical form (sorted keys, no blanks)."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def read_json(path: Path) -> Any:
    """Parse a JSON file."""
    with open(path, encoding="utf-8") as f:
        return json.load(f)


def write_json(path: Path, value: Any) -> None:
    """Write readable JSON atomically; the parent folder is created."""
    write_atomically(path, lambda tmp: tmp.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8"))


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write(temporary_path)`` make a file and move it to ``path`` in one step.

    The temporary name keeps the file ending, because many writers choose the format by it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with temporary_folder(path.parent) as folder:
        tmp = folder / path.name
        write(tmp)
        os.replace(tmp, path)


@contextmanager
def temporary_folder(parent: Path) -> Iterator[Path]:
    """A hidden folder on the same file system as ``parent``, removed on leaving."""
    parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=".sbldm_tmp_", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_leftovers(parent: Path) -> None:
    """Delete temporary folders that a killed run left in ``parent``."""
    for folder in parent.glob(".sbldm_tmp_*"):
        shutil.rmtree(folder, ignore_errors=True)


def link_or_copy(source: Path, target: Path) -> None:
    """Hard-link a file, or copy it where the file systems differ; an existing target is kept."""
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        write_atomically(target, lambda tmp: shutil.copyfile(source, tmp))
