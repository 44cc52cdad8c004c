"""The two places where the trainer finds synthetic cases, preprocessed and ready to read.

* The *pool* of a real dataset, ``nnUNet_preprocessed/DATASET/sbldm/DATA_IDENTIFIER/fold_F``, outside the folder
  that stock nnU-Net reads. ``cases/`` holds nnU-Net's own files, ``provenance/`` one record per case.
* An *expanded dataset*, whose synthetic cases lie among the real ones; its index is
  ``nnUNet_preprocessed/DATASET/sbldm/synthetic_cases.json``.

Light on purpose: nnU-Net's background workers import it.
"""

from __future__ import annotations

from pathlib import Path

FOLDER = "sbldm"


def pool_folder(preprocessed: Path, data_identifier: str, fold: int | str) -> Path:
    """Folder of a fold's pool; it holds the index, ``cases/`` and ``provenance/``."""
    return preprocessed / FOLDER / data_identifier / f"fold_{fold}"


def pool_cases_folder(preprocessed: Path, data_identifier: str, fold: int | str) -> Path:
    """Folder of a pool's preprocessed files, readable by nnU-Net's dataset class."""
    return pool_folder(preprocessed, data_identifier, fold) / "cases"


def expansion_folder(preprocessed: Path) -> Path:
    """Folder of an expanded dataset's index."""
    return preprocessed / FOLDER
