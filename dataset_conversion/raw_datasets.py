"""What the converters share: a raw dataset written case by case, each file complete or absent, resumed by running again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from nnunet_sbldm.common.files import read_json, remove_leftovers, write_atomically, write_json
from nnunet_sbldm.common.progress import progress
from nnunet_sbldm.data.paths import names_with, nnunet_folder
from nnunet_sbldm.types import UserError

ENDING = ".nii.gz"


@dataclass(frozen=True)
class RawDataset:
    """What ``dataset.json`` says of a dataset.

    Attributes:
        dataset_id: number of the dataset, 1 to 999.
        name: the dataset is called ``DatasetXXX_NAME``.
        channel_names: names in channel order.
        labels: label name -> value, or the values of a region.
        description: what it is and how it was converted.
        licence: licence of the source.
        reference: publications and site of the source.
        regions_class_order: nnU-Net's order of painting, where labels are regions.
    """

    dataset_id: int
    name: str
    channel_names: tuple[str, ...]
    labels: dict[str, int | list[int]]
    description: str
    licence: str
    reference: str
    regions_class_order: tuple[int, ...] = ()

    def to_json(self, num_training: int) -> dict[str, Any]:
        """Content of ``dataset.json``."""
        content = {
            "name": self.name,
            "description": self.description,
            "channel_names": {str(i): c for i, c in enumerate(self.channel_names)},
            "labels": self.labels,
            "numTraining": num_training,
            "file_ending": ENDING,
            "licence": self.licence,
            "reference": self.reference,
            "converted_by": "nnunet_sbldm",
        }
        return {**content, "regions_class_order": list(self.regions_class_order)} if self.regions_class_order else content


@dataclass(frozen=True)
class SourceCase:
    """One case of an archive.

    Attributes:
        case_id: its identifier in nnU-Net.
        write: called with the image files, one per channel, and the label file; writes each with a function of this module.
        has_label: cases with a label are for training, others for testing.
        spacing_mm: voxel size (Z, Y, X) that the user says it has; None where the archive states one.
    """

    case_id: str
    write: Callable[[Sequence[Path], Path], None]
    has_label: bool = True
    spacing_mm: tuple[float, float, float] | None = None


def write_raw_dataset(dataset: RawDataset, cases: Sequence[SourceCase]) -> Path:
    """Write the cases that are not there yet into ``nnUNet_raw``, and ``dataset.json`` last.

    Returns:
        The folder of the dataset.

    Raises:
        UserError: the id is taken, or the folder holds something else.
    """
    folder = dataset_folder(dataset.dataset_id, dataset.name)
    _refuse_strangers(folder, dataset, cases)
    for name in ("imagesTr", "labelsTr", "imagesTs"):
        remove_leftovers(folder / name)
    for case in progress(cases, folder.name):
        part = "Tr" if case.has_label else "Ts"
        images = [folder / f"images{part}" / f"{case.case_id}_{c:04d}{ENDING}" for c in range(len(dataset.channel_names))]
        label = folder / f"labels{part}" / f"{case.case_id}{ENDING}"
        if not all(f.is_file() for f in (*images, *([label] if case.has_label else []))):
            case.write(images, label)
        elif case.spacing_mm is not None:
            _refuse_other_spacing(case, images[0])
    write_json(folder / "dataset.json", dataset.to_json(sum(c.has_label for c in cases)))
    return folder


def dataset_folder(dataset_id: int, name: str) -> Path:
    """Folder in ``nnUNet_raw`` for a dataset to be written.

    Raises:
        UserError: the number is none of nnU-Net's, or another dataset's.
    """
    raw = nnunet_folder("nnUNet_raw")
    if not 1 <= dataset_id <= 999:
        raise UserError(f"-d takes a dataset id from 1 to 999; got {dataset_id}.")
    folder = raw / f"Dataset{dataset_id:03d}_{name}"
    others = [taken for taken in names_with(dataset_id, raw) if taken != folder.name]
    if others:
        raise UserError(f"The dataset id {dataset_id} is taken by {others[0]} in nnUNet_raw; choose another with -d.")
    return folder


def _refuse_strangers(folder: Path, dataset: RawDataset, cases: Sequence[SourceCase]) -> None:
    """A folder of that name may hold an earlier run of the same conversion, and nothing else."""
    if (folder / "dataset.json").is_file():
        found, wanted = read_json(folder / "dataset.json"), dataset.to_json(0)
        for key in ("channel_names", "labels", "file_ending"):
            if found.get(key) != wanted[key]:
                raise UserError(
                    f"{folder} is another dataset: its {key} are {found.get(key)}, expected {wanted[key]}; "
                    "choose another id with -d, or remove it."
                )
    known = {c.case_id for c in cases if c.has_label}
    strangers = sorted(p.name for p in (folder / "labelsTr").glob(f"*{ENDING}") if p.name[: -len(ENDING)] not in known)
    if strangers:
        raise UserError(f"{folder / 'labelsTr'} has {strangers[0]}, which is not in the archive; remove that dataset first.")


def _refuse_other_spacing(case: SourceCase, image: Path) -> None:
    _, (x, y, z) = _grid_of(case.case_id, image)
    if case.spacing_mm is not None and not np.allclose((z, y, x), case.spacing_mm, rtol=1e-3):
        wanted, found = (" ".join(f"{v:g}" for v in values) for values in (case.spacing_mm, (z, y, x)))
        raise UserError(f"{image} has a spacing of {found} mm, not {wanted}: remove that dataset first, or give its spacing.")


# --- reading an archive --------------------------------------------------------------------------------------------


def case_folders(archive: Path, pattern: str, structure: str) -> list[Path]:
    """Sorted subfolders that match; ``structure`` tells the user what was expected.

    Raises:
        UserError: no folder, or none of its subfolders matches.
    """
    if not archive.is_dir():
        raise UserError(f"-i {archive} is not a folder; expected {structure}.")
    found = sorted(p for p in archive.glob(pattern) if p.is_dir())
    if not found:
        raise UserError(f"-i {archive} has no folder {pattern}; expected {structure}.")
    return found


def require_files(case_id: str, files: Iterable[Path]) -> None:
    """Raise a :class:`UserError` that names the first missing file of a case."""
    for file in files:
        if not file.is_file():
            raise UserError(f"Case {case_id} of the archive has no {file.name} in {file.parent}; complete or remove that case.")


def require_same_grid(case_id: str, files: Sequence[Path]) -> None:
    """Refuse a case whose files differ in size or spacing, by their headers."""
    (size, spacing), *others = (_grid_of(case_id, f) for f in files)
    for file, (other_size, other_spacing) in zip(files[1:], others, strict=True):
        if other_size != size or not np.allclose(other_spacing, spacing, rtol=1e-3):
            raise UserError(
                f"Case {case_id} of the archive: {files[0].name} has {size} voxels of {spacing} mm, but {file.name} has "
                f"{other_size} of {other_spacing}; download that case again, or remove it."
            )


def _grid_of(case_id: str, file: Path) -> tuple[tuple[int, ...], tuple[float, ...]]:
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(file))
    try:
        reader.ReadImageInformation()
    except RuntimeError as e:
        raise _unreadable(case_id, file) from e
    return tuple(reader.GetSize()[:3]), tuple(reader.GetSpacing()[:3])


def read_volume(case_id: str, file: Path) -> sitk.Image:
    """Read an image of an archive with SimpleITK."""
    try:
        return sitk.ReadImage(str(file))
    except RuntimeError as e:
        raise _unreadable(case_id, file) from e


def _unreadable(case_id: str, file: Path) -> UserError:
    return UserError(f"Case {case_id} of the archive: {file} cannot be read; download that case again, or remove it.")


# --- writing files -------------------------------------------------------------------------------------------------


def write_volume(image: sitk.Image, target: Path) -> None:
    """Write an image atomically and compressed."""
    write_atomically(target, lambda tmp: sitk.WriteImage(image, str(tmp), True))
