"""The scripts in benchmarks/: each answers -h, so none imports what has moved or gone."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.parametrize("script", sorted(p.name for p in BENCHMARKS.glob("*.py")))
def test_a_script_answers_help(script, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [script, "-h"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(BENCHMARKS / script), run_name="__main__")
    assert end.value.code == 0
    assert f"usage: {script}" in capsys.readouterr().out


@pytest.mark.parametrize("script", sorted(p.name for p in BENCHMARKS.glob("*.sh")))
def test_a_shell_script_answers_help(script):
    done = subprocess.run(["sh", BENCHMARKS / script, "-h"], capture_output=True, text=True)
    assert done.returncode == 0
    assert f"benchmarks/{script} " in done.stdout
