"""Convert the training cases of BraTS 2021: four channels with nested regions, or whole tumour on FLAIR alone."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunet_sbldm.common.commands import Parser, count, run
from nnunet_sbldm.common.files import copy_file
from nnunet_sbldm.dataset_conversion.raw_datasets import (
    RawDataset,
    SourceCase,
    case_folders,
    read_volume,
    require_files,
    require_same_grid,
    write_raw_dataset,
    write_volume,
)
from nnunet_sbldm.types import UserError

STRUCTURE = "folders such as BraTS2021_00000 with BraTS2021_00000_flair.nii.gz, _t1, _t1ce, _t2 and _seg"
CHANNELS = {"T1": "t1", "T1ce": "t1ce", "T2": "t2", "FLAIR": "flair"}
"""Channel name -> ending of the file in the archive."""
NESTED = {0: 0, 2: 1, 1: 2, 4: 3}
"""BraTS' labels (2 oedema, 1 necrotic core, 4 enhancing tumour) -> consecutive labels, from the outside in."""
WHOLE_TUMOUR = {0: 0, 1: 1, 2: 1, 4: 1}
LICENCE = "Terms of the BraTS 2021 challenge: https://www.synapse.org/Synapse:syn25829067"
REFERENCE = (
    "Baid et al. 2021, arXiv:2107.02314; Menze et al. 2015, doi:10.1109/TMI.2014.2377694; "
    "Bakas et al. 2017, doi:10.1038/sdata.2017.117"
)


def four_channels(dataset_id: int) -> RawDataset:
    """T1, T1ce, T2 and FLAIR with BraTS' three nested regions."""
    return RawDataset(
        dataset_id,
        "BraTS2021",
        tuple(CHANNELS),
        {"background": 0, "whole_tumour": [1, 2, 3], "tumour_core": [2, 3], "enhancing_tumour": [3]},
        "BraTS 2021 training cases; labels: 1 oedema, 2 necrotic core, 3 enhancing tumour (2, 1 and 4 in the archive)",
        LICENCE,
        REFERENCE,
        regions_class_order=(1, 2, 3),
    )


def flair_only(dataset_id: int) -> RawDataset:
    """FLAIR with the whole tumour as the one label, as in the SBLDM paper."""
    return RawDataset(
        dataset_id,
        "BraTS2021FLAIR",
        ("FLAIR",),
        {"background": 0, "whole_tumour": 1},
        "BraTS 2021 training cases, FLAIR alone; the whole tumour unites the labels 1, 2 and 4 of the archive",
        LICENCE,
        REFERENCE,
    )


def convert(archive: Path, dataset: RawDataset) -> Path:
    """Convert an archive; images are copied as they are.

    Args:
        archive: folder of the case folders.
        dataset: :func:`four_channels` or :func:`flair_only`.

    Returns:
        The folder of the dataset.
    """
    label_of = NESTED if dataset.regions_class_order else WHOLE_TUMOUR
    cases = []
    for folder in case_folders(archive, "BraTS*", STRUCTURE):
        images = [folder / f"{folder.name}_{CHANNELS[c]}.nii.gz" for c in dataset.channel_names]
        label = folder / f"{folder.name}_seg.nii.gz"
        require_files(folder.name, [*images, label])
        cases.append(SourceCase(folder.name, partial(_write_case, folder.name, images, label, label_of)))
    return write_raw_dataset(dataset, cases)


def _write_case(
    case_id: str, images: Sequence[Path], label: Path, label_of: dict[int, int], targets: Sequence[Path], target_label: Path
) -> None:
    require_same_grid(case_id, [*images, label])
    for source, target in zip(images, targets, strict=True):
        copy_file(source, target)
    write_volume(_relabel(case_id, read_volume(case_id, label), label_of), target_label)


def _relabel(case_id: str, image: sitk.Image, label_of: dict[int, int]) -> sitk.Image:
    values = sitk.GetArrayViewFromImage(image)
    unknown = sorted(set(np.unique(values).tolist()) - set(label_of))
    if unknown:
        raise UserError(f"Case {case_id} of the archive has the label(s) {unknown}; BraTS 2021 has 0, 1, 2 and 4.")
    relabelled = np.zeros(values.shape, np.uint8)
    for theirs, ours in label_of.items():
        relabelled[values == theirs] = ours
    result = sitk.GetImageFromArray(relabelled)
    result.CopyInformation(image)
    return result


def main(argv: Sequence[str] | None = None) -> None:
    """Command line: ``python -m nnunet_sbldm.dataset_conversion.Dataset137_BraTS2021 -i FOLDER [-d ID --flair]``."""
    parser = Parser(__doc__ or "")
    parser.add_argument("-i", required=True, type=Path, metavar="FOLDER", help=f"[REQUIRED] {STRUCTURE}")
    parser.add_argument("-d", type=count, metavar="ID", help="[OPTIONAL] Dataset id. Default: 137, with --flair 138")
    parser.add_argument("--flair", action="store_true", help="[OPTIONAL] whole tumour on FLAIR alone, as in the SBLDM paper")
    args = parser.parse_args(argv)
    run(lambda: _convert(args))


def _convert(args: argparse.Namespace) -> None:
    dataset = flair_only(args.d or 138) if args.flair else four_channels(args.d or 137)
    print(f"The dataset is ready: {convert(args.i, dataset)}")


if __name__ == "__main__":
    main()
