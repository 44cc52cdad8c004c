"""Synthetic cases that lie ready on the disk, preprocessed: those of a pool or of an expanded dataset."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

from nnunet_sbldm.mixing.dataset import LoadedCase, ReadySource
from nnunet_sbldm.types import UserError


class FolderSource(ReadySource):
    """Synthetic cases in a folder of nnU-Net's preprocessed files.

    Attributes:
        folder: the folder.
        identifiers: ids of the cases, sorted.
    """

    def __init__(self, folder: Path, case_ids: Sequence[str], remedy: str) -> None:
        """Draw from the cases ``case_ids`` of ``folder``; ``remedy`` is the command that makes it anew."""
        self.folder, self.identifiers = folder, tuple(sorted(case_ids))
        self._remedy = remedy
        self._dataset = nnUNetDatasetBlosc2(str(folder), list(self.identifiers))

    def load_case(self, identifier: str) -> LoadedCase:
        """Open a case with nnU-Net's own class.

        Raises:
            FileNotFoundError: the case has gone since it was drawn.
            UserError: a file that cannot be read.
        """
        try:
            return self._dataset.load_case(identifier)
        except FileNotFoundError:
            raise
        except Exception as e:  # blosc2 and pickle raise errors of every kind
            raise UserError(f"The preprocessed files of synthetic case {identifier} in {self.folder} cannot be read "
                            f"({' '.join(str(e).split())}): delete that folder and {self._remedy}.") from e

    def refuse_unreadable(self) -> None:
        """Open every case once, half a millisecond each; raises a :class:`UserError` that names a file cut short."""
        for case_id in self.identifiers:
            self.load_case(case_id)

    def __str__(self) -> str:
        return f"{len(self.identifiers)} synthetic cases in {self.folder}"
