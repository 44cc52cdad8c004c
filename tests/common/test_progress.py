"""Progress of our own work and of child processes."""

import io
import re
import sys

import pytest

from nnunet_sbldm.common import progress as progress_module
from nnunet_sbldm.common.progress import LiveLine, LogTail, Progress, progress, report_in

BAR = "Collecting results:  45%|#####     | 9/20 [00:10<00:12,  1.02s/it]"


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def unhurried(monkeypatch):
    """Lines are not left out because they come soon after another."""
    monkeypatch.setattr(progress_module, "MIN_SECONDS_BETWEEN_LINES", 0.0)


def lines_of(items, capfd, **more):
    assert list(progress(items, "reading", **more)) == list(items)
    return capfd.readouterr().err.splitlines()


def test_without_a_terminal_there_is_a_line_per_five_percent(capfd, unhurried):
    lines = lines_of(range(200), capfd)
    assert [int(re.search(r"(\d+) %", line)[1]) for line in lines] == list(range(5, 101, 5))
    assert re.fullmatch(r"reading: 5 % \(10 of 200 cases, 00:00 spent, 00:00 left\)", lines[0])
    assert [report_in(line).percent for line in lines] == list(range(5, 101, 5)), "runners pass these lines on"
    assert len(lines_of(range(3), capfd)) == 3


def test_work_of_a_moment_has_one_line_and_none_if_there_is_nothing_to_do(capfd):
    assert len(lines_of(range(200), capfd)) == 1
    assert lines_of([], capfd) == []
    assert lines_of(range(200), capfd, is_shown=False) == []


def test_work_that_goes_on_counts_what_was_done_before(capfd, unhurried):
    lines = lines_of(range(10), capfd, total=20, initial=10, unit="step")
    assert re.match(r"reading: 55 % \(11 of 20 steps", lines[0])
    assert len(lines) == 10


def test_on_a_terminal_there_is_a_bar_and_no_line(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with Progress("reading", 4) as shown:
        shown.update(4)
    assert "reading: 100%|" in terminal.getvalue()
    assert "4 of 4" not in terminal.getvalue()


@pytest.mark.parametrize(("line", "title", "percent"), [
    ("denoiser: 45 % (540 of 1200 steps, 04:30 spent, 05:30 left)", "denoiser", 45),
    (BAR, "Collecting results", 45),
    ("2026-11-29 06:10:13.451588: Epoch 7", "Epoch", None),
    ("predicting phantom_003", "predicting", None),
    ("Predicting phantom_022:", "Predicting", None),
])
def test_lines_that_tell_of_progress(line, title, percent):
    report = report_in(line)
    assert (report.title, report.percent) == (title, percent)


@pytest.mark.parametrize("line", [
    "2026-11-29 06:10:29: synthetic share of drawn cases: 24 % (asked 0.25", "  0%|          | 0/1 [00:00<?, ?it/s]", "",
    "Epoch time: 16.94 s", "train_loss -0.9", "error: 5 % missing",
])
def test_lines_that_tell_of_something_else(line):
    assert report_in(line) is None


def test_the_tail_of_a_log_is_passed_on_at_every_five_percent(tmp_path):
    log = tmp_path / "log"
    log.write_bytes(b"")
    tail, passed_on = LogTail(log), []
    with open(log, "a") as file:
        for percent in range(0, 101):
            file.write(f"\rreading: {percent:3d}%|##| {percent}/100 [00:10<00:12,  1.02s/it]")
            file.flush()
            report = tail.refresh()
            passed_on += [report.percent] if report else []
    assert passed_on == list(range(0, 100, 5))
    assert tail.last.text == "reading: 99 % (99/100 [00:10<00:12,  1.02s/it])"


def test_what_has_no_percentage_is_passed_on_once_a_minute(tmp_path, monkeypatch):
    log, now = tmp_path / "log", [100.0]
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: now[0])
    log.write_text("")
    tail, passed_on = LogTail(log), []
    for epoch in range(130):
        with open(log, "a") as file:
            file.write(f"Epoch {epoch}\n")
        report, now[0] = tail.refresh(), now[0] + 1
        passed_on += [report.text] if report else []
    assert passed_on == ["Epoch 0", "Epoch 60", "Epoch 120"]


def test_a_live_line_is_written_over_and_leaves_nothing():
    terminal, file = Terminal(), io.StringIO()
    for stream in (terminal, file):
        line = LiveLine(stream)
        line.show("a long text")
        line.show("short")
        line.clear()
    assert terminal.getvalue() == "\ra long text\rshort      \r     \r"
    assert file.getvalue() == ""
