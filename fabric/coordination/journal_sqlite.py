"""A journal in a file of SQLite, for coordinators on one machine: the companion of the embedded broker."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from fabric.clock import Clock, SystemClock
from fabric.coordination.journal import Claim, Entry, History
from fabric.coordination.journal_records import Ledger, claim_record, entries_record
from fabric.errors import ConfigurationError, ConnectionLost, StaleCommand

T = TypeVar("T")

_BUSY_SECONDS = 5.0
_SCHEMA = """
CREATE TABLE IF NOT EXISTS record (place INTEGER PRIMARY KEY AUTOINCREMENT, claims INTEGER NOT NULL, body BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS claim ON record (place) WHERE claims;
CREATE TABLE IF NOT EXISTS fact (name TEXT PRIMARY KEY, value NOT NULL);
"""


class SqliteJournal:
    """Records in the file at ``path``. One thread of its own does the waiting.

    What is written survives the end of any process, also by a kill; a power cut may cost the last records, and ends the
    fleet on this machine as well.

    Args:
        life: of what the journal tells, such as one run of a broker. When the file tells of another life it is emptied
            first; its epochs go on.
    """

    def __init__(self, path: Path, *, life: str = "", clock: Clock | None = None) -> None:
        self._path, self._life = path, life
        self._clock: Clock = clock or SystemClock()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="journal")
        self._db: sqlite3.Connection | None = None
        self._base = 0
        self._mine: Claim | None = None

    async def open(self) -> None:
        await self._ask(self._open)

    async def leader(self) -> Claim | None:
        return await self._ask(self._leader)

    async def claim(self, instance: str, incarnation: int) -> History:
        return await self._ask(lambda db: self._claim(db, instance, incarnation))

    async def append(self, entries: Sequence[Entry], *, first: bool = False) -> None:
        await self._ask(lambda db: self._append(db, entries, first))

    async def aclose(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            await asyncio.get_running_loop().run_in_executor(self._thread, db.close)
        self._thread.shutdown(wait=False)

    async def _ask(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """In the thread, and in one transaction that no other process interrupts."""

        def in_thread() -> T:
            if self._db is None:
                self._db = sqlite3.connect(self._path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
                self._db.execute("PRAGMA journal_mode=WAL")
                self._db.execute("PRAGMA synchronous=NORMAL")
                self._db.executescript(_SCHEMA)
            db = self._db
            db.execute("BEGIN IMMEDIATE")
            try:
                answer = work(db)
            except BaseException:
                db.execute("ROLLBACK")
                raise
            db.execute("COMMIT")
            return answer

        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, in_thread)
        except sqlite3.OperationalError as error:
            raise ConnectionLost(f"the journal {self._path} can't be used: {error}") from error
        except sqlite3.Error as error:
            raise ConfigurationError(f"{self._path} is not a journal: {error}; delete it to begin a new one") from error

    # ------------------------------------------------------------ in the thread

    def _open(self, db: sqlite3.Connection) -> None:
        facts = dict(db.execute("SELECT name, value FROM fact"))
        if facts.get("life") != self._life:
            db.execute("DELETE FROM record")
            db.execute("INSERT OR REPLACE INTO fact VALUES ('life', ?)", (self._life,))
        self._base = int(facts.get("base", self._clock.time() * 1e6))
        db.execute("INSERT OR REPLACE INTO fact VALUES ('base', ?)", (self._base,))

    def _leader(self, db: sqlite3.Connection) -> Claim | None:
        ledger = Ledger(base=self._base, keep=False)
        for place, body in db.execute("SELECT place, body FROM record WHERE claims ORDER BY place DESC LIMIT 1"):
            ledger.take(place, body)
        return ledger.leader

    def _claim(self, db: sqlite3.Connection, instance: str, incarnation: int) -> History:
        _write(db, claim_record(instance, incarnation, self._base), claims=True)
        ledger = Ledger(base=self._base)
        for place, body in db.execute("SELECT place, body FROM record ORDER BY place"):
            ledger.take(place, body)
        assert ledger.leader is not None
        self._mine = ledger.leader
        return History(claim=ledger.leader, entries=ledger.entries())

    def _append(self, db: sqlite3.Connection, entries: Sequence[Entry], first: bool) -> None:
        leader, mine = self._leader(db), self._mine
        assert mine is not None, "claim first"
        if leader != mine:
            raise StaleCommand(mine.epoch, leader.epoch if leader else mine.epoch)
        if first:
            db.execute("DELETE FROM record WHERE place < ?", (mine.epoch - self._base,))
            db.execute("DELETE FROM record WHERE NOT claims")
        _write(db, entries_record(mine.epoch, entries, first=first), claims=False)


def _write(db: sqlite3.Connection, body: bytes, *, claims: bool) -> None:
    db.execute("INSERT INTO record (claims, body) VALUES (?, ?)", (claims, body))
