"""To-dos found by meaning, and answers made of them."""

from __future__ import annotations

import datetime

import pytest

from fabric import Hub
from fabric.errors import NoInstance, RemoteError
from fabric.testing import Bench
from services.todo import aggregate
from services.todo.contracts import (
    Answer,
    AppendEvents,
    CreateTodo,
    Match,
    Matches,
    NewEvent,
    Question,
    SearchByMeaning,
    TodoStatus,
)
from services.todo.embedding import EmbeddingService
from services.todo.event_store import EventStore
from services.todo.rag import RagService, compose
from services.todo.vectors import VectorStore
from tests.unit.services.test_aggregate import recorded


class Rag:
    """The service, and a way to make things happen that it has taken in when the call returns."""

    def __init__(self, service: RagService, store: EventStore) -> None:
        self.service, self._store = service, store

    async def happen(self, id: str, *events: NewEvent, version: int = 0) -> None:
        request = AppendEvents(stream=aggregate.stream_of(id), expected_version=version, events=events)
        for event in (await self._store.append(request)).events:
            await self.service.follow(event)

    async def create(self, id: str, title: str, due: datetime.date | None = None) -> None:
        await self.happen(id, aggregate.create(CreateTodo(command_id=f"c{id}", title=title, due=due)))

    async def found(self, query: str, status: TodoStatus = TodoStatus.ANY) -> list[str]:
        matches = await self.service.hub.call(
            "rag-service", "search", SearchByMeaning(query=query, status=status), returns=Matches
        )
        return [match.id for match in matches.matches]

    async def ask(self, question: str) -> Answer:
        return await self.service.hub.call_by_capability("question-answering", "ask", Question(question=question), returns=Answer)


@pytest.fixture
async def rag(bench: Bench, store: EventStore) -> Rag:
    await bench.start(VectorStore(), instance="vectors-1")
    await bench.start(EmbeddingService(), instance="embedding-1")
    service = RagService()
    await bench.start(service, instance="rag-1")
    return Rag(service, store)


async def test_a_todo_is_found_by_meaning_from_its_creation_to_its_deletion(rag: Rag) -> None:
    """A paraphrase finds it, its new title replaces the old one, done it is found as done, deleted not at all."""
    await rag.create("1", "Buy milk")
    await rag.create("2", "Call mom")
    assert await rag.found("get dairy at the supermarket") == ["1"]
    await rag.happen("2", NewEvent(type=aggregate.RENAMED, data={"title": "Fix the bike"}), version=1)
    assert await rag.found("phone my mother") == []
    assert await rag.found("repair bicycle") == ["2"]
    await rag.happen("1", NewEvent(type=aggregate.COMPLETED, data={}), version=1)
    assert await rag.found("purchase milk", TodoStatus.OPEN) == []
    assert await rag.found("purchase milk", TodoStatus.DONE) == ["1"]
    await rag.happen("1", NewEvent(type=aggregate.DELETED, data={}), version=2)
    assert await rag.found("purchase milk") == []


async def test_questions_are_answered_from_the_todos(rag: Rag) -> None:
    """The answer is made of what was found, names its sources, respects done and open, and admits finding nothing."""
    await rag.create("1", "Pay the electricity bill", due=datetime.date(2024, 2, 1))
    await rag.create("2", "Pay the phone bill")
    await rag.happen("2", NewEvent(type=aggregate.COMPLETED, data={}), version=1)
    answer = await rag.ask("When is the power invoice due?")
    assert "“Pay the electricity bill” (due 2024-02-01)" in answer.answer
    assert answer.sources[0].id == "1"
    assert [source.id for source in (await rag.ask("Which bills did I pay already?")).sources] == ["2"]
    assert [source.id for source in (await rag.ask("Which bills are still open?")).sources] == ["1"]
    nothing = await rag.ask("What is the capital of France?")
    assert (nothing.answer, nothing.sources) == ("I found no to-do about that.", ())


async def test_it_indexes_what_was_there_before_it(bench: Bench, store: EventStore) -> None:
    """To-dos created before it started are found as soon as the events have been read."""
    event = aggregate.create(CreateTodo(command_id="c", title="Buy milk"))
    for number in range(250):
        await store.append(AppendEvents(stream=aggregate.stream_of(str(number)), expected_version=0, events=(event,)))
    await bench.start(VectorStore())
    await bench.start(EmbeddingService())
    service = RagService()
    await bench.start(service)
    await service._follower.catch_up()
    assert (await service.check_health()).details["vectors"] == 250


async def test_an_empty_store_of_vectors_is_filled_again(bench: Bench, rag: Rag) -> None:
    """S1 (systemd#18856): the vector store comes back with nothing in it, and the index is built anew without a hand."""
    await rag.create("1", "Buy milk")
    await rag.create("2", "Call mom")
    await bench.stop("vectors-1")
    await bench.start(VectorStore(), instance="vectors-2")
    await rag.service._follower.catch_up()
    assert await rag.found("purchase dairy") == ["1"]
    assert await rag.found("phone my mother") == ["2"]


async def test_without_the_event_store_it_answers_from_what_it_has(bench: Bench, rag: Rag) -> None:
    """The index does not grow then, and the health says so without calling it ill; without vectors it is."""
    await rag.create("1", "Buy milk")
    await bench.stop("store-1")
    ahead = recorded(NewEvent(type=aggregate.COMPLETED, data={}), 9, stream=aggregate.stream_of("1"))
    with pytest.raises(NoInstance, match="event-store"):
        await rag.service.follow(ahead)
    assert await rag.found("purchase dairy") == ["1"]
    health = await rag.service.check_health()
    assert health.is_ok
    assert "does not grow" in health.reason
    await bench.stop("vectors-1")
    assert "vector store does not answer" in (await rag.service.check_health()).reason


async def test_a_missing_embedding_is_named(bench: Bench, hub: Hub, rag: Rag) -> None:
    """Who searches while nobody embeds is told which capability is missing."""
    await bench.stop("embedding-1")
    with pytest.raises(RemoteError) as raised:
        await rag.found("milk")
    assert (raised.value.code, raised.value.details["service"]) == ("nested.NoInstance", "capability:embedding")


def test_an_answer_is_a_sentence() -> None:
    """One, several and none, with state or date, and the kind that was asked for."""
    milk = Match(id="1", title="Buy milk", done=False, score=0.5)
    bill = Match(id="2", title="Pay bill", done=True, due=datetime.date(2024, 2, 1), score=0.5)
    assert compose([milk], TodoStatus.ANY) == "One to-do fits: “Buy milk” (open)."
    assert compose([milk, bill], TodoStatus.ANY) == "2 to-dos fit: “Buy milk” (open); “Pay bill” (done)."
    assert compose([], TodoStatus.DONE) == "I found no done to-do about that."
