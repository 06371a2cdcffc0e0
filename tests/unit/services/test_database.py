"""The SQLite file: migrations, transactions, and what happens when it is busy or too new."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.todo.database import Database, Migration, SchemaTooNew
from services.todo.schema import MIGRATIONS

FIRST = Migration(version=1, name="a", statements=("CREATE TABLE a (x INTEGER)", "INSERT INTO a VALUES (1)"))
SECOND = Migration(version=2, name="b", statements=("INSERT INTO a VALUES (2)",))
BROKEN = Migration(version=3, name="c", statements=("INSERT INTO a VALUES (3)", "INSERT INTO nowhere VALUES (1)"))


def _values(connection: sqlite3.Connection) -> list[int]:
    return [row["x"] for row in connection.execute("SELECT x FROM a ORDER BY x")]


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    database = Database(tmp_path / "new" / "data.sqlite3", (FIRST,))
    await database.open()
    yield database
    await database.aclose()


async def test_each_migration_is_applied_once(database: Database) -> None:
    """Opened again by a newer release, the file gets what is missing and nothing twice."""
    await database.aclose()
    newer = Database(database.path, (FIRST, SECOND))
    assert await newer.open() == 2
    await newer.aclose()
    assert await newer.open() == 2
    assert await newer.run(_values) == [1, 2]
    await newer.aclose()


async def test_a_migration_that_fails_leaves_the_old_schema(database: Database) -> None:
    """None of it is applied, and the release before still opens the file."""
    await database.aclose()
    with pytest.raises(sqlite3.OperationalError, match="nowhere"):
        await Database(database.path, (FIRST, SECOND, BROKEN)).open()
    assert await database.open() == 1
    assert await database.run(_values) == [1]


async def test_a_file_of_a_newer_release_is_refused(database: Database) -> None:
    """An old release does not touch what it does not know, and says which versions there are."""
    await database.aclose()
    newer = Database(database.path, (FIRST, SECOND))
    await newer.open()
    await newer.aclose()
    with pytest.raises(SchemaTooNew, match="version 2, this release knows up to 1"):
        await database.open()


async def test_two_processes_may_start_at_once(tmp_path: Path) -> None:
    """Opened by several at the same moment, the schema is made once."""
    several = [Database(tmp_path / "data.sqlite3", MIGRATIONS) for _ in range(4)]
    assert await asyncio.gather(*(one.open() for one in several)) == [2, 2, 2, 2]
    await asyncio.gather(*(one.aclose() for one in several))


async def test_a_transaction_that_raises_did_not_happen(database: Database) -> None:
    """The error comes through, the rows don't, and the next transaction works."""

    def fail(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO a VALUES (7)")
        raise LookupError("no")

    with pytest.raises(LookupError):
        await database.run(fail)
    assert await database.run(_values) == [1]


async def test_the_loop_goes_on_while_sqlite_waits(database: Database) -> None:
    """While another process holds the write lock, other tasks run; when it lets go, the transaction goes through."""
    other = sqlite3.connect(database.path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    waiting = asyncio.create_task(database.run(_values))
    for _ in range(100):
        await asyncio.sleep(0)
    assert not waiting.done()
    other.execute("ROLLBACK")
    other.close()
    assert await waiting == [1]


async def test_a_closed_database_says_so(database: Database) -> None:
    """Nothing is done after the close, and closing twice is fine."""
    await database.aclose()
    await database.aclose()
    with pytest.raises(sqlite3.ProgrammingError, match="not open"):
        await database.run(_values)
