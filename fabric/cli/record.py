"""The directory of a running fleet, ``.fabric/NAME/``: its lock, its logs, and what other commands need to reach it.

The record may hold a broker's password, so it is readable by its owner only.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from fabric.errors import ConfigurationError, StartupError

_LONGEST_SOCKET_PATH = 100
"""The kernel takes 108 bytes on Linux and 104 on macOS."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A fleet that ``fabric up`` runs.

    Attributes:
        path: of the fleet file.
        root: the directory that ``.fabric`` is in.
        pid: of the supervisor; a SIGTERM to it stops the fleet in order.
        started_at: seconds since 1970.
        processes: process ids by instance.
    """

    fleet: str
    path: str
    root: str
    namespace: str
    broker_url: str = field(repr=False)
    pid: int
    started_at: float
    processes: Mapping[str, int] = field(default_factory=dict)


class FleetDirectory:
    """``.fabric/NAME/`` below ``root``."""

    def __init__(self, root: Path, fleet: str) -> None:
        self.fleet = fleet
        self.path = root / ".fabric" / fleet

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def history(self) -> Path:
        """The profiles of its runs, see ``fabric.startup.history``; there from its first run on, also when nothing runs."""
        return self.path / "history.sqlite3"

    @contextlib.contextmanager
    def claim(self) -> Iterator[None]:
        """Be the only supervisor of this fleet here, as long as the context lasts, even if it ends by a kill.

        Raises:
            ConfigurationError: another one runs.
        """
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        ignored = self.path.parent / ".gitignore"
        if not ignored.exists():
            ignored.write_text("*\n")
        with (self.path / "lock").open("w") as lock:
            if not _take(lock.fileno(), fcntl.LOCK_EX):
                record = self.read()
                who = f"by process {record.pid}" if record else "already"
                raise ConfigurationError(f"the fleet {self.fleet} is run {who} from this directory; `fabric down` stops it")
            try:
                yield
            finally:
                (self.path / "state.json").unlink(missing_ok=True)

    def write(self, record: Record) -> None:
        """Replace the record in one step, so that nobody reads half of it."""
        part = self.path / "state.json.part"
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            json.dump(asdict(record), file)
        part.replace(self.path / "state.json")

    def read(self) -> Record | None:
        """The record, or None when there is none that this version understands."""
        try:
            return Record(**json.loads((self.path / "state.json").read_text()))
        except (OSError, ValueError, TypeError):
            return None

    @property
    def is_running(self) -> bool:
        """Whether its supervisor lives. A record without one is left over from a kill."""
        try:
            with (self.path / "lock").open() as lock:
                return not _take(lock.fileno(), fcntl.LOCK_SH)
        except OSError:
            return False

    @contextlib.contextmanager
    def socket(self) -> Iterator[Path]:
        """Where the embedded broker may listen: here, or in a temporary directory where this path is too long."""
        path = self.path.resolve() / "broker.sock"
        if len(os.fsencode(path)) <= _LONGEST_SOCKET_PATH:
            path.unlink(missing_ok=True)
            yield path
            path.unlink(missing_ok=True)
            return
        directory = Path(tempfile.mkdtemp(prefix="fabric-"))
        try:
            yield directory / "broker.sock"
        finally:
            shutil.rmtree(directory, ignore_errors=True)


def stop_and_wait(record: Record, *, timeout: float) -> None:
    """Ask a fleet's supervisor to stop it, and wait until it has. Blocks.

    Raises:
        StartupError: it still runs after ``timeout`` seconds.
    """
    place = FleetDirectory(Path(record.root), record.fleet)
    deadline = time.monotonic() + timeout
    with contextlib.suppress(ProcessLookupError):
        if place.is_running:  # its lock proves that the process id is still its own
            os.kill(record.pid, signal.SIGTERM)
    while place.is_running:
        if time.monotonic() > deadline:
            raise StartupError(f"{record.fleet} is still stopping after {timeout:g} s; process {record.pid} sees to it")
        time.sleep(0.1)


def running_fleets(start: Path) -> list[Record]:
    """The fleets that run in ``start`` or in the nearest directory above it that has any."""
    for directory in (start, *start.parents):
        found = []
        with contextlib.suppress(OSError):
            for path in sorted((directory / ".fabric").iterdir()):
                place = FleetDirectory(directory, path.name)
                if place.is_running and (record := place.read()):
                    found.append(record)
        if found:
            return found
    return []


def _take(descriptor: int, kind: int) -> bool:
    for pause in (0.0, 0.02, 0.1):  # a command that only looks holds it for an instant
        time.sleep(pause)
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            return True
    return False
