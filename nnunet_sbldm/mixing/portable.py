"""Checkpoints that stock nnU-Net predicts with, on machines without this package.

nnU-Net looks up the trainer that a checkpoint names, only to have it build the network. The network of our trainers is
that of the nnU-Net trainer below them, so the checkpoint may name that one; ``checkpoint["sbldm"]`` keeps the name of the trainer
that trained it. Training goes on from such a checkpoint (``--c``) as from any other, since nnU-Net does not read the name then.
"""

from __future__ import annotations

from pathlib import Path

import torch

from nnunet_sbldm import __version__
from nnunet_sbldm.common.files import write_atomically

STOCK_PACKAGE = "nnunetv2."


def portable_name(trainer: type) -> str | None:
    """Name of the trainer of nnU-Net itself that builds the same network, or None if there is none."""
    stock = next((c for c in trainer.__mro__ if c.__module__.startswith(STOCK_PACKAGE)), None)
    if stock is None or _network_builder(trainer) is not _network_builder(stock):
        return None
    return stock.__name__


def _network_builder(trainer: type) -> object:
    return getattr(trainer, "build_network_architecture", None)


def make_portable(file: Path, trainer: type) -> bool:
    """Let a checkpoint of ``trainer`` name the nnU-Net trainer that builds the same network.

    Returns:
        Whether it does; False if there is no such checkpoint or no such trainer.
    """
    name = portable_name(trainer)
    if name is None or not file.is_file():
        return False
    checkpoint = torch.load(file, map_location="cpu", weights_only=False)
    checkpoint |= {"trainer_name": name, "sbldm": {"trainer_name": trainer.__name__, "nnunet_sbldm": __version__}}
    write_atomically(file, lambda tmp: torch.save(checkpoint, tmp))
    return True
