"""The broker's URL in a file, as Docker and Kubernetes hand over secrets."""

from __future__ import annotations

from collections.abc import MutableMapping
from pathlib import Path

from fabric.errors import ConfigurationError

VARIABLE = "FABRIC_BROKER_URL"
FILE_VARIABLE = "FABRIC_BROKER_URL_FILE"


def read(file: str | Path) -> str:
    """The URL in ``file``.

    Raises:
        ConfigurationError: unreadable, or not one line. What it holds is not repeated.
    """
    try:
        text = Path(file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ConfigurationError(f"{FILE_VARIABLE}: can't read {str(file)!r}: {why}") from None
    if not text or len(text.split()) != 1:
        raise ConfigurationError(f"{FILE_VARIABLE}: {str(file)!r} must hold one line, the broker's URL")
    return text


def adopt(environment: MutableMapping[str, str]) -> None:
    """Where a file is named, put its URL in the place of any other, for all that knows only ``FABRIC_BROKER_URL``."""
    if file := environment.pop(FILE_VARIABLE, ""):
        environment[VARIABLE] = read(file)
