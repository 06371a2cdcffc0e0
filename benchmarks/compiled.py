"""The compiled package: where it is, and whether it is made of the sources that are here."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

COMPILED = Path("build/compiled")
NAME = "fabric_compiled"


def lack(folder: Path = COMPILED, sources: Path = Path("fabric")) -> str | None:
    """Why it can't take part, or None."""
    if not any(folder.glob("fabric/*.so")):
        return "it is not built (make compiled)"
    for source in sources.rglob("*.py"):
        copy = folder / "fabric" / source.relative_to(sources)
        if not copy.exists() or copy.read_bytes() != source.read_bytes():
            return f"it was built of another {source} (make compiled)"
    return None


def environment_of(name: str, folder: Path = COMPILED) -> Mapping[str, str] | None:
    """What a side of this contestant is started with; None: with what we have.

    Python must not look into the current directory first then, for there is the package as it is written.
    """
    return {**os.environ, "PYTHONPATH": str(folder.resolve()), "PYTHONSAFEPATH": "1"} if name == NAME else None
