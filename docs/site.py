"""Builds the site: copies the pages as they lie in the repository, then runs Zensical; a broken link fails it.

``pip install '.[docs]' && python docs/site.py`` writes ``build/site/index.html``.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGES = ROOT / "build" / "pages"
PATTERNS = (
    "*.md", "CITATION.cff", "docs/**/*.md", "docs/images/*", "docs/reference/*.json", "examples/*.ipynb",
    "benchmarks/**/README.md",
)


def stage() -> None:
    """Copy the pages and pictures into ``build/pages``."""
    shutil.rmtree(PAGES, ignore_errors=True)
    for file in (file for pattern in PATTERNS for file in sorted(ROOT.glob(pattern))):
        copy = PAGES / file.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)


if __name__ == "__main__":
    stage()
    sys.exit(subprocess.run(["zensical", "build", "--clean", "--strict"], cwd=ROOT, check=False).returncode)
