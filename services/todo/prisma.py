"""The owner of the database: all SQL is behind these methods, and nobody else has the file."""

from __future__ import annotations

import datetime
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AliasChoices, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from fabric import Health, Service, ServiceError, rpc
from fabric.clock import Clock, SystemClock
from services.todo import event_rows, todo_rows
from services.todo.contracts import (
    Appended,
    AppendEvents,
    DatabaseFacts,
    EventPage,
    Identifier,
    Limit,
    Position,
    Projection,
    RecordedEvent,
    TodoPage,
    TodoQuery,
)
from services.todo.database import Database
from services.todo.schema import MIGRATIONS

T = TypeVar("T")


class PrismaSettings(BaseSettings):
    """From the environment.

    Attributes:
        data_dir: ``FABRIC_DATA_DIR``, where the fleet keeps its files.
        database: ``TODO_DATABASE``, the file; by default ``todo.sqlite3`` in ``data_dir``.
    """

    model_config = SettingsConfigDict(env_ignore_empty=True)

    data_dir: Path = Field(default=Path(".fabric/todo/data"), validation_alias=AliasChoices("FABRIC_DATA_DIR", "data_dir"))
    database: Path | None = Field(default=None, validation_alias=AliasChoices("TODO_DATABASE", "database"))

    @property
    def path(self) -> Path:
        return self.database or self.data_dir / "todo.sqlite3"


class PrismaService(Service):
    """Events, their outbox and the read model, in SQLite. Several instances may share one file on one machine."""

    name, version = "prisma-service", "1.0.0"
    capabilities = ("database",)

    def __init__(self, settings: PrismaSettings | None = None, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._database = Database((settings or PrismaSettings()).path, MIGRATIONS)
        self._schema_version = 0

    async def start(self) -> None:
        self._schema_version = await self._database.open()

    async def stop(self) -> None:
        await self._database.aclose()

    async def check_health(self) -> Health:
        try:
            last = await self._database.run(event_rows.last_position)
        except sqlite3.Error as error:
            return Health.bad(f"{self._database.path} can't be written: {error}; is the disk full or the file in use?")
        return Health.ok(schema_version=self._schema_version, last_position=last)

    @rpc(idempotent=True, timeout=10.0)
    async def append_events(self, request: AppendEvents) -> Appended:
        """Add events to a stream and to the outbox in one transaction; a ``command_id`` is taken once.

        Raises:
            ServiceError: ``events.version-conflict`` or ``events.command-reused``; nothing was added.
        """
        now = datetime.datetime.fromtimestamp(self._clock.time(), datetime.UTC)
        return await self._run(lambda connection: event_rows.append(connection, request, now))

    @rpc(idempotent=True, timeout=10.0)
    async def read_stream(self, stream: Identifier, after: Position = 0, limit: Limit = 500) -> EventPage:
        return await self._run(lambda connection: event_rows.read_stream(connection, stream, after, limit))

    @rpc(idempotent=True, timeout=10.0)
    async def read_all(self, after: Position = 0, limit: Limit = 500) -> EventPage:
        return await self._run(lambda connection: event_rows.read_all(connection, after, limit))

    @rpc(idempotent=True, timeout=10.0)
    async def unpublished_events(self, limit: Limit = 100) -> list[RecordedEvent]:
        return list(await self._run(lambda connection: event_rows.unpublished(connection, limit)))

    @rpc(idempotent=True, timeout=10.0)
    async def mark_published(self, positions: Annotated[tuple[Position, ...], Field(max_length=500)]) -> int:
        """How many of them were still in the outbox."""
        return await self._run(lambda connection: event_rows.mark_published(connection, positions))

    @rpc(idempotent=True, timeout=10.0)
    async def checkpoint(self, projection: Identifier) -> int:
        """The position that a projection has reached; 0 for one that never was."""
        return await self._run(lambda connection: todo_rows.checkpoint(connection, projection))

    @rpc(idempotent=True, timeout=10.0)
    async def project(self, step: Projection) -> bool:
        """Write the rows and move the checkpoint at once. False: it stands elsewhere, and nothing was changed."""
        return await self._run(lambda connection: todo_rows.project(connection, step))

    @rpc(idempotent=True, timeout=10.0)
    async def select_todos(self, query: TodoQuery) -> TodoPage:
        """Rows of the read model as they are; ``at_least`` is for the read model to see to.

        Raises:
            ServiceError: ``todo.bad-cursor``.
        """
        return await self._run(lambda connection: todo_rows.select(connection, query))

    @rpc(idempotent=True, timeout=10.0)
    async def facts(self) -> DatabaseFacts:
        def count(connection: sqlite3.Connection) -> dict[str, Any]:
            queries = {
                "events": "SELECT count(*) FROM events",
                "unpublished": "SELECT count(*) FROM outbox",
                "todos": "SELECT count(*) FROM todos",
                "bytes": "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()",
            }
            return {name: connection.execute(query).fetchone()[0] for name, query in queries.items()}

        return DatabaseFacts(schema_version=self._schema_version, **await self._run(count))

    async def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        try:
            return await self._database.run(work)
        except event_rows.VersionConflict as error:
            raise ServiceError(
                f"{error}; read it again and decide anew",
                code="events.version-conflict",
                details={"stream": error.stream, "expected": error.expected, "actual": error.actual},
            ) from error
        except event_rows.CommandReused as error:
            raise ServiceError(
                f"{error}; make a new command_id for each intention",
                code="events.command-reused",
                details={"command_id": error.command_id, "stream": error.earlier},
            ) from error
        except todo_rows.BadCursor as error:
            raise ServiceError(str(error), code="todo.bad-cursor") from error
        except sqlite3.OperationalError as error:
            # Busy, locked, disk full: nothing of the transaction happened, and it may go through later.
            raise ServiceError(f"the database is unavailable: {error}", code="database.unavailable", retryable=True) from error
