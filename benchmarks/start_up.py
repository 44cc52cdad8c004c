"""Seconds until ``--help`` answers, for every command, and to import the package: median of five.

python benchmarks/start_up.py
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from importlib.metadata import entry_points
from pathlib import Path

RUNS = 5


def median_seconds(command: list[str]) -> float:
    """Median wall-clock time of a command, after one run that is not counted."""
    seconds = []
    for _ in range(RUNS + 1):
        start = time.monotonic()
        subprocess.run(command, check=True, capture_output=True)
        seconds.append(time.monotonic() - start)
    return statistics.median(seconds[1:])


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    names = sorted(e.name for e in entry_points(group="console_scripts") if e.value.startswith("nnunet_sbldm"))
    for name in names:
        print(f"{name + ' --help':32s} {median_seconds([str(Path(sys.executable).parent / name), '--help']):.2f} s")
    bare = median_seconds([sys.executable, "-c", "pass"])
    package = median_seconds([sys.executable, "-c", "import nnunet_sbldm"])
    print(f"{'import nnunet_sbldm':32s} {package - bare:.2f} s beyond bare Python")


if __name__ == "__main__":
    main()
