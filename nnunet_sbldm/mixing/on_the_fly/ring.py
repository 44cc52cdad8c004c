"""The ring of ready cases: one process publishes them, nnU-Net's background workers read them, and neither waits for the other.

::

    ready.json          ids of the ready cases, oldest first, each with the checksums of its files; replaced in one step
    cases/ID/           a case: nnU-Net's ID.b2nd, ID_seg.b2nd and ID.pkl, and its provenance ID.json; appears in one step
    draws/PID           ids that the process PID has loaded, one per line
    corrupt/ID          left by a reader that met wrong checksums

A case that leaves the ring stays on the disk for a while, because a worker may have drawn it just before.

Light on purpose: background workers import it, and it touches neither torch nor the generator.
"""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

from nnunet_sbldm.common.files import read_json, remove_leftovers, sha256_of_file, temporary_folder, write_json

INDEX, CASES, DRAWS, CORRUPT = "ready.json", "cases", "draws", "corrupt"
GRACE_S = 30.0
"""How long a case that left the ring can still be read; a worker loads a case within seconds of drawing it."""

Index = dict[str, dict[str, str]]
"""Case id -> file name -> SHA-256, oldest case first."""


def make_ring(folder: Path) -> None:
    """Make an empty ring."""
    for name in (CASES, DRAWS, CORRUPT):
        (folder / name).mkdir(parents=True, exist_ok=True)


def corrupt_cases(folder: Path) -> set[str]:
    """Ids of the cases that some reader found corrupt."""
    return {p.name for p in (folder / CORRUPT).glob("*")}


class RingReader:
    """The ready cases, behind the interface of nnU-Net's datasets; it can be pickled and forked.

    Attributes:
        folder: folder of the ring.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._index: Index = {}
        self._ids: tuple[str, ...] = ()
        self._stamp: tuple[int, ...] = ()
        self._verified: set[str] = set()
        self._corrupt: set[str] = set()

    @property
    def identifiers(self) -> tuple[str, ...]:
        """Ids of the cases that are ready now, sorted; possibly none."""
        try:
            stat = os.stat(self.folder / INDEX)
            stamp = (stat.st_mtime_ns, stat.st_ino, stat.st_size)
            if stamp != self._stamp:
                self._index, self._stamp = read_json(self.folder / INDEX), stamp
                self._refresh_ids()
        except FileNotFoundError:  # not begun, or over
            self._index, self._stamp, self._ids = {}, (), ()
        return self._ids

    def _refresh_ids(self) -> None:
        self._verified &= self._index.keys()
        self._ids = tuple(sorted(self._index.keys() - self._corrupt))

    def load_case(self, identifier: str) -> tuple[Any, Any, Any, dict[str, Any]]:
        """Load a case as nnU-Net does.

        Returns:
            image [C, D, H, W], segmentation [1, D, H, W], None, and the case's properties.

        Raises:
            FileNotFoundError: the case has left the ring since it was drawn, or is corrupt.
        """
        case_id = str(identifier)
        folder = self.folder / CASES / case_id
        try:
            if case_id not in self._verified:
                self._verify(case_id, folder)
            loaded = nnUNetDatasetBlosc2(str(folder), [case_id]).load_case(case_id)
        except FileNotFoundError:
            raise
        except Exception as e:  # deleted while being opened; blosc2 has errors of its own for that
            raise FileNotFoundError(f"{folder} cannot be read: {e}.") from e
        self._note_draw(case_id)
        return loaded

    def _verify(self, case_id: str, folder: Path) -> None:
        """Compare the checksums, once per case and process."""
        expected = self._index.get(case_id) or _index_of(self.folder).get(case_id)
        if expected is None:
            raise FileNotFoundError(f"{folder} has left the ring.")
        if not all(sha256_of_file(folder / name) == checksum for name, checksum in expected.items()):
            self._corrupt.add(case_id)
            self._refresh_ids()
            with suppress(OSError):
                (self.folder / CORRUPT / case_id).touch()
            raise FileNotFoundError(f"{folder} is corrupt: its checksums are not those it was published with.")
        self._verified.add(case_id)

    def _note_draw(self, case_id: str) -> None:
        with suppress(OSError), open(self.folder / DRAWS / str(os.getpid()), "a", encoding="utf-8") as f:
            f.write(f"{case_id}\n")


class DrawCounter:
    """How often each case was loaded, by all readers together.

    Attributes:
        counts: case id -> loads, as of the last :meth:`refresh`.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / DRAWS
        self._offsets: dict[Path, int] = {}
        self.counts: Counter[str] = Counter()

    def refresh(self) -> None:
        """Read what was added since the last time."""
        for path in self._folder.glob("*"):
            with suppress(OSError), open(path, "rb") as f:
                f.seek(self._offsets.get(path, 0))
                complete = f.read().rpartition(b"\n")[0]
                self._offsets[path] = self._offsets.get(path, 0) + (len(complete) + 1 if complete else 0)
                self.counts.update(complete.decode().splitlines())


class RingWriter:
    """The one process that publishes and retires cases; it takes over what an earlier one left."""

    def __init__(self, folder: Path, pool_size: int, max_reuse: int, grace_s: float = GRACE_S) -> None:
        """Keep ``pool_size`` cases ready and replace those that were drawn ``max_reuse`` times."""
        self.folder, self._pool_size, self._max_reuse, self._grace_s = folder, pool_size, max_reuse, grace_s
        make_ring(folder)
        remove_leftovers(folder)
        self._ready, self._draws = _index_of(folder), DrawCounter(folder)
        self._retired = {p.name: time.monotonic() for p in (folder / CASES).iterdir() if p.name not in self._ready}

    @property
    def is_full(self) -> bool:
        """Whether as many cases are ready as shall be."""
        return len(self._ready) >= self._pool_size

    def wants_case(self) -> bool:
        """Whether a case is missing, or one was drawn often enough to be replaced; looks at what readers left."""
        corrupt = corrupt_cases(self.folder) & self._ready.keys()
        if corrupt:
            self._install({c: v for c, v in self._ready.items() if c not in corrupt})
        self._delete_retired()
        self._draws.refresh()
        return not self.is_full or any(self._draws.counts[c] >= self._max_reuse for c in self._ready)

    def publish(self, case_id: str, write: Callable[[Path], object]) -> None:
        """Add a case, complete or not at all; where the ring is full, the case drawn most leaves, of several the oldest.

        Args:
            case_id: a new id.
            write: writes all files of the case into the folder it is given.
        """
        target = self.folder / CASES / case_id
        with temporary_folder(self.folder) as tmp:
            slot = tmp / case_id
            slot.mkdir()
            write(slot)
            checksums = {p.name: sha256_of_file(p) for p in sorted(slot.iterdir())}
            shutil.rmtree(target, ignore_errors=True)  # left by an earlier attempt that could not write the index
            os.rename(slot, target)
        ready = {**self._ready, case_id: checksums}
        surplus = sorted(ready, key=lambda c: -self._draws.counts[c])[: max(0, len(ready) - self._pool_size)]
        self._install({c: v for c, v in ready.items() if c not in surplus})

    def _install(self, ready: Index) -> None:
        """Make these the ready cases."""
        write_json(self.folder / INDEX, ready)
        self._retired.update(dict.fromkeys(self._ready.keys() - ready.keys(), time.monotonic()))
        self._ready = ready

    def _delete_retired(self) -> None:
        for case_id, since in list(self._retired.items()):
            if time.monotonic() - since >= self._grace_s:
                shutil.rmtree(self.folder / CASES / case_id, ignore_errors=True)
                del self._retired[case_id]


def _index_of(folder: Path) -> Index:
    try:
        return read_json(folder / INDEX)
    except FileNotFoundError:
        return {}
