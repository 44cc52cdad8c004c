"""Several samples: a sequence that can be saved, shown and tabulated as a whole."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, overload

from nnunet_sbldm.api.display import html_picture, png_of, show
from nnunet_sbldm.api.sample import Sample, Scene
from nnunet_sbldm.common.pictures import PLANES, montage_figure, save_figure

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

MAX_CASES_SHOWN, CASES_PER_ROW, WIDTH_PX = 12, 2, 1200
MAX_EDITS_SHOWN, EDITS_WIDTH_PX = 8, 1800
MONTAGE = "montage.png"


class Samples(Sequence[Sample]):
    """Samples in the order of their seeds.

    Examples:
        >>> samples = SBLDM.load("hippocampus_t1").sample(2, seed=7)
        >>> [s.case_id for s in samples]
        ['sbldm_00007', 'sbldm_00008']
    """

    def __init__(self, samples: Iterable[Sample]) -> None:
        self._samples = tuple(samples)

    def __len__(self) -> int:
        return len(self._samples)

    def __iter__(self) -> Iterator[Sample]:
        return iter(self._samples)

    @overload
    def __getitem__(self, key: int) -> Sample: ...

    @overload
    def __getitem__(self, key: slice) -> Samples: ...

    def __getitem__(self, key: int | slice) -> Sample | Samples:
        return Samples(self._samples[key]) if isinstance(key, slice) else self._samples[key]

    def __repr__(self) -> str:
        accepted = sum(s.verdict.accepted for s in self)
        return f"<{len(self)} samples, of which the quality gate accepts {accepted}>"

    @property
    def table(self) -> pandas.DataFrame:
        """One row per sample: what was asked and obtained (columns ``asked`` and ``obtained``, then label, then condition)."""
        import pandas

        tables = {s.case_id: s.table[["asked", "obtained"]].unstack(["label", "condition"]) for s in self}
        return pandas.DataFrame(tables).T if tables else pandas.DataFrame()

    def save(self, folder: str | Path) -> Path:
        """Write every sample as :meth:`Sample.save` does, and a montage of the first few.

        Returns:
            The montage.
        """
        return write_samples(self, Path(folder))

    def figure(self) -> Figure:
        """The montage."""
        return montage_of([s.scene for s in self])

    def show(self) -> None:
        """Show :meth:`figure`: below the cell of a notebook, else in a window."""
        show(self.figure())

    def _repr_png_(self) -> bytes:
        return png_of(self.figure())

    def _repr_html_(self) -> str:
        return f"{html_picture(self.figure()) if self else ''}<p>{escape(repr(self))}</p>"


def write_samples(samples: Iterable[Sample], folder: Path) -> Path:
    """Write samples while they are made, and a montage of the first few; none of them is kept in memory.

    Returns:
        The montage.
    """
    folder.mkdir(parents=True, exist_ok=True)
    scenes: list[Scene] = []
    for sample in samples:
        sample.save(folder)
        if len(scenes) < MAX_CASES_SHOWN:
            scenes.append(sample.scene)
    save_figure(montage_of(scenes), folder / MONTAGE)
    return folder / MONTAGE


def montage_of(scenes: Sequence[Scene]) -> Figure:
    """The first few scenes: two whole cases in a row, or an edit in each with its host."""
    names = scenes[0].label_names if scenes else {}
    if any(len(s.panels) > 1 for s in scenes):
        return montage_figure([("", s.panels) for s in scenes[:MAX_EDITS_SHOWN]], names, PLANES, EDITS_WIDTH_PX)
    panels = [p for s in scenes[:MAX_CASES_SHOWN] for p in s.panels]
    rows = [("", panels[i : i + CASES_PER_ROW]) for i in range(0, len(panels), CASES_PER_ROW)]
    return montage_figure(rows, names, PLANES, WIDTH_PX)
