"""The SQL of the read model."""

from __future__ import annotations

import sqlite3
from typing import Any

from services.todo.contracts import Projection, Todo, TodoPage, TodoQuery, TodoStatus
from services.todo.words import fold


class BadCursor(Exception):
    """``after`` is not what an earlier page gave."""


def checkpoint(connection: sqlite3.Connection, projection: str) -> int:
    """The position that a projection has reached; 0 for one that never was."""
    row = connection.execute("SELECT position FROM checkpoints WHERE projection = ?", (projection,)).fetchone()
    return int(row["position"]) if row else 0


def project(connection: sqlite3.Connection, step: Projection) -> bool:
    """Write the rows and move the checkpoint, if it stands where the step expects it; otherwise change nothing."""
    if checkpoint(connection, step.name) != step.expected:
        return False
    for todo in step.todos:
        row = _row_of(todo)
        columns = ", ".join(row)
        marks = ", ".join(f":{name}" for name in row)
        connection.execute(f"INSERT OR REPLACE INTO todos ({columns}) VALUES ({marks})", row)
    connection.executemany("DELETE FROM todos WHERE id = ?", [(id,) for id in step.deleted])
    connection.execute(
        "INSERT INTO checkpoints (projection, position) VALUES (?, ?)"
        " ON CONFLICT (projection) DO UPDATE SET position = excluded.position",
        (step.name, step.position),
    )
    return True


def select(connection: sqlite3.Connection, query: TodoQuery) -> TodoPage:
    """The to-dos that ``query`` asks for, oldest first.

    Raises:
        BadCursor: ``query.after`` is not a cursor.
    """
    conditions, values = ["1"], list[Any]()
    if query.status is not TodoStatus.ANY:
        conditions.append("done = ?")
        values.append(query.status is TodoStatus.DONE)
    if query.ids:
        conditions.append(f"id IN ({', '.join('?' * len(query.ids))})")
        values.extend(query.ids)
    for word in fold(query.text).split():
        conditions.append("folded LIKE ? ESCAPE '\\'")
        values.append(f"%{_literal(word)}%")
    if query.after is not None:
        created, separator, id = query.after.partition("~")
        if not separator:
            raise BadCursor(f"{query.after!r} is not the 'next' of a page")
        conditions.append("(created_at, id) > (?, ?)")
        values.extend((created, id))
    rows = connection.execute(
        f"SELECT * FROM todos WHERE {' AND '.join(conditions)} ORDER BY created_at, id LIMIT ?", (*values, query.limit + 1)
    ).fetchall()
    todos = tuple(_todo_of(row) for row in rows[: query.limit])
    more = len(rows) > query.limit
    return TodoPage(todos=todos, next=f"{rows[query.limit - 1]['created_at']}~{todos[-1].id}" if more else None)


def _literal(word: str) -> str:
    for special in ("\\", "%", "_"):
        word = word.replace(special, f"\\{special}")
    return word


def _row_of(todo: Todo) -> dict[str, Any]:
    return {**todo.model_dump(mode="json"), "folded": fold(f"{todo.title}\n{todo.notes}")}


def _todo_of(row: sqlite3.Row) -> Todo:
    values = dict(row)
    del values["folded"]
    return Todo.model_validate(values)
