"""Write the phantom, made-up heads with a tumour of known size and place, as a dataset into ``nnUNet_raw``."""

from __future__ import annotations

import argparse
import sys

from nnunet_sbldm.nnunet import nnunet_folder
from nnunet_sbldm.phantom import PhantomConfig, write_phantom_dataset
from nnunet_sbldm.types import UserError


def main() -> int:
    """Command line: ``python -m nnunet_sbldm.dataset_conversion.Dataset900_Phantom [-d ID -n N -n_test N -seed S]``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-d", type=int, default=900, help="[OPTIONAL] Dataset id. Default: 900")
    parser.add_argument("-n", type=int, default=20, help="[OPTIONAL] Number of training cases. Default: 20")
    parser.add_argument("-n_test", type=int, default=4, help="[OPTIONAL] Number of test cases (imagesTs, labelsTs). Default: 4")
    parser.add_argument("-seed", type=int, default=0, help="[OPTIONAL] Seed of the series. Default: 0")
    args = parser.parse_args()
    try:
        folder = write_phantom_dataset(nnunet_folder("nnUNet_raw"), args.d, args.n, args.n_test, PhantomConfig(seed=args.seed))
    except UserError as e:
        print(e, file=sys.stderr)
        return 2
    print(f"{args.n} training and {args.n_test} test cases in {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
