"""The dataset that nnU-Net's loader draws from: real and synthetic cases, with a share that may change while it trains.

nnU-Net's loader takes ``dataset.identifiers`` once and draws ids from it uniformly, with replacement, for every batch, in
background workers that hold copies of it. Here ``identifiers`` is an object that becomes an array of ids whenever the loader
draws. Each real id stands there a times and each synthetic id b times, which sets the share of synthetic ids; the ratio asked
lies in memory that all workers share. Nothing else of the loader is touched.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from nnunet_sbldm.types import UserError

SHARE_STEPS = 20
"""The share of synthetic ids in one batch's table is a multiple of one over this; what that rounds off, later batches pay."""

SHARE_TOLERANCE = 0.005
"""Largest deviation of the share of synthetic ids in a table from that multiple."""

MAX_VANISHED = 10
"""Synthetic cases tried in place of one that has vanished, before a real case stands in."""

LoadedCase = tuple[Any, Any, Any, dict[str, Any]]
"""What nnU-Net's datasets load: image [C, D, H, W], segmentation [1, D, H, W], that of the previous stage, and properties."""


class CaseSource(Protocol):
    """What nnU-Net's loader asks of a dataset."""

    @property
    def identifiers(self) -> Sequence[str]:
        """Ids of the cases."""
        ...

    def load_case(self, identifier: str) -> LoadedCase:
        """Load a case."""
        ...


class SyntheticSource(CaseSource, Protocol):
    """Where synthetic cases come from while nnU-Net trains.

    ``identifiers`` is looked at before every batch: cases may come and go, and while there are none, real cases alone are drawn.
    ``load_case`` raises FileNotFoundError for a case that has gone since it was drawn. Background workers use a copy,
    pickled where they are not forked, for these two. ``str()`` says in a few words what it is.
    """

    def start(self) -> None:
        """Begin to work; called once, before the network is built, on every rank."""
        ...

    def stop(self) -> None:
        """End all work; called at the end of training, however it ends."""
        ...

    def epoch_report(self) -> dict[str, Any]:
        """What happened since the last report, as JSON; empty if there is nothing to say."""
        ...


class ReadySource:
    """Base of sources that have nothing to do while training runs: their cases are there from the start."""

    def start(self) -> None:
        """Nothing to begin."""

    def stop(self) -> None:
        """Nothing to end."""

    def epoch_report(self) -> dict[str, Any]:
        """Nothing to say."""
        return {}


class MixedDataset:
    """Real and synthetic cases behind the interface of nnU-Net's datasets.

    Attributes:
        identifiers: what the loader draws from, see :class:`DrawingTable`.
    """

    def __init__(self, real: CaseSource, synthetic: CaseSource | None, ratio: float) -> None:
        """Mix real and synthetic cases.

        Args:
            real: the real training cases.
            synthetic: the synthetic cases; None trains on real cases alone, whatever the ratio.
            ratio: share of synthetic draws, until it is changed by :meth:`set_ratio`.

        Raises:
            UserError: a synthetic case has the id of a real one (now, or when one is added later).
        """
        self._real, self._synthetic = real, synthetic
        self._ratio = torch.tensor([ratio], dtype=torch.float64).share_memory_()  # seen by forked and spawned workers alike
        self.identifiers = DrawingTable(real.identifiers, synthetic, self._ratio)
        list(self.identifiers)  # checks them

    def set_ratio(self, ratio: float) -> None:
        """Change the share of synthetic draws, in all workers; batches that wait in the loader's queues stay as they are."""
        self._ratio[0] = ratio

    def load_case(self, identifier: str) -> LoadedCase:
        """Load one case from where it belongs; in place of one that has vanished another one of its kind."""
        is_real = identifier in self.identifiers.real_ids
        self.identifiers.record(not is_real)
        if is_real:
            return self._real.load_case(str(identifier))
        assert self._synthetic is not None  # without synthetic cases only real ones are drawn
        for _ in range(MAX_VANISHED):
            try:
                return self._synthetic.load_case(str(identifier))
            except FileNotFoundError:
                left = self._synthetic.identifiers
                if len(left) == 0:
                    break
                identifier = np.random.choice(left)
        return self._real.load_case(str(np.random.choice(self._real.identifiers)))


class DrawingTable:
    """What nnU-Net's loader draws case ids from; numpy makes an array of it for every batch.

    Iterating gives each id that can be drawn at the moment once. The array, [N] str, holds the real ids first, each of them
    equally often, then the synthetic ids, sorted, each of them equally often. Their share there is the ratio, corrected by what
    earlier batches drew too many or too few: over n draws the share stays within a few draws of the ratio, where independent
    draws would stray by the order of the square root of n.
    """

    def __init__(self, real_ids: Sequence[str], synthetic: CaseSource | None, ratio: torch.Tensor) -> None:
        """Draw from ``real_ids`` and from what ``synthetic`` has at the moment, with the share that ``ratio`` [1] holds."""
        self._real, self._synthetic, self._ratio = tuple(map(str, real_ids)), synthetic, ratio
        self.real_ids = frozenset(self._real)
        self._asked = self._owed = 0.0  # the ratio of the last batch, and the synthetic draws that are due since it holds
        self._num_drawn = 0  # in the last batch
        self._made_of: tuple[float, tuple[str, ...]] = (0.0, ())
        self._table = self._make_table(*self._made_of)

    def record(self, is_synthetic: bool) -> None:
        """Note one draw."""
        self._owed += self._asked - is_synthetic
        self._num_drawn += 1

    def _synthetic_ids(self) -> tuple[str, ...]:
        wanted = self._synthetic is not None and float(self._ratio) > 0
        ids = tuple(self._synthetic.identifiers) if wanted and self._synthetic is not None else ()
        if ids != self._made_of[1] and (clashes := sorted(self.real_ids.intersection(ids))):
            raise UserError(f"{len(clashes)} synthetic case(s) have the id of a real one ({', '.join(clashes[:5])}): "
                            "rename the real case(s).")
        return ids

    def _next_share(self) -> float:
        """Share of synthetic ids for the next batch: what is owed is paid within a batch as long as the last one."""
        ratio = float(self._ratio)
        if ratio != self._asked:
            self._asked, self._owed = ratio, 0.0
        share = ratio + self._owed / max(1, self._num_drawn)
        self._num_drawn = 0
        return min(1.0, max(0.0, round(share * SHARE_STEPS) / SHARE_STEPS))

    def _make_table(self, share: float, synthetic: Sequence[str]) -> NDArray[np.str_]:
        real_copies, synthetic_copies = multiplicities(len(self._real), len(synthetic), share)
        return np.array([*self._real * real_copies, *sorted(synthetic) * synthetic_copies], dtype=str)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        share, synthetic = self._next_share(), self._synthetic_ids()
        if not synthetic:
            share = self._owed = 0.0
        if (share, synthetic) != self._made_of:
            self._table, self._made_of = self._make_table(share, synthetic), (share, synthetic)
        return np.array(self._table, dtype) if copy or dtype is not None else self._table

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __iter__(self) -> Iterator[str]:
        synthetic = self._synthetic_ids()
        yield from () if synthetic and float(self._ratio) == 1 else self._real
        yield from sorted(synthetic)


def multiplicities(num_real: int, num_synthetic: int, share: float) -> tuple[int, int]:
    """How often to list each real and each synthetic id so that the share of synthetic ones is ``share``.

    The smallest pair (a, b) with ``|b S / (a R + b S) - share| <= SHARE_TOLERANCE`` for R real and S synthetic cases.
    One of the two is at most 25: rounding the larger to an integer when the smaller is k moves the share by at most
    ``share (1 - share) / 2k <= 1 / 8k``.
    """
    if share == 0 or num_synthetic == 0:
        return 1, 0
    if share == 1:
        return 0, 1
    exact = share / (1 - share) * num_real / num_synthetic  # b / a
    k = 0
    while True:
        k += 1
        a, b = (k, round(k * exact)) if exact >= 1 else (round(k / exact), k)
        if abs(b * num_synthetic / (a * num_real + b * num_synthetic) - share) <= SHARE_TOLERANCE:
            return a, b
