"""Convert a task of the Medical Segmentation Decathlon, such as Task01_BrainTumour or Task04_Hippocampus."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import SimpleITK as sitk

from nnunet_sbldm.common.commands import Parser, count, run
from nnunet_sbldm.common.files import copy_file, read_json
from nnunet_sbldm.dataset_conversion.raw_datasets import (
    ENDING,
    RawDataset,
    SourceCase,
    read_volume,
    require_files,
    require_same_grid,
    write_raw_dataset,
    write_volume,
)
from nnunet_sbldm.types import UserError

STRUCTURE = "a folder such as Task01_BrainTumour with dataset.json, imagesTr, labelsTr and imagesTs"
LICENCE = "CC-BY-SA 4.0"
REFERENCE = "Antonelli et al. 2022, doi:10.1038/s41467-022-30695-9; Simpson et al. 2019, arXiv:1902.09063; medicaldecathlon.com"


def convert(archive: Path, dataset_id: int | None = None) -> Path:
    """Convert one task; four-dimensional images are split into channels, others are copied as they are.

    Args:
        archive: folder of the task.
        dataset_id: number of the dataset; the task's own if None.

    Returns:
        The folder of the dataset.
    """
    task = re.fullmatch(r"Task(\d+)_(\w+)", archive.resolve().name)
    if not task or not (archive / "dataset.json").is_file():
        raise UserError(f"-i {archive} is no task of the Decathlon: expected {STRUCTURE}.")
    content = _read_description(archive)
    names = {int(value): name for value, name in content["labels"].items()}
    dataset = RawDataset(
        int(task[1]) if dataset_id is None else dataset_id,
        task[2],
        tuple(content["modality"][k] for k in sorted(content["modality"], key=int)),
        {names[value]: value for value in sorted(names)},
        f"{archive.resolve().name} of the Medical Segmentation Decathlon: {content.get('description', task[2])}",
        content.get("licence", LICENCE),
        "; ".join(filter(None, (content.get("reference"), REFERENCE))),
    )
    return write_raw_dataset(dataset, _cases_of(archive, content, len(dataset.channel_names)))


def _read_description(archive: Path) -> dict[str, Any]:
    file = archive / "dataset.json"
    content = read_json(file)
    for key, is_right in {"labels": _is_numbered, "modality": _is_numbered, "training": _are_pairs}.items():
        if not isinstance(content, dict) or not is_right(content.get(key)):
            raise UserError(f"{file} has no {key} as the Decathlon writes them; unpack the archive again.")
    return dict(content)


def _is_numbered(names: Any) -> bool:
    """Whether these are names by number, such as ``{"0": "background", "1": "tumour"}``."""
    return isinstance(names, dict) and bool(names) and all(n.isdigit() for n in names)


def _are_pairs(entries: Any) -> bool:
    """Whether these are training cases, each with image and label."""
    return isinstance(entries, list) and bool(entries) and all(
        isinstance(e, dict) and all(isinstance(e.get(k), str) for k in ("image", "label")) for e in entries
    )


def _cases_of(archive: Path, content: dict[str, Any], num_channels: int) -> list[SourceCase]:
    """Training and test cases, as the task's ``dataset.json`` lists them."""
    cases = []
    for entry in content["training"]:
        image, label = archive / entry["image"], archive / entry["label"]
        require_files(_case_id(image), [image, label])
        cases.append(SourceCase(_case_id(image), partial(_write_case, image, label, num_channels)))
    for entry in content.get("test", []):
        image = archive / entry
        require_files(_case_id(image), [image])
        cases.append(SourceCase(_case_id(image), partial(_write_case, image, None, num_channels), has_label=False))
    return cases


def _case_id(image: Path) -> str:
    return image.name.removesuffix(ENDING)


def _write_case(image: Path, label: Path | None, num_channels: int, targets: Sequence[Path], target_label: Path) -> None:
    case_id = _case_id(image)
    if label:
        require_same_grid(case_id, [image, label])
        copy_file(label, target_label)
    if num_channels == 1:
        copy_file(image, targets[0])
        return
    for channel, target in zip(_split(case_id, read_volume(case_id, image), num_channels), targets, strict=True):
        write_volume(channel, target)


def _split(case_id: str, image: sitk.Image, num_channels: int) -> list[sitk.Image]:
    """The volumes of a four-dimensional image, with its place and voxel type."""
    size = image.GetSize()
    if len(size) != 4 or size[3] != num_channels:
        raise UserError(
            f"Case {case_id} of the archive has an image of size {size}; expected four dimensions, {num_channels} in the last."
        )
    return [sitk.Extract(image, (*size[:3], 0), (0, 0, 0, c)) for c in range(num_channels)]


def main(argv: Sequence[str] | None = None) -> None:
    """Command line: ``python -m nnunet_sbldm.dataset_conversion.convert_MSD_dataset -i FOLDER [-d ID]``."""
    parser = Parser(__doc__ or "")
    parser.add_argument("-i", required=True, type=Path, metavar="FOLDER", help=f"[REQUIRED] {STRUCTURE}")
    parser.add_argument("-d", type=count, metavar="ID", help="[OPTIONAL] Dataset id. Default: number of the task")
    args = parser.parse_args(argv)
    run(lambda: print(f"The dataset is ready: {convert(args.i, args.d)}"))


if __name__ == "__main__":
    main()
