"""What the gateway offers, over HTTP and over the bus alike: each operation a few calls within one deadline."""

from __future__ import annotations

import uuid
from typing import Any, Self, TypeVar

from pydantic import ConfigDict, Field, model_validator

from fabric import Hub
from fabric.clock import Clock
from fabric.errors import CallError, CircuitOpen, NoInstance
from services.todo.contracts import (
    Answer,
    CompleteTodo,
    Contract,
    CreateTodo,
    DeleteTodo,
    Identifier,
    Matches,
    Question,
    RenameTodo,
    SearchByMeaning,
    Title,
    Todo,
    TodoDeleted,
    TodoPage,
    TodoQuery,
)
from services.todo.fleet_contracts import PolicySet, RegistrySnapshot, TrafficPolicy

T = TypeVar("T")


class NewTodo(CreateTodo):
    """A to-do to create. Without ``command_id`` each call is a new intention."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    command_id: Identifier = Field(default_factory=lambda: uuid.uuid4().hex)


class TodoPatch(Contract):
    """What to change; at least one. A to-do that is done stays done."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: Title | None = None
    done: bool | None = None
    expected_version: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _something(self) -> Self:
        if self.title is None and self.done is None:
            raise ValueError("give a title, done, or both")
        if self.done is False:
            raise ValueError("a to-do that is done stays done; create a new one")
        return self


class FoundTodo(Contract):
    """``score``: 0 to 1, how close in meaning; None where words were compared."""

    todo: Todo
    score: float | None


class FoundTodos(Contract):
    """``by``: ``meaning``, or ``words`` while the services for meaning are not there."""

    query: str
    by: str
    found: tuple[FoundTodo, ...]


class Deadline:
    """The end of one request, for all calls made for it."""

    __slots__ = ("_clock", "_end")

    def __init__(self, clock: Clock, seconds: float) -> None:
        self._clock, self._end = clock, clock.monotonic() + seconds

    def remaining(self) -> float:
        """Seconds, at least a little, so that the call itself is what times out and says where."""
        return max(0.001, self._end - self._clock.monotonic())


class TodoOperations:
    """The to-do application as its users see it."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._policies: dict[str, TrafficPolicy] = {}

    def adopt(self, policies: PolicySet) -> None:
        for policy in policies.policies:
            self.adopt_one(policy)

    def adopt_one(self, policy: TrafficPolicy) -> None:
        """Take a policy into use unless a newer one is."""
        known = self._policies.get(policy.service)
        if known is None or policy.revision > known.revision:
            self._policies[policy.service] = policy

    async def create(self, new: NewTodo, deadline: Deadline) -> Todo:
        return await self._call("cqrs-coordinator", "create_todo", new, Todo, deadline)

    async def patch(self, id: str, patch: TodoPatch, command_id: str, deadline: Deadline) -> Todo:
        """Rename, then complete, as far as asked. The version is expected of the first change."""
        changed: Todo | None = None
        if patch.title is not None:
            rename = RenameTodo(
                id=id, title=patch.title, expected_version=patch.expected_version, command_id=f"{command_id}.rename"
            )
            changed = await self._call("cqrs-coordinator", "rename_todo", rename, Todo, deadline)
        if patch.done:
            expected = patch.expected_version if changed is None else None
            complete = CompleteTodo(id=id, expected_version=expected, command_id=f"{command_id}.complete")
            changed = await self._call("cqrs-coordinator", "complete_todo", complete, Todo, deadline)
        assert changed is not None
        return changed

    async def delete(self, id: str, expected_version: int | None, command_id: str, deadline: Deadline) -> TodoDeleted:
        command = DeleteTodo(id=id, expected_version=expected_version, command_id=command_id)
        return await self._call("cqrs-coordinator", "delete_todo", command, TodoDeleted, deadline)

    async def list(self, query: TodoQuery, deadline: Deadline) -> TodoPage:
        return await self._call("cqrs-coordinator", "list_todos", query, TodoPage, deadline)

    async def get(self, id: str, at_least: int, deadline: Deadline) -> Todo:
        return await self._call("cqrs-coordinator", "get_todo", {"id": id, "at_least": at_least}, Todo, deadline)

    async def search(self, query: SearchByMeaning, deadline: Deadline) -> FoundTodos:
        """By meaning; by words when the optional services for meaning are not there."""
        try:
            matches = await self._call("rag-service", "search", query, Matches, deadline)
        except CallError as error:
            if not _absent(error):
                raise
            words = TodoQuery(text=query.query, status=query.status, limit=query.limit, at_least=query.at_least)
            page = await self._call("cqrs-coordinator", "search_todos", words, TodoPage, deadline)
            return FoundTodos(query=query.query, by="words", found=tuple(FoundTodo(todo=todo, score=None) for todo in page.todos))
        scores = {match.id: match.score for match in matches.matches}
        if not scores:
            return FoundTodos(query=query.query, by="meaning", found=())
        # The index may be a moment ahead of the read model or behind it; what only one of them knows is left out.
        page = await self.list(TodoQuery(ids=tuple(scores), limit=len(scores), at_least=query.at_least), deadline)
        ranked = sorted(page.todos, key=lambda todo: -scores[todo.id])
        found = tuple(FoundTodo(todo=todo, score=scores[todo.id]) for todo in ranked)
        return FoundTodos(query=query.query, by="meaning", found=found)

    async def ask(self, question: Question, deadline: Deadline) -> Answer:
        return await self._call("rag-service", "ask", question, Answer, deadline)

    async def services(self, deadline: Deadline) -> RegistrySnapshot:
        return await self._call("service-registry", "snapshot", None, RegistrySnapshot, deadline)

    async def _call(self, service: str, method: str, payload: Any, returns: type[T], deadline: Deadline) -> T:
        policy = self._policies.get(service)
        limits = [deadline.remaining()] + ([policy.timeout] if policy is not None and policy.timeout is not None else [])
        return await self._hub.call(service, method, payload, returns=returns, timeout=min(limits))


def _absent(error: CallError) -> bool:
    nested = getattr(error, "code", None)
    return isinstance(error, (NoInstance, CircuitOpen)) or nested in ("nested.NoInstance", "nested.CircuitOpen")
