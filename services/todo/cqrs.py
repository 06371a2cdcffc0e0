"""The writing side: commands become events, or are refused. Questions go to the reading side."""

from __future__ import annotations

from fabric import Health, Service, ServiceError, rpc
from fabric.errors import FabricError
from services.todo import aggregate
from services.todo.contracts import (
    AppendEvents,
    ChangeTodo,
    CompleteTodo,
    CreateTodo,
    DeleteTodo,
    Identifier,
    NewEvent,
    Position,
    RecordedEvent,
    RenameTodo,
    Todo,
    TodoDeleted,
    TodoPage,
    TodoQuery,
)
from services.todo.event_store import EventStore, whole_stream
from services.todo.nested import passing_on
from services.todo.read_model import ReadModelManager

ATTEMPTS = 8


class CqrsCoordinator(Service):
    """Decides commands on what the events say, not on the read model, which may be behind.

    Two commands for one to-do at once: the store takes one and refuses the other, which is decided again on the new state.
    The same command again: its effect of the first time is the answer.
    """

    name, version = "cqrs-coordinator", "1.0.0"
    capabilities = ("todo-commands",)
    dependencies = ("prisma-service", "event-store", "message-broker")

    async def start(self) -> None:
        self._store = self.hub.proxy(EventStore)
        self._reading = self.hub.proxy(ReadModelManager)
        await self._store.read_all(limit=1)

    async def check_health(self) -> Health:
        try:
            page = await self.hub.proxy(EventStore, timeout=2.0).read_all(limit=1)
        except FabricError as error:
            return Health.bad(f"the event store does not answer: {error}")
        return Health.ok(last_position=page.last)

    @rpc(idempotent=True, timeout=10.0)
    async def create_todo(self, command: CreateTodo) -> Todo:
        """The new to-do; its id follows from ``command_id``.

        Raises:
            ServiceError: ``events.command-reused``.
        """
        stream = aggregate.stream_of(aggregate.new_id(command.command_id))
        with passing_on():
            events = await self._append(stream, 0, aggregate.create(command), command.command_id)
        todo = aggregate.fold(events)
        assert todo is not None
        return todo

    @rpc(idempotent=True, timeout=10.0)
    async def complete_todo(self, command: CompleteTodo) -> Todo:
        """The to-do, done; it may have been so before.

        Raises:
            ServiceError: ``todo.not-found``, ``todo.conflict`` or ``todo.busy``.
        """
        todo, _ = await self._change(command)
        assert todo is not None
        return todo

    @rpc(idempotent=True, timeout=10.0)
    async def rename_todo(self, command: RenameTodo) -> Todo:
        """The to-do under its new title.

        Raises:
            ServiceError: ``todo.not-found``, ``todo.conflict`` or ``todo.busy``.
        """
        todo, _ = await self._change(command)
        assert todo is not None
        return todo

    @rpc(idempotent=True, timeout=10.0)
    async def delete_todo(self, command: DeleteTodo) -> TodoDeleted:
        """Where it ended; its events stay.

        Raises:
            ServiceError: ``todo.not-found``, ``todo.conflict`` or ``todo.busy``.
        """
        _, position = await self._change(command)
        return TodoDeleted(id=command.id, position=position)

    @rpc(idempotent=True, timeout=5.0)
    async def list_todos(self, query: TodoQuery) -> TodoPage:
        with passing_on():
            return await self._reading.list_todos(query)

    @rpc(idempotent=True, timeout=5.0)
    async def get_todo(self, id: Identifier, at_least: Position = 0) -> Todo:
        with passing_on():
            return await self._reading.get_todo(id, at_least)

    @rpc(idempotent=True, timeout=5.0)
    async def search_todos(self, query: TodoQuery) -> TodoPage:
        with passing_on():
            return await self._reading.search_todos(query)

    async def _change(self, command: ChangeTodo) -> tuple[Todo | None, int]:
        """The to-do after the command, and the position of the event that made it so."""
        stream = aggregate.stream_of(command.id)
        for _ in range(ATTEMPTS):
            with passing_on():
                history = await whole_stream(self._store, stream)
            earlier = [at for at, event in enumerate(history, start=1) if event.command_id == command.command_id]
            if earlier:
                return aggregate.fold(history[: earlier[-1]]), history[earlier[-1] - 1].position
            todo = aggregate.fold(history)
            event = aggregate.change(todo, command)
            if event is None:
                return todo, history[-1].position
            try:
                with passing_on():
                    appended = await self._append(stream, len(history), event, command.command_id)
            except ServiceError as error:
                if error.code != "events.version-conflict":
                    raise
                continue
            return aggregate.evolve(todo, appended[0]), appended[0].position
        raise ServiceError(
            f"to-do {command.id} was changed by others {ATTEMPTS} times in a row; try again",
            code="todo.busy",
            retryable=True,
            details={"id": command.id},
        )

    async def _append(self, stream: str, expected: int, event: NewEvent, command_id: str) -> tuple[RecordedEvent, ...]:
        request = AppendEvents(stream=stream, expected_version=expected, events=(event,), command_id=command_id)
        return (await self._store.append(request)).events
