"""Sockets for the tests of the embedded broker."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest


@pytest.fixture
def socket_path() -> Iterator[Path]:
    """Short, as the paths of sockets must be."""
    with TemporaryDirectory(prefix="fabric-") as folder:
        yield Path(folder) / "broker"
