"""Look of the HTML reports."""

from __future__ import annotations

import base64
from pathlib import Path

STYLE = """
  body { font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; margin: 0;
         color: #1c2430; background: #f4f5f7; }
  main { max-width: 1180px; margin: 0 auto; padding: 28px 24px 60px; }
  h1 { font-size: 26px; margin: 0 0 4px; }
  h2 { font-size: 18px; margin: 38px 0 8px; border-bottom: 1px solid #d5d9e0; padding-bottom: 4px; }
  h3 { font-size: 15px; margin: 20px 0 4px; }
  p { margin: 6px 0 10px; max-width: 900px; }
  .lead { font-size: 17px; color: #414b5a; }
  .note { color: #58626f; font-size: 14px; }
  .warning { background: #fff6e0; border: 1px solid #e5c66e; border-radius: 8px; padding: 8px 16px; }
  .tiles { display: flex; flex-wrap: wrap; gap: 12px; margin: 18px 0 4px; }
  .tile { background: #fff; border: 1px solid #dfe3e9; border-radius: 8px; padding: 10px 16px; min-width: 150px; }
  .tile b { display: block; font-size: 22px; }
  .tile span { color: #667080; font-size: 13px; }
  img { width: 100%; height: auto; border-radius: 6px; display: block; margin: 8px 0; background: #000; }
  .scroll { overflow-x: auto; }
  table { border-collapse: collapse; background: #fff; border: 1px solid #dfe3e9; font-size: 14px; margin: 8px 0; }
  th, td { padding: 4px 12px; text-align: right; border-bottom: 1px solid #eceff3; }
  th { color: #667080; font-weight: 600; background: #fafbfc; }
  th:first-child, td:first-child { text-align: left; }
"""


def embedded(picture: Path | None) -> str:
    """A PNG as a data URI, or an empty string if there is none."""
    if picture is None or not picture.is_file():
        return ""
    return "data:image/png;base64," + base64.b64encode(picture.read_bytes()).decode()
