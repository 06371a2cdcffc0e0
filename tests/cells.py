"""Instances of one service as processes of their own, started by ``fabric run``, which a test may kill with -9."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
import uuid
from asyncio.subprocess import Process
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from fabric import Service, on_event, rpc

ROOT = Path(__file__).parents[1]


class Cell(Service):
    """Writes into a book of its own in ``CELL_FOLDER`` what it begins, before it begins it, in a form that outlives a kill."""

    name = "cell"

    def __init__(self) -> None:
        folder = Path(os.environ["CELL_FOLDER"])
        self._book = os.open(folder / f"{uuid.uuid4().hex}.book", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._gate = folder / "gate"

    def _note(self, word: str, id: str) -> None:
        os.write(self._book, f"{word} {id} {self.hub.instance}\n".encode())

    async def stop(self) -> None:
        os.close(self._book)

    @rpc(idempotent=True)
    async def safe(self, id: str) -> str:
        await asyncio.sleep(0.002)
        return id

    @rpc()
    async def unsafe(self, id: str) -> str:
        self._note("ran", id)
        await asyncio.sleep(0.002)
        return id

    async def _hold(self, id: str) -> None:
        """Until the test opens the gate."""
        self._note("held", id)
        while not self._gate.exists():
            await asyncio.sleep(0.05)
        self._note("done", id)

    @rpc(concurrency=50, reserved=0)
    async def hold(self, id: str) -> str:
        await self._hold(id)
        return self.hub.instance

    @rpc()
    async def burn(self, seconds: float) -> str:
        """Leave the processor, and with it the loop, to nobody else."""
        self._note("burning", "0")
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            sum(range(1000))
        return "ashes"

    @on_event("cell.work", concurrency=50)
    async def work(self, id: str) -> None:
        await self._hold(id)


class Cells:
    """The processes of one test, on one broker.

    Attributes:
        running: by instance id.
    """

    def __init__(self, url: str, namespace: str, folder: Path, **settings: str) -> None:
        """``settings``: further variables of their environment."""
        self._folder = folder
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("FABRIC_")},
            "FABRIC_BROKER_URL": url,
            "FABRIC_NAMESPACE": namespace,
            "CELL_FOLDER": str(folder),
            **settings,
        }
        self.running: dict[str, Process] = {}

    async def start(self, instance: str) -> Process:
        """It may take a second or two until it takes calls."""
        with (self._folder / f"{instance}.log").open("ab") as log:
            self.running[instance] = process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "fabric.cli", "run", "tests.cells:Cell"),
                cwd=ROOT,
                env={**self._environment, "FABRIC_INSTANCE": instance},
                stdout=log,
                stderr=log,
            )
        return process

    async def kill(self, instance: str) -> None:
        process = self.running.pop(instance)
        process.kill()
        await process.wait()

    def terminate(self, instance: str) -> Process:
        process = self.running.pop(instance)
        process.send_signal(signal.SIGTERM)
        return process

    def open_gate(self) -> None:
        """What is held may end."""
        (self._folder / "gate").touch()

    def noted(self, word: str) -> Counter[str]:
        """How often each id was written down as that."""
        return Counter(id for said, id, _ in self._lines() if said == word)

    def where(self, word: str) -> Mapping[str, str]:
        """The instance that wrote each id down as that; one of them, where it were several."""
        return {id: instance for said, id, instance in self._lines() if said == word}

    def _lines(self) -> list[list[str]]:
        """What a kill left half written was not begun."""
        books = [book.read_text() for book in self._folder.glob("*.book")]
        return [line.split(" ") for book in books for line in book.split("\n")[:-1]]

    async def aclose(self) -> None:
        for instance in list(self.running):
            if self.running[instance].returncode is None:
                await self.kill(instance)


@asynccontextmanager
async def cells(url: str, namespace: str, folder: Path, **settings: str) -> AsyncIterator[Cells]:
    """None yet; whatever runs at the end is killed."""
    made = Cells(url, namespace, folder, **settings)
    try:
        yield made
    finally:
        await made.aclose()
