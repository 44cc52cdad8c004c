"""Words for people: lists that stay short, numbers as they are read."""

from __future__ import annotations

from collections.abc import Sequence

MAX_CASES_NAMED = 10


def named(case_ids: Sequence[str]) -> str:
    """Case ids for a sentence: the first ten, and how many more there are."""
    more = f" and {len(case_ids) - MAX_CASES_NAMED} more" if len(case_ids) > MAX_CASES_NAMED else ""
    return ", ".join(case_ids[:MAX_CASES_NAMED]) + more
