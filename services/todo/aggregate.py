"""What a to-do may do: commands to events, events to the to-do. No I/O; the writing and the reading side share it."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from typing import Any, Final

from pydantic import ValidationError

from fabric import ServiceError
from services.todo.contracts import (
    ChangeTodo,
    CompleteTodo,
    CreateTodo,
    DeleteTodo,
    NewEvent,
    RecordedEvent,
    RenameTodo,
    Todo,
)

CREATED: Final = "todo.created"
COMPLETED: Final = "todo.completed"
RENAMED: Final = "todo.renamed"
DELETED: Final = "todo.deleted"
EVERY_TODO_EVENT: Final = "todo.*"

_STREAM: Final = "todo-"
_IDS: Final = uuid.UUID("5f0c6bd2-2f2e-4f5a-9d0e-6f6f1d6a2c11")


def stream_of(id: str) -> str:
    return f"{_STREAM}{id}"


def is_todo_stream(stream: str) -> bool:
    return stream.startswith(_STREAM)


def id_of(stream: str) -> str:
    return stream.removeprefix(_STREAM)


def new_id(command_id: str) -> str:
    """The id of the to-do that this command creates: the same when the command comes again."""
    return uuid.uuid5(_IDS, command_id).hex


class CorruptEvent(ServiceError):
    """An event of a to-do that no release has written. Who follows the events stays before it."""

    def __init__(self, event: RecordedEvent, reason: str) -> None:
        super().__init__(
            f"event {event.position} ({event.type} of {event.stream}, version {event.version}): {reason}",
            code="todo.corrupt-event",
            details={"position": event.position, "stream": event.stream},
        )


def evolve(todo: Todo | None, event: RecordedEvent) -> Todo | None:
    """The to-do after ``event``; None before its creation and after its deletion. Unknown types only count.

    Raises:
        CorruptEvent: it can't follow, or its data don't fit.
    """
    try:
        if event.type == CREATED:
            return _created(event)
        if event.type == DELETED:
            return None
        if todo is None:
            raise CorruptEvent(event, "there is no such to-do at this point")
        return _changed(todo, event)
    except ValidationError as error:
        raise CorruptEvent(
            event, f"its data do not fit: {error.error_count()} problems, first {error.errors()[0]['loc']}"
        ) from error


def _created(event: RecordedEvent) -> Todo:
    stamps = {"created_at": event.at, "updated_at": event.at, "version": event.version, "position": event.position}
    return Todo.model_validate({**event.data, "id": id_of(event.stream), **stamps})


def _changed(todo: Todo, event: RecordedEvent) -> Todo:
    changes: dict[str, Any] = {}
    if event.type == COMPLETED:
        changes = {"done": True, "completed_at": event.at}
    elif event.type == RENAMED:
        changes = {"title": event.data.get("title")}
    stamps = {"updated_at": event.at, "version": event.version, "position": event.position}
    return Todo.model_validate({**todo.model_dump(), **changes, **stamps})


def fold(events: Iterable[RecordedEvent]) -> Todo | None:
    """The to-do that these events of one stream make, from its beginning."""
    todo: Todo | None = None
    for event in events:
        todo = evolve(todo, event)
    return todo


def create(command: CreateTodo) -> NewEvent:
    return NewEvent(type=CREATED, data=command.model_dump(mode="json", exclude={"command_id"}))


def change(todo: Todo | None, command: ChangeTodo) -> NewEvent | None:
    """The event that ``command`` makes of ``todo``; None when it is so already.

    Raises:
        ServiceError: ``todo.not-found`` or ``todo.conflict``.
    """
    if todo is None:
        raise ServiceError(f"there is no to-do {command.id}", code="todo.not-found", details={"id": command.id})
    if command.expected_version is not None and command.expected_version != todo.version:
        raise ServiceError(
            f"to-do {command.id} is at version {todo.version}, not {command.expected_version}; read it again and decide anew",
            code="todo.conflict",
            details={"id": command.id, "version": todo.version, "expected_version": command.expected_version},
        )
    match command:
        case CompleteTodo():
            return None if todo.done else NewEvent(type=COMPLETED, data={"title": todo.title})
        case RenameTodo():
            return None if todo.title == command.title else NewEvent(type=RENAMED, data={"title": command.title})
        case DeleteTodo():
            return NewEvent(type=DELETED, data={"title": todo.title})
        case _:
            raise TypeError(f"unknown command {type(command).__name__}")
