"""Commands: decided on the events, taken once, whatever others do at the same time."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from fabric import Hub
from fabric.errors import RemoteError
from fabric.routing.retry import RetryPolicy
from fabric.testing import Bench
from services.todo import cqrs
from services.todo.broker import MessageBroker
from services.todo.contracts import CompleteTodo, CreateTodo, DeleteTodo, RenameTodo, Todo, TodoPriority, TodoQuery
from services.todo.cqrs import CqrsCoordinator
from services.todo.event_store import EventStore
from services.todo.read_model import ReadModelManager


@pytest.fixture
async def commands(bench: Bench, hub: Hub, store: EventStore) -> CqrsCoordinator:
    await bench.start(MessageBroker())
    await bench.start(CqrsCoordinator(), instance="cqrs-1")
    return hub.proxy(CqrsCoordinator)


async def _code(call: Any) -> str | None:
    with pytest.raises(RemoteError) as raised:
        await call
    return raised.value.code


async def test_commands_change_a_todo(commands: CqrsCoordinator) -> None:
    """Created, renamed, completed and deleted, each answer is the to-do as the command left it."""
    todo = await commands.create_todo(CreateTodo(command_id="c", title="Buy milk", priority=TodoPriority.HIGH))
    assert (todo.title, todo.priority, todo.version, todo.position) == ("Buy milk", TodoPriority.HIGH, 1, 1)
    renamed = await commands.rename_todo(RenameTodo(command_id="r", id=todo.id, title="Buy oat milk"))
    completed = await commands.complete_todo(CompleteTodo(command_id="d", id=todo.id))
    assert (renamed.title, completed.title, completed.done, completed.version) == ("Buy oat milk", "Buy oat milk", True, 3)
    deleted = await commands.delete_todo(DeleteTodo(command_id="x", id=todo.id))
    assert deleted.position == 4
    assert await _code(commands.complete_todo(CompleteTodo(command_id="d2", id=todo.id))) == "todo.not-found"


async def test_a_repeated_command_has_its_effect_once(commands: CqrsCoordinator, store: EventStore) -> None:
    """M7: each command sent again, also late, answers as the first time and adds no event."""
    create = CreateTodo(command_id="c", title="Buy milk")
    todo = await commands.create_todo(create)
    rename = RenameTodo(command_id="r", id=todo.id, title="Buy oat milk", expected_version=1)
    renamed = await commands.rename_todo(rename)
    delete = DeleteTodo(command_id="x", id=todo.id)
    deleted = await commands.delete_todo(delete)
    assert await commands.create_todo(create) == todo
    assert await commands.rename_todo(rename) == renamed
    assert await commands.delete_todo(delete) == deleted
    assert (await store.read_all()).last == 3


async def test_a_command_id_names_one_intention(commands: CqrsCoordinator) -> None:
    """Used for another to-do it is refused."""
    todo = await commands.create_todo(CreateTodo(command_id="c", title="Buy milk"))
    other = await commands.create_todo(CreateTodo(command_id="c2", title="Call mom"))
    await commands.complete_todo(CompleteTodo(command_id="d", id=todo.id))
    assert await _code(commands.complete_todo(CompleteTodo(command_id="d", id=other.id))) == "events.command-reused"


async def test_renames_at_once_all_happen(commands: CqrsCoordinator, store: EventStore) -> None:
    """Five commands decide on the same version; the refused ones decide again, and each makes its event."""
    todo = await commands.create_todo(CreateTodo(command_id="c", title="start"))
    results = await asyncio.gather(
        *(commands.rename_todo(RenameTodo(command_id=f"r{n}", id=todo.id, title=f"title {n}")) for n in range(5))
    )
    assert sorted(result.version for result in results) == [2, 3, 4, 5, 6]
    assert (await store.read_all()).last == 6


async def test_an_expected_version_is_not_decided_again(commands: CqrsCoordinator) -> None:
    """Of two that expect the same version one is refused with a conflict, and its change is not made."""
    todo = await commands.create_todo(CreateTodo(command_id="c", title="start"))
    outcomes = await asyncio.gather(
        *(
            commands.rename_todo(RenameTodo(command_id=f"r{n}", id=todo.id, title=f"title {n}", expected_version=1))
            for n in range(2)
        ),
        return_exceptions=True,
    )
    (made,) = [outcome for outcome in outcomes if isinstance(outcome, Todo)]
    (refused,) = [outcome for outcome in outcomes if isinstance(outcome, RemoteError)]
    assert (made.version, refused.code) == (2, "todo.conflict")


async def test_it_gives_up_in_the_end(bench: Bench, commands: CqrsCoordinator, monkeypatch: pytest.MonkeyPatch) -> None:
    """When others are always faster the command is refused as busy, which says that it may be tried again; hubs do so."""
    todo = await commands.create_todo(CreateTodo(command_id="c", title="start"))
    monkeypatch.setattr(cqrs, "ATTEMPTS", 1)
    impatient = (await bench.hub("impatient", retry=RetryPolicy(attempts=1))).proxy(CqrsCoordinator)
    calls = (impatient.rename_todo(RenameTodo(command_id=f"r{n}", id=todo.id, title=f"title {n}")) for n in range(4))
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    refused = [outcome for outcome in outcomes if isinstance(outcome, RemoteError)]
    assert refused
    assert {(error.code, error.retryable) for error in refused} == {("todo.busy", True)}
    patient = (commands.rename_todo(RenameTodo(command_id=f"p{n}", id=todo.id, title=f"title p{n}")) for n in range(2))
    assert {todo.title for todo in await asyncio.gather(*patient)} == {"title p0", "title p1"}


async def test_questions_go_to_the_reading_side(bench: Bench, commands: CqrsCoordinator) -> None:
    """A list, a search and a single to-do come from the read model; without one the caller learns who is missing."""
    todo = await commands.create_todo(CreateTodo(command_id="c", title="Buy milk"))
    with pytest.raises(RemoteError) as raised:
        await commands.list_todos(TodoQuery())
    assert (raised.value.code, raised.value.details["service"]) == ("nested.NoInstance", "read-model-manager")
    await bench.start(ReadModelManager())
    assert (await commands.list_todos(TodoQuery(at_least=todo.position))).todos == (todo,)
    assert (await commands.search_todos(TodoQuery(text="milk"))).todos == (todo,)
    assert await commands.get_todo(todo.id) == todo
    assert await _code(commands.get_todo("nobody")) == "todo.not-found"


async def test_who_is_missing_is_known_at_the_top(bench: Bench, commands: CqrsCoordinator) -> None:
    """When the database is gone, two services down, the caller of a command is told its name."""
    await bench.stop("prisma-1")
    with pytest.raises(RemoteError) as raised:
        await commands.create_todo(CreateTodo(command_id="c", title="Buy milk"))
    assert (raised.value.code, raised.value.details["service"]) == ("nested.NoInstance", "prisma-service")
