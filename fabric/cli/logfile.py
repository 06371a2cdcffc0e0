"""What a process wrote: one file a process, and the last lines of it for reports."""

from __future__ import annotations

import os
from pathlib import Path


def rotate(path: Path) -> None:
    """Keep the log of the run before as ``NAME.log.1``; there is one such, not a series."""
    if path.exists():
        path.replace(path.with_name(path.name + ".1"))


def tail(path: Path, *, lines: int = 40, max_bytes: int = 16_384) -> tuple[str, ...]:
    """The last ``lines`` lines within the last ``max_bytes`` bytes; empty when there is no file.

    Read from the end of the file, so that nothing is held in memory for processes that nobody asks about.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - max_bytes))
            text = file.read(max_bytes).decode("utf-8", errors="replace")
    except FileNotFoundError:
        return ()
    found = text.splitlines()
    if size > max_bytes and found:
        found = found[1:]
    return tuple(found[-lines:])
