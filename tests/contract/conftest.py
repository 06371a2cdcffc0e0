"""M34 (faststream#1110, #2513): runs each test of the suite on every kind of broker, with the same results on each.

The same is done to whole hubs in ``tests/integration/conftest.py``."""

from __future__ import annotations

import importlib.util
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.contract.backends import Ability, Backend, EmbeddedBackend, MemoryBackend

_AMQP = "tests.contract.backend_amqp"
_KINDS = ["memory", "embedded"]
if importlib.util.find_spec(_AMQP):
    _KINDS.append("amqp")


@pytest.fixture(params=[pytest.param(kind, marks=pytest.mark.broker if kind == "amqp" else ()) for kind in _KINDS])
def kind(request: pytest.FixtureRequest) -> str:
    name = str(request.param)
    if name == "amqp":
        # Before the event loop of the test runs: starting a broker blocks.
        request.getfixturevalue("broker")
    return name


@pytest.fixture
def socket_path() -> Iterator[Path]:
    """Short, as the paths of sockets must be."""
    with TemporaryDirectory(prefix="fabric-") as folder:
        yield Path(folder) / "broker"


@pytest.fixture
async def backend(kind: str, request: pytest.FixtureRequest) -> AsyncIterator[Backend]:
    async with _opened(kind, request) as opened:
        marker = request.node.get_closest_marker("needs")
        for ability in marker.args if marker else ():
            if ability in opened.missing:
                pytest.skip(f"{kind} can't {Ability(ability)}: {opened.missing[ability]}")
        yield opened


def _opened(kind: str, request: pytest.FixtureRequest) -> AbstractAsyncContextManager[Backend]:
    if kind == "memory":
        return MemoryBackend()
    if kind == "embedded":
        return EmbeddedBackend(request.getfixturevalue("socket_path"))
    opened: AbstractAsyncContextManager[Backend] = import_module(_AMQP).open_backend(request)
    return opened


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "needs(*abilities): skipped on a broker that lacks one of them")
