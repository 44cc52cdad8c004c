"""The processes of a training on several GPUs: how many there are, and the ring that those of one machine share."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

from torch import distributed


def share_ring(ring: Path | None) -> Path:
    """Tell the other ranks on this machine which ring its first rank has made."""
    rings: list[Any] = [(socket.gethostname(), ring)]
    if num_ranks() > 1:
        rings = [None] * num_ranks()
        distributed.all_gather_object(rings, (socket.gethostname(), ring))
    return next(r for host, r in rings if r is not None and host == socket.gethostname())


def num_ranks() -> int:
    """How many processes train together."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1
