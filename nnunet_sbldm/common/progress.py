"""How far long work is, our own and that of child processes: on a terminal a bar with the time left, elsewhere a line per 5 %."""

from __future__ import annotations

import re
import shutil
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TextIO, TypeVar

from tqdm import tqdm

T = TypeVar("T")
STEP_PERCENT = 5
MIN_SECONDS_BETWEEN_LINES = 1.0
"""Work that is done within seconds has one line."""
SECONDS_BETWEEN_UNNUMBERED = 60.0
"""Children that do not say how much there is to do are quoted once a minute."""
BAR_INTERVAL_S = 0.5


def progress(
    items: Iterable[T], title: str, total: int | None = None, unit: str = "case", initial: int = 0, is_shown: bool = True
) -> Iterator[T]:
    """Pass items on, and show how many of them are worked off.

    Args:
        items: what is worked off.
        title: what is done, in a word or two.
        total: number of items, with those done earlier. Default: ``len(items)``.
        unit: what an item is, in the singular.
        initial: items that were done earlier.
        is_shown: whether anything is shown.
    """
    with Progress(title, len(items) if total is None else total, unit, initial, is_shown) as shown:  # type: ignore[arg-type]
        for item in items:
            yield item
            shown.update()


class Progress:
    """Progress of work that says itself what it has done, on standard error; see :func:`progress`."""

    def __init__(self, title: str, total: int, unit: str = "case", initial: int = 0, is_shown: bool = True) -> None:
        on_terminal = sys.stderr.isatty()
        self._bar = tqdm(total=total, desc=title, unit=unit, initial=initial, disable=not is_shown or not on_terminal,
                         mininterval=BAR_INTERVAL_S)
        self._lines = _Lines(title, total, unit, initial) if is_shown and not on_terminal else None

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.close()

    def update(self, number: int = 1) -> None:
        """So many more are done."""
        self._bar.update(number)
        if self._lines:
            self._lines.update(number)


def say(text: str) -> None:
    """Print a line, above the bar if there is one."""
    tqdm.write(text)


class _Lines:
    def __init__(self, title: str, total: int, unit: str, initial: int) -> None:
        self._title, self._total, self._unit, self._initial, self._done = title, total, unit, initial, initial
        self._begin = time.monotonic()
        self._shown_at, self._shown = self._begin, self._percent

    @property
    def _percent(self) -> int:
        return 100 * self._done // max(self._total, 1)

    def update(self, number: int) -> None:
        self._done += number
        now, is_over = time.monotonic(), self._done >= self._total
        is_next = self._percent // STEP_PERCENT > self._shown // STEP_PERCENT
        if is_over or is_next and now - self._shown_at >= MIN_SECONDS_BETWEEN_LINES:
            self._shown_at, self._shown = now, self._percent
            print(self._text(now - self._begin), file=sys.stderr, flush=True)

    def _text(self, seconds: float) -> str:
        left = seconds * (self._total - self._done) / max(self._done - self._initial, 1)
        spent = f"{tqdm.format_interval(seconds)} spent, {tqdm.format_interval(left)} left"
        return f"{self._title}: {self._percent} % ({self._done} of {self._total} {self._unit}s, {spent})"


# --- child processes -----------------------------------------------------------------------------------------------

OURS = re.compile(r"^(?P<title>.+): (?P<percent>\d+) % \(.*\)$")
BAR = re.compile(r"^(?P<title>[^|:]*\w[^|:]*): +(?P<percent>\d+)%\|.*\|(?P<rest>.*)$")
NNUNET = re.compile(r"(?:^|: )(?P<title>Epoch|[Pp]redicting) (?P<what>\S+?):?$")
"""Our lines, tqdm's bars, and what nnU-Net prints while it trains and predicts."""


@dataclass(frozen=True)
class Report:
    """What a child process said of its progress.

    Attributes:
        title: what it does.
        percent: how much of it is done; None if it does not say.
        text: in its words, in one line.
    """

    title: str
    percent: int | None
    text: str


def report_in(line: str) -> Report | None:
    """What a line that a process has printed says of its progress; None if it is about something else."""
    line = line.strip()
    if found := OURS.match(line):
        return Report(found["title"], int(found["percent"]), line)
    if found := BAR.match(line):
        return Report(found["title"], int(found["percent"]), f"{found['title']}: {found['percent']} % ({found['rest'].strip()})")
    if found := NNUNET.search(line):
        return Report(found["title"], None, f"{found['title']} {found['what']}")
    return None


class LogTail:
    """Reads what a process adds to its log.

    Attributes:
        last: what it last said of its progress; None before it did.
    """

    def __init__(self, path: Path) -> None:
        self.last: Report | None = None
        self._path, self._offset = path, 0
        self._due_from, self._passed_on = 0.0, Report("", None, "")

    def refresh(self) -> Report | None:
        """Read on; what is to be printed where there is no terminal: of every 5 % the first line, or one a minute."""
        with open(self._path, "rb") as file:
            file.seek(self._offset)
            complete = file.read().replace(b"\r", b"\n").rpartition(b"\n")[0]
        self._offset += len(complete) + 1 if complete else 0
        reports = [r for line in complete.decode(errors="replace").split("\n") if (r := report_in(line))]
        if not reports:
            return None
        self.last = reports[-1]
        return self.last if self._is_due(self.last) else None

    def _is_due(self, report: Report) -> bool:
        before, now = self._passed_on, time.monotonic()
        if report.percent is None:
            is_due = now >= self._due_from
        else:
            is_due = report.title != before.title or report.percent // STEP_PERCENT > (before.percent or 0) // STEP_PERCENT
        if is_due:
            self._passed_on, self._due_from = report, now + SECONDS_BETWEEN_UNNUMBERED
        return is_due


class LiveLine:
    """A line on a terminal that is written over; where there is none, nothing is shown."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._text = stream, ""
        self.is_shown = stream.isatty()

    def show(self, text: str) -> None:
        """Write over what was shown."""
        text = text[: shutil.get_terminal_size().columns - 1]
        if self.is_shown and text != self._text:
            self._stream.write(f"\r{text.ljust(len(self._text))}")
            self._stream.flush()
            self._text = text

    def clear(self) -> None:
        """Make room for an ordinary line."""
        if self._text:
            self.show("")
            self._stream.write("\r")
            self._stream.flush()
