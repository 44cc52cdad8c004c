"""Words for people: lists that stay short, numbers as they are read."""

from __future__ import annotations

from collections.abc import Sequence

MAX_NAMED = 10


def named(names: Sequence[str], most: int = MAX_NAMED) -> str:
    """Names for a sentence: the first few, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
