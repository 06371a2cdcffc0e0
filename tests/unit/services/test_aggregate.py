"""What a to-do may do, without any I/O."""

from __future__ import annotations

import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabric import ServiceError
from services.todo import aggregate
from services.todo.contracts import (
    ChangeTodo,
    CompleteTodo,
    CreateTodo,
    DeleteTodo,
    NewEvent,
    RecordedEvent,
    RenameTodo,
    Todo,
    TodoPriority,
)

AT = datetime.datetime(2024, 1, 15, 12, 0, tzinfo=datetime.UTC)


def recorded(event: NewEvent, version: int, *, stream: str = "todo-1", position: int | None = None) -> RecordedEvent:
    return RecordedEvent(
        id=f"e{version}",
        stream=stream,
        version=version,
        position=position or version,
        type=event.type,
        data=event.data,
        at=AT + datetime.timedelta(minutes=version),
    )


CREATED = recorded(
    aggregate.create(
        CreateTodo(command_id="c", title=" Buy milk ", notes="fresh", priority=TodoPriority.HIGH, due=datetime.date(2024, 2, 1))
    ),
    1,
)


def _after(*changes: ChangeTodo) -> Todo | None:
    events = [CREATED]
    for change in changes:
        event = aggregate.change(aggregate.fold(events), change)
        if event is not None:
            events.append(recorded(event, len(events) + 1))
    return aggregate.fold(events)


def test_the_life_of_a_todo() -> None:
    """Created, renamed and completed it has what each step gave it, and the version and time of the last."""
    todo = _after(RenameTodo(command_id="r", id="1", title="Buy oat milk"), CompleteTodo(command_id="d", id="1"))
    assert todo is not None
    assert (todo.id, todo.title, todo.notes, todo.priority) == ("1", "Buy oat milk", "fresh", TodoPriority.HIGH)
    assert (todo.done, todo.version, todo.due) == (True, 3, datetime.date(2024, 2, 1))
    assert (todo.created_at, todo.completed_at) == (AT + datetime.timedelta(minutes=1), AT + datetime.timedelta(minutes=3))


def test_what_is_so_already_makes_no_event() -> None:
    """Completing a to-do twice, or giving it the title it has, changes nothing."""
    todo = _after(CompleteTodo(command_id="d", id="1"))
    assert aggregate.change(todo, CompleteTodo(command_id="d2", id="1")) is None
    assert aggregate.change(todo, RenameTodo(command_id="r", id="1", title="Buy milk")) is None


def test_a_command_is_refused_with_a_reason() -> None:
    """For a to-do that is not there, was deleted, or has another version than expected."""
    deleted = _after(DeleteTodo(command_id="x", id="1"))
    assert deleted is None
    for todo in (None, deleted):
        with pytest.raises(ServiceError) as raised:
            aggregate.change(todo, CompleteTodo(command_id="d", id="1"))
        assert raised.value.code == "todo.not-found"
    with pytest.raises(ServiceError) as raised:
        aggregate.change(_after(), CompleteTodo(command_id="d", id="1", expected_version=7))
    assert (raised.value.code, raised.value.details["version"]) == ("todo.conflict", 1)


@pytest.mark.parametrize(
    ("type", "data"),
    [("todo.created", {"title": ""}), ("todo.created", {}), ("todo.renamed", {"title": "x" * 500}), ("todo.renamed", {})],
)
def test_damaged_events_are_named(type: str, data: dict[str, Any]) -> None:
    """An event whose data don't fit is refused with its position, and not half applied."""
    event = recorded(NewEvent(type=type, data=data), 2)
    with pytest.raises(aggregate.CorruptEvent, match="event 2"):
        aggregate.evolve(aggregate.fold([CREATED]), event)


def test_events_of_a_todo_that_is_not_there_are_named() -> None:
    """A change before the creation, or after the deletion, is a fault of the store and not passed over."""
    with pytest.raises(aggregate.CorruptEvent, match="no such to-do"):
        aggregate.fold([recorded(NewEvent(type="todo.completed", data={}), 1)])


def test_unknown_events_only_count() -> None:
    """An event of a newer release moves the version and nothing else, so that commands still expect the right one."""
    before = aggregate.fold([CREATED])
    after = aggregate.evolve(before, recorded(NewEvent(type="todo.painted", data={"colour": "red"}), 2))
    assert before is not None
    assert after is not None
    assert after == before.model_copy(update={"version": 2, "position": 2, "updated_at": after.updated_at})


_COMMANDS = st.lists(
    st.one_of(
        st.just(CompleteTodo(command_id="d", id="1")),
        st.sampled_from(["a", "b", "Buy milk"]).map(lambda title: RenameTodo(command_id="r", id="1", title=title)),
    ),
    max_size=20,
)


@given(commands=_COMMANDS)
def test_done_stays_done_and_the_last_title_holds(commands: list[ChangeTodo]) -> None:
    """After any commands the to-do is done if one completed it, has the last title given, and never a lower version."""
    todo = _after(*commands)
    assert todo is not None
    titles = [command.title for command in commands if isinstance(command, RenameTodo)]
    assert todo.done == any(isinstance(command, CompleteTodo) for command in commands)
    assert todo.title == ([*titles][-1] if titles else "Buy milk")
    assert 1 <= todo.version <= len(commands) + 1


def test_the_id_follows_from_the_command() -> None:
    """The same command makes the same id, another makes another."""
    assert aggregate.new_id("a") == aggregate.new_id("a") != aggregate.new_id("b")
