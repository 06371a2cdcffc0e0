"""The tables of the to-do database, as a list of migrations."""

from __future__ import annotations

from typing import Final

from services.todo.database import Migration

MIGRATIONS: Final = (
    Migration(
        version=1,
        name="events and their outbox",
        statements=(
            """CREATE TABLE events (
                position INTEGER PRIMARY KEY AUTOINCREMENT,
                id TEXT NOT NULL UNIQUE,
                stream TEXT NOT NULL,
                version INTEGER NOT NULL,
                type TEXT NOT NULL,
                data TEXT NOT NULL,
                command_id TEXT,
                at TEXT NOT NULL,
                UNIQUE (stream, version)
            )""",
            "CREATE INDEX events_by_command ON events (command_id) WHERE command_id IS NOT NULL",
            "CREATE TABLE outbox (position INTEGER PRIMARY KEY REFERENCES events (position))",
        ),
    ),
    Migration(
        version=2,
        name="the read model of to-dos",
        statements=(
            """CREATE TABLE todos (
                id TEXT PRIMARY KEY,
                title TEXT NOT NULL,
                notes TEXT NOT NULL,
                owner_email TEXT,
                priority TEXT NOT NULL,
                due TEXT,
                done INTEGER NOT NULL,
                created_at TEXT NOT NULL,
                updated_at TEXT NOT NULL,
                completed_at TEXT,
                version INTEGER NOT NULL,
                position INTEGER NOT NULL,
                folded TEXT NOT NULL
            )""",
            "CREATE INDEX todos_by_age ON todos (created_at, id)",
            "CREATE TABLE checkpoints (projection TEXT PRIMARY KEY, position INTEGER NOT NULL)",
        ),
    ),
)
