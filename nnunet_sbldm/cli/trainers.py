"""``sbldm_trainers``: the folder of our trainers, for nnU-Net's ``nnUNet_extTrainer``."""

from __future__ import annotations

import os
from collections.abc import Sequence

from nnunet_sbldm.common.commands import Parser, run
from nnunet_sbldm.types import UserError


def trainers_entry(argv: Sequence[str] | None = None) -> None:
    """``sbldm_trainers``: print the folder for nnU-Net's ``nnUNet_extTrainer``."""
    parser = Parser('Print the folder of our trainers: export nnUNet_extTrainer="$(sbldm_trainers)".')
    parser.parse_args(argv)

    def main() -> None:
        from importlib.util import find_spec

        spec = find_spec("nnunet_sbldm.trainers")
        if spec is None or not spec.submodule_search_locations:
            raise UserError("The trainers are not installed; install the package with pip.")
        print(os.path.abspath(spec.submodule_search_locations[0]))

    run(main)
