"""Standard output: for people or, with --json, for programs."""

from __future__ import annotations

import json
import sys
from typing import Any


def write(text: str) -> None:
    """Text for people, and everything that a later program reads line by line."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def write_json(value: Any) -> None:
    """One JSON document, indented where a person looks at it."""
    write(json.dumps(value, indent=2 if sys.stdout.isatty() else None, ensure_ascii=False, default=str))
