"""Names in a sentence, as many as one reads."""

from __future__ import annotations

from collections.abc import Sequence

SOME = 12


def some(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - SOME:,} more" if len(names) > SOME else ""
    return ", ".join(names[:SOME]) + more
