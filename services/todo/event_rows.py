"""The SQL of events and of what is still to be published."""

from __future__ import annotations

import datetime
import sqlite3
import uuid
from collections.abc import Sequence

import orjson

from services.todo.contracts import Appended, AppendEvents, EventPage, RecordedEvent


class VersionConflict(Exception):
    """The stream is at ``actual``, not at ``expected``."""

    def __init__(self, stream: str, expected: int, actual: int) -> None:
        super().__init__(f"stream {stream} is at version {actual}, not {expected}")
        self.stream, self.expected, self.actual = stream, expected, actual


class CommandReused(Exception):
    """``command_id`` named a command on another stream before."""

    def __init__(self, command_id: str, stream: str, earlier: str) -> None:
        super().__init__(f"command {command_id} was used for stream {earlier} and can't be used for {stream}")
        self.command_id, self.stream, self.earlier = command_id, stream, earlier


def append(connection: sqlite3.Connection, request: AppendEvents, at: datetime.datetime) -> Appended:
    """Add the events and note each as unpublished.

    Raises:
        VersionConflict: nothing was added.
        CommandReused: nothing was added.
    """
    earlier = _of_command(connection, request.command_id)
    if earlier:
        if earlier[0].stream != request.stream:
            raise CommandReused(earlier[0].command_id or "", request.stream, earlier[0].stream)
        return Appended(events=tuple(earlier), repeated=True)
    (actual,) = connection.execute("SELECT coalesce(max(version), 0) FROM events WHERE stream = ?", (request.stream,)).fetchone()
    if actual != request.expected_version:
        raise VersionConflict(request.stream, request.expected_version, actual)
    events = []
    for version, event in enumerate(request.events, start=actual + 1):
        id = uuid.uuid4().hex
        cursor = connection.execute(
            "INSERT INTO events (id, stream, version, type, data, command_id, at) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (id, request.stream, version, event.type, orjson.dumps(event.data).decode(), request.command_id, at.isoformat()),
        )
        position = cursor.lastrowid
        assert position is not None
        connection.execute("INSERT INTO outbox (position) VALUES (?)", (position,))
        events.append(
            RecordedEvent(
                id=id, stream=request.stream, version=version, position=position,
                type=event.type, data=event.data, command_id=request.command_id, at=at,
            )
        )  # fmt: skip
    return Appended(events=tuple(events))


def read_stream(connection: sqlite3.Connection, stream: str, after: int, limit: int) -> EventPage:
    """Events of one stream with a version above ``after``."""
    rows = connection.execute(
        "SELECT * FROM events WHERE stream = ? AND version > ? ORDER BY version LIMIT ?", (stream, after, limit)
    )
    return EventPage(events=_events(rows.fetchall()), last=last_position(connection))


def read_all(connection: sqlite3.Connection, after: int, limit: int) -> EventPage:
    """Events of all streams with a position above ``after``."""
    rows = connection.execute("SELECT * FROM events WHERE position > ? ORDER BY position LIMIT ?", (after, limit))
    return EventPage(events=_events(rows.fetchall()), last=last_position(connection))


def unpublished(connection: sqlite3.Connection, limit: int) -> tuple[RecordedEvent, ...]:
    """The oldest events that nobody has confirmed to be published."""
    rows = connection.execute("SELECT events.* FROM outbox JOIN events USING (position) ORDER BY position LIMIT ?", (limit,))
    return _events(rows.fetchall())


def mark_published(connection: sqlite3.Connection, positions: Sequence[int]) -> int:
    cursor = connection.executemany("DELETE FROM outbox WHERE position = ?", [(position,) for position in positions])
    return cursor.rowcount


def last_position(connection: sqlite3.Connection) -> int:
    (last,) = connection.execute("SELECT coalesce(max(position), 0) FROM events").fetchone()
    return int(last)


def _of_command(connection: sqlite3.Connection, command_id: str | None) -> tuple[RecordedEvent, ...]:
    if command_id is None:
        return ()
    return _events(connection.execute("SELECT * FROM events WHERE command_id = ? ORDER BY position", (command_id,)).fetchall())


def _events(rows: Sequence[sqlite3.Row]) -> tuple[RecordedEvent, ...]:
    return tuple(RecordedEvent.model_validate({**dict(row), "data": orjson.loads(row["data"])}) for row in rows)
