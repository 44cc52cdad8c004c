"""Write the phantom, made-up heads with a tumour of known size and place, as a dataset into ``nnUNet_raw``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from nnunet_sbldm.common.commands import Parser, count, run, seed
from nnunet_sbldm.common.files import read_json
from nnunet_sbldm.data.paths import nnunet_folder
from nnunet_sbldm.data.phantom import CHANNELS, PhantomConfig, dataset_json, write_phantom_dataset
from nnunet_sbldm.dataset_conversion.raw_datasets import ENDING, dataset_folder
from nnunet_sbldm.types import UserError

FILE_ENDS = ("", *(f"_{c:04d}" for c in range(len(CHANNELS))))
"""Of a case: its label map and its images."""


def main(argv: Sequence[str] | None = None) -> None:
    """Command line: ``python -m nnunet_sbldm.dataset_conversion.Dataset900_Phantom [-d ID -n N -n_test N -seed S]``."""
    parser = Parser(__doc__ or "")
    parser.add_argument("-d", type=count, default=900, help="[OPTIONAL] Dataset id. Default: 900")
    parser.add_argument("-n", type=count, default=20, help="[OPTIONAL] Number of training cases. Default: 20")
    parser.add_argument("-n_test", type=seed, default=4, help="[OPTIONAL] Number of test cases (imagesTs, labelsTs). Default: 4")
    parser.add_argument("-seed", type=seed, default=0, help="[OPTIONAL] Seed of the series. Default: 0")
    args = parser.parse_args(argv)
    run(lambda: _write(args))


def _write(args: argparse.Namespace) -> None:
    folder, config = dataset_folder(args.d, "Phantom"), PhantomConfig(seed=args.seed)
    if not _is_there(folder, config, args.n, args.n_test):
        write_phantom_dataset(nnunet_folder("nnUNet_raw"), args.d, args.n, args.n_test, config)
    print(f"{args.n} training and {args.n_test} test cases in {folder}")


def _is_there(folder: Path, config: PhantomConfig, num_cases: int, num_test_cases: int) -> bool:
    """Whether the folder holds this phantom already; without ``dataset.json`` it may hold some of its cases.

    Raises:
        UserError: the folder holds something else.
    """
    truth, is_complete = folder / "phantom_truth.json", (folder / "dataset.json").is_file()
    if is_complete and read_json(folder / "dataset.json") == dataset_json(config, num_cases) and truth.is_file():
        known = read_json(truth)
        if known["config"] == json.loads(json.dumps(asdict(config))) and len(known["cases"]) == num_cases + num_test_cases:
            return True
    ids = {f"phantom_{i:03d}{end}" for i in range(num_cases + num_test_cases) for end in FILE_ENDS}
    if is_complete or any(f.name.removesuffix(ENDING) not in ids for f in folder.glob(f"*/*{ENDING}")):
        raise UserError(
            f"{folder} holds other cases than the {num_cases} for training and {num_test_cases} for testing of seed "
            f"{config.seed}; choose another id with -d, or remove it."
        )
    return False


if __name__ == "__main__":
    main()
