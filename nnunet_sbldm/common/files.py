"""Files that appear complete or not at all: JSON, CSV, hashes, temporary folders, links and copies."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_sbldm.common.locks import is_held
from nnunet_sbldm.common.processes import is_running
from nnunet_sbldm.types import UserError

TEMPORARY_PREFIX = ".sbldm_tmp_"
SECONDS_PER_DAY = 86_400


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
    """Parse a JSON file.

    Raises:
        UserError: no valid JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as e:
        raise UserError(f"{path} is not valid JSON: {e}.") from None


def read_user_json(path: Path, option: str) -> Any:
    """Parse a JSON file that a user wrote and named with ``option``.

    Raises:
        UserError: no such file, no JSON, or a key that one object has twice (of which JSON would drop one).
    """

    def refuse_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        twice = [key for i, (key, _) in enumerate(pairs) if key in dict(pairs[:i])]
        if twice:
            raise UserError(f"{option} {path} has the key {twice[0]!r} twice; keep one.")
        return dict(pairs)

    if not path.is_file():
        raise UserError(f"{option} {path} is not a file.")
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=refuse_twice)
    except (ValueError, RecursionError) as e:
        raise UserError(f"{option} {path} is not valid JSON: {e}.") from None


def write_json(path: Path, value: Any) -> None:
    """Write readable JSON atomically; the parent folder is created."""
    write_atomically(path, lambda tmp: tmp.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8"))


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None) -> None:
    """Write a table atomically.

    Args:
        path: the file; its folder is created.
        rows: one mapping per row.
        columns: names of all columns; other keys are refused. Default: those of the first row, and other keys are left out.
    """
    def write(tmp: Path) -> None:
        with open(tmp, "w", newline="", encoding="utf-8") as f:
            writer = csv.DictWriter(f, columns or list(rows[0]), extrasaction="raise" if columns else "ignore")
            writer.writeheader()
            writer.writerows(rows)

    write_atomically(path, write)


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
    folder = make_temporary_folder(parent)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def make_temporary_folder(parent: Path) -> Path:
    """A hidden folder that belongs to this process: :func:`remove_leftovers` deletes it when the process is gone."""
    parent.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix=f"{TEMPORARY_PREFIX}{socket.gethostname()}.{os.getpid()}.", dir=parent))


def remove_leftovers(parent: Path) -> None:
    """Delete temporary folders in ``parent`` whose process is gone; those of other machines after a day.

    Containers may share a host's name and count processes of their own: a folder is kept while its :func:`hold` is.
    """
    for folder in parent.glob(f"{TEMPORARY_PREFIX}*"):
        host, pid, _ = folder.name.removeprefix(TEMPORARY_PREFIX).rsplit(".", 2)
        abandoned = not is_running(int(pid)) if host == socket.gethostname() else _age_s(folder) > SECONDS_PER_DAY
        if abandoned and not is_held(folder):
            shutil.rmtree(folder, ignore_errors=True)


def _age_s(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:  # just removed by its own process
        return 0.0


def link_or_copy(source: Path, target: Path) -> None:
    """Hard-link a file, of a link what it points at, or copy it with its time where the file systems differ.

    A target of the same size and time is kept.
    """
    if target.exists() and size_and_time(source) == size_and_time(target):
        return

    def write(tmp: Path) -> None:
        try:
            os.link(os.path.realpath(source), tmp)  # of a link: what it points at
        except OSError:
            shutil.copyfile(source, tmp)
            os.utime(tmp, ns=(time.time_ns(), source.stat().st_mtime_ns))

    write_atomically(target, write)


def size_and_time(path: str | Path) -> tuple[int, int]:
    """Bytes of a file and when it was last changed, in ns: where both are as before, so is the content."""
    stat = os.stat(path)
    return stat.st_size, stat.st_mtime_ns


def copy_file(source: Path, target: Path) -> None:
    """Copy a file's bytes atomically."""
    write_atomically(target, lambda tmp: shutil.copyfile(source, tmp))


def from_json(cls: type[Any], value: dict[str, Any]) -> Any:
    """Rebuild one of the dataclasses of this project from JSON (lists become tuples)."""

    def as_tuple(v: Any) -> Any:
        return tuple(as_tuple(x) for x in v) if isinstance(v, list) else v

    return cls(**{f.name: as_tuple(value[f.name]) for f in fields(cls) if f.name in value})
