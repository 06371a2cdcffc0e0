"""The read model: it follows the events whatever way they come."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from fabric import Hub
from fabric.errors import RemoteError
from fabric.testing import Bench
from services.todo import aggregate
from services.todo.contracts import AppendEvents, CreateTodo, DeleteTodo, NewEvent, RecordedEvent, TodoQuery
from services.todo.event_store import EventStore
from services.todo.read_model import ReadModelManager


class Patient(ReadModelManager):
    """Says when it has followed so far."""

    def __init__(self) -> None:
        super().__init__()
        self.reached = asyncio.Condition()

    async def _project(self, events: Sequence[RecordedEvent], expected: int) -> int:
        position = await super()._project(events, expected)
        async with self.reached:
            self.reached.notify_all()
        return position

    async def wait_for(self, position: int) -> None:
        async with asyncio.timeout(10), self.reached:
            await self.reached.wait_for(lambda: self._follower.position >= position)


async def create(store: EventStore, id: str, title: str) -> int:
    event = aggregate.create(CreateTodo(command_id=f"create-{id}", title=title))
    request = AppendEvents(stream=aggregate.stream_of(id), expected_version=0, events=(event,))
    return (await store.append(request)).events[-1].position


async def complete(store: EventStore, id: str, version: int = 1) -> int:
    event = NewEvent(type=aggregate.COMPLETED, data={})
    request = AppendEvents(stream=aggregate.stream_of(id), expected_version=version, events=(event,))
    return (await store.append(request)).events[-1].position


async def test_published_events_become_rows(bench: Bench, hub: Hub, store: EventStore) -> None:
    """A to-do that was created and completed is in the list, done, without anybody asking the store again."""
    reading = Patient()
    await bench.start(reading)
    await create(store, "1", "Buy milk")
    await reading.wait_for(await complete(store, "1"))
    page = await hub.proxy(ReadModelManager).list_todos(TodoQuery())
    assert [(todo.title, todo.done, todo.version) for todo in page.todos] == [("Buy milk", True, 2)]


async def test_a_reader_sees_its_own_write(bench: Bench, hub: Hub, store: EventStore) -> None:
    """Asked for at least a position, the answer has it, though no event has come yet."""
    await bench.start(ReadModelManager())
    reading = hub.proxy(ReadModelManager)
    for number in range(20):
        position = await create(store, str(number), f"to-do {number}")
        assert (await reading.get_todo(str(number), position)).title == f"to-do {number}"


async def test_it_catches_up_at_its_start(bench: Bench, hub: Hub, store: EventStore) -> None:
    """What happened before it ran, more than a page of it, is there when it is ready; streams of others only count."""
    events = (aggregate.create(CreateTodo(command_id="c", title="n")),)
    await store.append(AppendEvents(stream="other", expected_version=0, events=(NewEvent(type="x.made", data={}),)))
    for number in range(205):
        await store.append(AppendEvents(stream=aggregate.stream_of(str(number)), expected_version=0, events=events))
    await bench.start(ReadModelManager())
    assert len((await hub.proxy(ReadModelManager).list_todos(TodoQuery(limit=500))).todos) == 205


async def test_it_goes_on_where_it_stood(bench: Bench, hub: Hub, store: EventStore) -> None:
    """Started again, it takes in what happened meanwhile and does not begin anew."""
    await bench.start(ReadModelManager(), instance="reading-1")
    reading = hub.proxy(ReadModelManager)
    await reading.get_todo("1", await create(store, "1", "Buy milk"))
    await bench.stop("reading-1")
    await complete(store, "1")
    await create(store, "2", "Call mom")
    await bench.start(ReadModelManager(), instance="reading-2")
    page = await reading.list_todos(TodoQuery())
    assert [(todo.title, todo.done) for todo in page.todos] == [("Buy milk", True), ("Call mom", False)]


async def test_two_instances_project_each_event_once(bench: Bench, hub: Hub, store: EventStore) -> None:
    """Whichever of them gets an event, the table is what the events say, and both answer alike."""
    for instance in ("reading-1", "reading-2"):
        await bench.start(ReadModelManager(), instance=instance)
    position = 0
    for number in range(30):
        await create(store, str(number), f"to-do {number}")
        position = await complete(store, str(number))
    answers = [
        await hub.call("read-model-manager", "list_todos", TodoQuery(at_least=position), instance=instance)
        for instance in ("reading-1", "reading-2")
    ]
    assert answers[0] == answers[1]
    assert [(todo["done"], todo["version"]) for todo in answers[0]["todos"]] == [(True, 2)] * 30


async def test_it_answers_for_words_and_ids(bench: Bench, hub: Hub, store: EventStore) -> None:
    """A search needs words, and a to-do that is not there is an error with a code."""
    await bench.start(ReadModelManager())
    reading = hub.proxy(ReadModelManager)
    position = await create(store, "1", "Buy milk")
    assert [todo.id for todo in (await reading.search_todos(TodoQuery(text="MILK", at_least=position))).todos] == ["1"]
    for code, call in (("todo.no-words", reading.search_todos(TodoQuery(text=" "))), ("todo.not-found", reading.get_todo("2"))):
        with pytest.raises(RemoteError) as raised:
            await call
        assert raised.value.code == code


async def test_a_deleted_todo_leaves_the_list(bench: Bench, hub: Hub, store: EventStore) -> None:
    """Its events stay in the store, its row goes."""
    await bench.start(ReadModelManager())
    reading = hub.proxy(ReadModelManager)
    await create(store, "1", "Buy milk")
    deletion = aggregate.change(await reading.get_todo("1", 1), DeleteTodo(command_id="x", id="1"))
    assert deletion is not None
    stream = aggregate.stream_of("1")
    appended = await store.append(AppendEvents(stream=stream, expected_version=1, events=(deletion,)))
    assert (await reading.list_todos(TodoQuery(at_least=appended.events[0].position))).todos == ()
    assert (await store.read_stream(stream)).last == 2


async def test_a_damaged_event_stops_it_and_says_so(bench: Bench, store: EventStore) -> None:
    """M26: it does not pass over what it can't read; its health names the event."""
    reading = ReadModelManager()
    await bench.start(reading)
    damaged = NewEvent(type=aggregate.CREATED, data={"title": ""})
    appended = await store.append(AppendEvents(stream=aggregate.stream_of("1"), expected_version=0, events=(damaged,)))
    with pytest.raises(RemoteError, match="event 1") as raised:
        await reading.hub.proxy(ReadModelManager).list_todos(TodoQuery(at_least=1))
    assert raised.value.code == "todo.corrupt-event"
    with pytest.raises(aggregate.CorruptEvent):
        await reading.follow(appended.events[0])
    assert "event 1" in (await reading.check_health()).reason
