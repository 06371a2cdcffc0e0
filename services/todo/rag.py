"""To-dos found by what they mean, and questions answered from them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from typing import Any, Final

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from fabric import Health, Service, on_event, rpc
from fabric.errors import FabricError
from services.todo.aggregate import CREATED, EVERY_TODO_EVENT, evolve, fold, id_of, is_todo_stream
from services.todo.contracts import (
    Answer,
    Embeddings,
    EventPage,
    Match,
    Matches,
    Question,
    RecordedEvent,
    SearchByMeaning,
    Todo,
    TodoStatus,
    VectorBatch,
    VectorItem,
    VectorMatch,
    VectorQuery,
)
from services.todo.event_store import EventStore, whole_stream
from services.todo.follower import Follower
from services.todo.nested import passing_on
from services.todo.vectors import VectorStore

NAMESPACE: Final = "todos"
MIN_SCORE: Final = 0.2
"""Below it, texts have no more in common than hash collisions and single letters (see the test of paraphrases)."""

_DONE: Final = re.compile(r"\b(done|finished|completed|already)\b")
_OPEN: Final = re.compile(r"\b(open|left|remaining|still|pending|unfinished|outstanding)\b")


class RagSettings(BaseSettings):
    """From the environment.

    Attributes:
        startup_warmup_seconds: time that ``start`` spends as if it loaded a model from disk; for measuring how a fleet with
            a real one comes up.
    """

    model_config = SettingsConfigDict(env_ignore_empty=True)

    startup_warmup_seconds: float = Field(default=0.0, ge=0, le=600)


class RagService(Service):
    """Retrieval over the to-dos, and answers put together from what was retrieved.

    The index follows the events. Without the event store it answers from what it has; when the vector store has begun anew,
    the index is built anew.
    """

    name, version = "rag-service", "1.0.0"
    capabilities = ("semantic-search", "question-answering")
    dependencies = ("embedding-service", "vector-store")

    FOLLOW_SECONDS = 5.0

    def __init__(self, settings: RagSettings | None = None) -> None:
        self._settings = settings or RagSettings()
        self._follower = Follower(self.name, self._read, self._index, interval=self.FOLLOW_SECONDS)
        self._indexed = self._seen = ""

    async def start(self) -> None:
        await asyncio.sleep(self._settings.startup_warmup_seconds)
        await self._embed(["ready?"])
        await self._vectors.describe(NAMESPACE)
        self._follower.start()

    async def stop(self) -> None:
        await self._follower.aclose()

    async def check_health(self) -> Health:
        try:
            described = await self.hub.proxy(VectorStore, timeout=2.0).describe(NAMESPACE)
        except FabricError as error:
            return Health.bad(f"the vector store does not answer: {error}")
        facts: dict[str, Any] = {"vectors": described.vectors, "position": self._follower.position}
        if self._follower.trouble:
            return Health.ok(f"answers from an index that does not grow: {self._follower.trouble}", **facts)
        return Health.ok(**facts)

    @on_event(EVERY_TODO_EVENT)
    async def follow(self, event: RecordedEvent) -> None:
        await self._follower.take(event)

    @rpc(idempotent=True, timeout=5.0)
    async def search(self, query: SearchByMeaning) -> Matches:
        """To-dos that mean something like ``query.query``, the closest first."""
        with passing_on():
            if self._follower.position < query.at_least:
                await self._follower.catch_up()
            return Matches(matches=tuple(await self._closest(query.query, query.status, query.limit)))

    @rpc(idempotent=True, timeout=10.0)
    async def ask(self, question: Question) -> Answer:
        """An answer made of the titles, states and dates of the to-dos that fit, or that none does."""
        text = question.question.lower()
        status = TodoStatus.DONE if _DONE.search(text) else TodoStatus.OPEN if _OPEN.search(text) else TodoStatus.ANY
        with passing_on():
            matches = await self._closest(_OPEN.sub("", _DONE.sub("", text)) or text, status, question.limit)
        return Answer(answer=compose(matches, status), sources=tuple(matches))

    @property
    def _vectors(self) -> VectorStore:
        return self.hub.proxy(VectorStore)

    async def _closest(self, text: str, status: TodoStatus, limit: int) -> list[Match]:
        vector = (await self._embed([text])).vectors[0]
        # The store does not know of done and open, so ask for more than is wanted.
        wanted = limit if status is TodoStatus.ANY else min(500, limit * 5)
        query = VectorQuery(namespace=NAMESPACE, vector=vector, limit=wanted, min_score=MIN_SCORE)
        matches = [_match(found) for found in await self._vectors.query(query)]
        fitting = [match for match in matches if status is TodoStatus.ANY or match.done == (status is TodoStatus.DONE)]
        return fitting[:limit]

    async def _embed(self, texts: Sequence[str]) -> Embeddings:
        return await self.hub.call_by_capability("embedding", "embed", {"texts": list(texts)}, returns=Embeddings)

    async def _read(self, after: int, limit: int) -> EventPage:
        # Another store than the one that we filled is empty: begin at the first event, until that has worked.
        self._seen = (await self._vectors.describe(NAMESPACE)).store
        return await self.hub.proxy(EventStore).read_all(after if self._seen == self._indexed else 0, limit)

    async def _index(self, events: Sequence[RecordedEvent], expected: int) -> int:
        todos: dict[str, Todo | None] = {}
        for event in events:
            if is_todo_stream(event.stream):
                await self._take_in(event, todos)
        gone = [id for id, todo in todos.items() if todo is None]
        kept = [todo for todo in todos.values() if todo is not None]
        if gone:
            await self._vectors.remove(NAMESPACE, tuple(gone))
        if kept:
            vectors = (await self._embed([f"{todo.title}\n{todo.notes}" for todo in kept])).vectors
            items = tuple(_item(todo, vector) for todo, vector in zip(kept, vectors, strict=True))
            await self._vectors.upsert(VectorBatch(namespace=NAMESPACE, items=items))
        self._indexed = self._seen
        return events[-1].position

    async def _take_in(self, event: RecordedEvent, todos: dict[str, Todo | None]) -> None:
        id = id_of(event.stream)
        known = todos.get(id)
        if event.type == CREATED or known is not None:
            if known is None or event.version > known.version:
                todos[id] = evolve(known, event)
        elif id not in todos:
            # What came before is not in this batch; the stream tells it all, at times even more than the batch does.
            todos[id] = fold(await whole_stream(self.hub.proxy(EventStore), event.stream))


def compose(matches: Sequence[Match], status: TodoStatus) -> str:
    """A sentence for people. Every word that is not a connective comes from the to-dos."""
    kind = "" if status is TodoStatus.ANY else f"{status} "
    if not matches:
        return f"I found no {kind}to-do about that."
    if len(matches) == 1:
        return f"One {kind}to-do fits: {_described(matches[0])}."
    return f"{len(matches)} {kind}to-dos fit: {'; '.join(_described(match) for match in matches)}."


def _described(match: Match) -> str:
    state = "done" if match.done else f"due {match.due.isoformat()}" if match.due else "open"
    return f"“{match.title}” ({state})"


def _item(todo: Todo, vector: tuple[float, ...]) -> VectorItem:
    metadata = {"title": todo.title, "done": todo.done, "due": todo.due.isoformat() if todo.due else None}
    return VectorItem(id=todo.id, vector=vector, metadata=metadata)


def _match(found: VectorMatch) -> Match:
    return Match.model_validate({**found.metadata, "id": found.id, "score": max(0.0, found.score)})
