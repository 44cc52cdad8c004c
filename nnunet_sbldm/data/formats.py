"""Cases as files: written so that the dataset's own nnU-Net reader gives the same arrays and geometry back.

=============================== ==================== =======================================================
reader of nnU-Net               written by           kept
=============================== ==================== =======================================================
SimpleITKIO, ...WithReorient    SimpleITK            spacing, origin, direction (.gipl has no direction: LPS);
                                                     sheared axes are written by nibabel
NibabelIO, ...WithReorient      nibabel              spacing, origin, direction
Tiff3DIO                        tifffile             spacing, in a JSON file beside the image
NaturalImage2DIO                refused              two-dimensional
=============================== ==================== =======================================================
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import SimpleITK as sitk
import tifffile
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO, NibabelIOWithReorient
from nnunetv2.imageio.tif_reader_writer import Tiff3DIO

from nnunet_sbldm.common.files import write_atomically, write_json
from nnunet_sbldm.types import Case, Geometry, UserError

Reader = type[BaseReaderWriter]

SITK_ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha", ".gipl")
NIBABEL_ENDINGS = (".nii.gz", ".nii")
TIFF_ENDINGS = (".tif", ".tiff")
NIBABEL_READERS = (NibabelIO, NibabelIOWithReorient)
ANGLE_TOLERANCE = 1e-4
"""Of the products of direction cosines: below what ITK itself corrects without a word."""
LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0])
"""NIfTI's world axes point right, anterior, superior; SimpleITK's left, posterior, superior."""


# --- geometry ------------------------------------------------------------------------------------------------------


def geometry_of(properties: dict[str, Any]) -> Geometry:
    """Geometry of a case as its reader saw it; readers that reorient deliver that of the reoriented arrays."""
    spacing = tuple(float(s) for s in properties["spacing"])
    if "sitk_stuff" in properties:
        stuff = properties["sitk_stuff"]
        rank = len(stuff["origin"])  # 4 if all channels share a file
        if rank >= 3:
            direction = np.reshape(stuff["direction"], (rank, rank))[:3, :3]
            return Geometry(spacing, tuple(stuff["origin"][:3]), tuple(direction.ravel().tolist()))  # type: ignore[arg-type]
    if "nibabel_stuff" in properties:
        stuff = properties["nibabel_stuff"]
        affine = np.asarray(stuff.get("reoriented_affine", stuff["original_affine"]), dtype=float)
        direction = LPS_FROM_RAS @ affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
        origin = LPS_FROM_RAS @ affine[:3, 3]
        return Geometry(spacing, tuple(origin.tolist()), tuple(direction.ravel().tolist()))  # type: ignore[arg-type]
    return Geometry(spacing)  # type: ignore[arg-type]


def has_right_angles(geometry: Geometry) -> bool:
    """Whether a case's axes are at right angles; a tilted gantry shears them, and SimpleITK would straighten such axes."""
    direction = np.reshape(geometry.direction, (3, 3))
    return bool(np.allclose(direction.T @ direction, np.eye(3), atol=ANGLE_TOLERANCE))


def affine_of(geometry: Geometry) -> np.ndarray:
    """NIfTI affine [4, 4] from voxel (x, y, z) to RAS in mm; the inverse of what :func:`geometry_of` does."""
    affine = np.eye(4)
    direction = np.reshape(geometry.direction, (3, 3))
    affine[:3, :3] = LPS_FROM_RAS @ direction * np.asarray(geometry.spacing_mm)[::-1]
    affine[:3, 3] = LPS_FROM_RAS @ np.asarray(geometry.origin_mm)
    return affine


# --- what can be written -------------------------------------------------------------------------------------------


def writable_endings(reader: Reader | None = None) -> tuple[str, ...]:
    """File endings that can be written for a reader of nnU-Net, or at all."""
    if reader is None:
        return SITK_ENDINGS + TIFF_ENDINGS
    if issubclass(reader, NaturalImage2DIO):
        return ()
    if issubclass(reader, Tiff3DIO):
        return TIFF_ENDINGS
    return NIBABEL_ENDINGS if issubclass(reader, NIBABEL_READERS) else SITK_ENDINGS


def refuse_unwritable(name: str, ending: str, reader: Reader) -> None:
    """Raise a :class:`UserError` if cases of a dataset cannot be written as files that its reader reads."""
    endings = writable_endings(reader)
    if ending.lower() not in endings:
        raise UserError(
            f"{name} has {ending} files, read by {reader.__name__}: synthetic cases for that reader "
            f"can be written as {', '.join(endings) or 'nothing, for it reads two-dimensional images'}."
        )


def side_files(image_files: Sequence[Path], label_file: Path) -> tuple[Path, ...]:
    """The JSON files with the spacing that belong to a case of ``.tif`` files, named as nnU-Net expects; else none."""
    if label_file.suffix.lower() not in TIFF_ENDINGS:
        return ()
    channel_length = len("_0000")
    of_images = {f.with_name(f"{f.stem[:-channel_length]}.json") for f in image_files}
    return (*sorted(of_images), label_file.with_suffix(".json"))


# --- writing -------------------------------------------------------------------------------------------------------


def write_case(case: Case, image_files: Sequence[Path], label_file: Path, reader: Reader | None = None) -> None:
    """Write a case as nnU-Net raw files, one per channel and one for the label map, each atomically.

    Args:
        case: the case, in reader order.
        image_files: one file per channel; their endings choose the format.
        label_file: file of the label map.
        reader: the dataset's reader, which decides who writes formats that several readers share.
    """
    write = _writer(reader, label_file, case.geometry)
    label_type = np.uint8 if case.label.max(initial=0) < 255 else np.uint16
    for file in side_files(image_files, label_file):
        write_json(file, {"spacing": list(case.geometry.spacing_mm)})
    write_atomically(label_file, lambda tmp: write(case.label.astype(label_type), case.geometry, tmp))
    for channel, path in zip(case.image, image_files, strict=True):
        write_atomically(path, lambda tmp, c=channel: write(c, case.geometry, tmp))  # type: ignore[misc]


def _writer(reader: Reader | None, file: Path, geometry: Geometry) -> Callable[[np.ndarray, Geometry, Path], None]:
    if file.suffix.lower() in TIFF_ENDINGS:
        return _write_tiff
    if reader is not None and issubclass(reader, NIBABEL_READERS):
        return _write_nibabel
    if not has_right_angles(geometry):
        if not file.name.lower().endswith(NIBABEL_ENDINGS):
            raise UserError(
                f"{file.name}: axes that are not at right angles can be written as {' or '.join(NIBABEL_ENDINGS)} alone."
            )
        return _write_nibabel
    return _write_sitk


def sitk_image(array: np.ndarray, geometry: Geometry) -> sitk.Image:
    """An array [Z, Y, X], or [Z, Y, X, C] with C > 1 channels, as SimpleITK's image."""
    image = sitk.GetImageFromArray(array, isVector=array.ndim == 4)
    image.SetSpacing([float(s) for s in reversed(geometry.spacing_mm)])
    image.SetOrigin([float(o) for o in geometry.origin_mm])
    image.SetDirection([float(d) for d in geometry.direction])
    return image


def nibabel_image(array: np.ndarray, geometry: Geometry) -> nibabel.Nifti1Image:
    """An array [Z, Y, X], or [Z, Y, X, C] with C > 1 channels, as nibabel's image [X, Y, Z(, C)]."""
    image = nibabel.Nifti1Image(array.transpose(2, 1, 0, *range(3, array.ndim)), affine_of(geometry))
    image.header.set_xyzt_units("mm")
    return image


def _write_sitk(array: np.ndarray, geometry: Geometry, path: Path) -> None:
    image = sitk_image(array, geometry)
    if path.suffix.lower() == ".gipl":  # the format has no direction and is read as LPS
        image = sitk.DICOMOrient(image, "LPS")
    sitk.WriteImage(image, str(path), True)


def _write_nibabel(array: np.ndarray, geometry: Geometry, path: Path) -> None:
    """Through nibabel, for SimpleITK refuses the sheared axes that nibabel's readers accept."""
    nibabel.save(nibabel_image(array, geometry), path)


def _write_tiff(array: np.ndarray, geometry: Geometry, path: Path) -> None:
    """The spacing goes into the side file; a stack of three or four slices must not become a colour image."""
    tifffile.imwrite(path, array, compression="zlib", photometric="minisblack")
