"""Convert kaggle_3m, the LGG segmentation dataset: slices stacked by number, three channels or FLAIR alone.

The archive's slices are colour images of (pre-contrast, FLAIR, post-contrast). Where a patient lacks pre- or
post-contrast, the archive itself repeats FLAIR in its place. Its files state no voxel size.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import tifffile

from nnunet_sbldm.common.commands import Parser, count, positive, run
from nnunet_sbldm.dataset_conversion.raw_datasets import RawDataset, SourceCase, case_folders, write_raw_dataset, write_volume
from nnunet_sbldm.types import UserError

STRUCTURE = "folders such as TCGA_CS_4941_19960909 with TCGA_CS_4941_19960909_1.tif and TCGA_CS_4941_19960909_1_mask.tif"
CHANNELS = ("pre-contrast", "FLAIR", "post-contrast")
LICENCE = "CC BY-NC-SA 4.0 (images from TCIA, collection TCGA-LGG, CC BY 3.0)"
REFERENCE = (
    "Buda et al. 2019, doi:10.1016/j.compbiomed.2019.05.002; Mazurowski et al. 2017, doi:10.1007/s11060-017-2420-1; "
    "https://www.kaggle.com/datasets/mateuszbuda/lgg-mri-segmentation"
)


def lgg_dataset(dataset_id: int, only_flair: bool) -> RawDataset:
    """What ``dataset.json`` says of either form."""
    description = "TCGA lower-grade gliomas with FLAIR abnormality, volumes stacked from the slices of kaggle_3m"
    repeated = "; missing pre- or post-contrast sequences are copies of FLAIR, as in the archive"
    return RawDataset(
        dataset_id,
        "LGGFLAIR" if only_flair else "LGG",
        ("FLAIR",) if only_flair else CHANNELS,
        {"background": 0, "tumour": 1},
        description + ("" if only_flair else repeated),
        LICENCE,
        REFERENCE,
    )


def convert(archive: Path, dataset: RawDataset, spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> Path:
    """Convert an archive.

    Args:
        archive: folder of the patients' folders.
        dataset: :func:`lgg_dataset`.
        spacing_mm: voxel size along (Z, Y, X), which the archive does not state.

    Returns:
        The folder of the dataset.
    """
    folders = case_folders(archive, "TCGA_*", STRUCTURE)
    cases = [
        SourceCase(f.name, partial(_write_case, _slices_of(f), dataset.channel_names, spacing_mm), spacing_mm=spacing_mm)
        for f in folders
    ]
    return write_raw_dataset(dataset, cases)


def _slices_of(folder: Path) -> list[tuple[Path, Path]]:
    """Image and mask of every slice, in the order of the slice numbers, of which none may be missing."""
    pattern = re.compile(re.escape(folder.name) + r"_(\d+)\.tif")
    images = {int(m[1]): p for p in folder.iterdir() if (m := pattern.fullmatch(p.name))}
    if not images:
        raise UserError(f"{folder} has no slices {folder.name}_N.tif; expected {STRUCTURE}.")
    pairs = []
    for number in range(1, max(images) + 1):
        mask = folder / f"{folder.name}_{number}_mask.tif"
        if number not in images or not mask.is_file():
            missing = "mask" if number in images else "image"
            raise UserError(f"{folder} lacks the {missing} of slice {number} of {max(images)}; download that patient again.")
        pairs.append((images[number], mask))
    return pairs


def _write_case(
    slices: Sequence[tuple[Path, Path]],
    channels: Sequence[str],
    spacing_mm: Sequence[float],
    targets: Sequence[Path],
    label: Path,
) -> None:
    images = [_read_slice(image, 3) for image, _ in slices]
    masks = [_read_slice(mask, 2) for _, mask in slices]
    if len({pixels.shape[:2] for pixels in (*images, *masks)}) > 1:
        raise UserError(f"{slices[0][0].parent}: slices differ in size; download that patient again.")
    stack = np.stack(images)  # [Z, Y, X, 3]
    for name, target in zip(channels, targets, strict=True):
        write_volume(_volume(stack[..., CHANNELS.index(name)], spacing_mm), target)
    write_volume(_volume((np.stack(masks) > 0).astype(np.uint8), spacing_mm), label)


def _read_slice(file: Path, num_dimensions: int) -> np.ndarray:
    try:
        pixels = tifffile.imread(file)
    except (tifffile.TiffFileError, OSError, ValueError) as e:
        raise UserError(f"{file} cannot be read; download that patient again.") from e
    if pixels.ndim != num_dimensions or (num_dimensions == 3 and pixels.shape[-1] != len(CHANNELS)):
        expected = "a colour image of three channels" if num_dimensions == 3 else "a mask of one channel"
        raise UserError(f"{file} has the shape {pixels.shape}; expected {expected}.")
    return np.asarray(pixels)


def _volume(array: np.ndarray, spacing_mm: Sequence[float]) -> sitk.Image:
    image = sitk.GetImageFromArray(np.ascontiguousarray(array))
    image.SetSpacing(list(spacing_mm)[::-1])
    return image


def main(argv: Sequence[str] | None = None) -> None:
    """Command line: ``python -m nnunet_sbldm.dataset_conversion.Dataset505_LGG -i FOLDER [-d ID --flair -spacing Z Y X]``."""
    parser = Parser("Convert kaggle_3m, the LGG segmentation dataset: slices stacked by number, three channels or FLAIR alone.")
    parser.add_argument("-i", required=True, type=Path, metavar="FOLDER", help=f"[REQUIRED] kaggle_3m: {STRUCTURE}")
    parser.add_argument("-d", type=count, metavar="ID", help="[OPTIONAL] Dataset id. Default: 505, with --flair 506")
    parser.add_argument("--flair", action="store_true", help="[OPTIONAL] FLAIR alone")
    parser.add_argument(
        "-spacing",
        type=positive,
        nargs=3,
        default=(1.0, 1.0, 1.0),
        metavar=("Z", "Y", "X"),
        help="[OPTIONAL] voxel size in mm, which the archive does not state. Default: 1 1 1",
    )
    args = parser.parse_args(argv)
    run(lambda: _convert(args))


def _convert(args: argparse.Namespace) -> None:
    dataset = lgg_dataset(args.d or (506 if args.flair else 505), args.flair)
    print(f"The dataset is ready: {convert(args.i, dataset, tuple(args.spacing))}")


if __name__ == "__main__":
    main()
