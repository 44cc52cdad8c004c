"""Random streams: every number that is drawn for a case comes from the case's own seed."""

from __future__ import annotations

import numpy as np


def derived_seed(seed: int, number: int) -> int:
    """The ``number``-th further seed of a sample."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)[0] >> 1)
