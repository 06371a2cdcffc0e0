"""One SQLite file, worked on by one thread, with migrations."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """One step of the schema. Never changed once it has been released; mistakes are repaired by a further one."""

    version: int
    name: str
    statements: tuple[str, ...]


class SchemaTooNew(Exception):
    """The file was written by a newer release than this one."""

    def __init__(self, found: int, known: int) -> None:
        super().__init__(f"the database has schema version {found}, this release knows up to {known}: run the newer release")
        self.found, self.known = found, known


class Database:
    """Each ``run`` is one transaction, in the order of the calls. The event loop never waits for the disk.

    SQLite's write-ahead log lets other processes read meanwhile; a second writer waits up to ``BUSY_SECONDS``. A commit is
    on disk before ``run`` returns (``synchronous=FULL``): slower than SQLite's WAL default, and a lost event can't be
    made up for.

    Args:
        path: of the file; its directory is made if need be.
        migrations: all of them, oldest first.
    """

    BUSY_SECONDS = 5.0

    def __init__(self, path: Path, migrations: Sequence[Migration]) -> None:
        self.path = path
        self._migrations = tuple(migrations)
        self._thread: ThreadPoolExecutor | None = None
        self._connection: sqlite3.Connection | None = None

    async def open(self) -> int:
        """Open the file, apply the migrations that are missing, and say the version reached.

        Raises:
            SchemaTooNew, sqlite3.Error, OSError.
        """
        if self._thread is None:
            self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sqlite")
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._open)

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """What ``work`` answers, after its commit; when it raises, nothing of it has happened.

        When the caller is cancelled the work is still finished, so whether it happened is unknown to the caller.
        """
        if self._thread is None:
            raise sqlite3.ProgrammingError("the database is not open")
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._transact, work)

    async def aclose(self) -> None:
        """Finish what was begun and close the file; it may be opened again. Idempotent."""
        thread, self._thread = self._thread, None
        if thread is not None:
            await asyncio.get_running_loop().run_in_executor(thread, self._close)
            thread.shutdown(wait=False)

    def _open(self) -> int:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(self.path, timeout=self.BUSY_SECONDS, isolation_level=None)
        try:
            connection.row_factory = sqlite3.Row
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("PRAGMA foreign_keys=ON")
            version = self._migrate(connection)
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        return version

    def _migrate(self, connection: sqlite3.Connection) -> int:
        # Immediate: two processes that start together migrate one after the other, not both.
        connection.execute("BEGIN IMMEDIATE")
        try:
            connection.execute(
                "CREATE TABLE IF NOT EXISTS migrations ("
                " version INTEGER PRIMARY KEY, name TEXT NOT NULL, applied_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP)"
            )
            (found,) = connection.execute("SELECT coalesce(max(version), 0) FROM migrations").fetchone()
            known = self._migrations[-1].version
            if found > known:
                raise SchemaTooNew(found, known)
            for migration in self._migrations:
                if migration.version > found:
                    for statement in migration.statements:
                        connection.execute(statement)
                    connection.execute(
                        "INSERT INTO migrations (version, name) VALUES (?, ?)", (migration.version, migration.name)
                    )
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        return known

    def _transact(self, work: Callable[[sqlite3.Connection], T]) -> T:
        connection = self._connection
        assert connection is not None
        connection.execute("BEGIN IMMEDIATE")
        try:
            answer = work(connection)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        return answer

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
