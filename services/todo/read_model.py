"""To-dos as they are to be read: a table that follows the events."""

from __future__ import annotations

from collections.abc import Sequence

from fabric import Health, Service, ServiceError, on_event, rpc
from fabric.errors import FabricError
from services.todo.aggregate import EVERY_TODO_EVENT, evolve, id_of, is_todo_stream
from services.todo.contracts import EventPage, Identifier, Position, Projection, RecordedEvent, Todo, TodoPage, TodoQuery
from services.todo.event_store import EventStore
from services.todo.follower import Follower
from services.todo.nested import passing_on
from services.todo.prisma import PrismaService

PROJECTION = "todos"


class ReadModelManager(Service):
    """Projects the events into rows. The rows and the position that they reach are written in one transaction, so each
    event counts once however often it comes, and several instances don't get in each other's way."""

    name, version = "read-model-manager", "1.0.0"
    capabilities = ("todo-queries",)
    dependencies = ("event-store",)

    FOLLOW_SECONDS = 10.0

    def __init__(self) -> None:
        self._follower = Follower(self.name, self._read, self._project, interval=self.FOLLOW_SECONDS)

    async def start(self) -> None:
        await self._follower.restart(await self._database.checkpoint(PROJECTION))
        await self._follower.catch_up()
        self._follower.start()

    async def stop(self) -> None:
        await self._follower.aclose()

    @property
    def _database(self) -> PrismaService:
        return self.hub.proxy(PrismaService)

    async def check_health(self) -> Health:
        if self._follower.trouble:
            return Health.bad(f"behind the events since position {self._follower.position}: {self._follower.trouble}")
        try:
            last = (await self.hub.proxy(EventStore, timeout=2.0).read_all(self._follower.position, 1)).last
        except FabricError as error:
            return Health.bad(f"the event store does not answer: {error}")
        return Health.ok(position=self._follower.position, behind=max(0, last - self._follower.position))

    @on_event(EVERY_TODO_EVENT)
    async def follow(self, event: RecordedEvent) -> None:
        await self._follower.take(event)

    @rpc(idempotent=True, timeout=5.0)
    async def list_todos(self, query: TodoQuery) -> TodoPage:
        """Oldest first. With ``at_least`` the answer has taken in the events up to there.

        Raises:
            ServiceError: ``todo.bad-cursor``.
        """
        await self._reach(query.at_least)
        with passing_on():
            return await self._database.select_todos(query)

    @rpc(idempotent=True, timeout=5.0)
    async def get_todo(self, id: Identifier, at_least: Position = 0) -> Todo:
        """One to-do.

        Raises:
            ServiceError: ``todo.not-found``.
        """
        page = await self.list_todos(TodoQuery(ids=(id,), limit=1, at_least=at_least))
        if not page.todos:
            raise ServiceError(f"there is no to-do {id}", code="todo.not-found", details={"id": id})
        return page.todos[0]

    @rpc(idempotent=True, timeout=5.0)
    async def search_todos(self, query: TodoQuery) -> TodoPage:
        """The to-dos with all words of ``query.text`` in their title or notes.

        Raises:
            ServiceError: ``todo.no-words`` or ``todo.bad-cursor``.
        """
        if not query.text.strip():
            raise ServiceError("a search needs words; list_todos answers without", code="todo.no-words")
        return await self.list_todos(query)

    async def _read(self, after: int, limit: int) -> EventPage:
        return await self.hub.proxy(EventStore).read_all(after, limit)

    async def _reach(self, position: int) -> None:
        if self._follower.position < position:
            with passing_on():
                await self._follower.catch_up()

    async def _project(self, events: Sequence[RecordedEvent], expected: int) -> int:
        todos = await self._current(events)
        for event in events:
            if is_todo_stream(event.stream):
                todos[id_of(event.stream)] = evolve(todos.get(id_of(event.stream)), event)
        step = Projection(
            name=PROJECTION,
            expected=expected,
            position=events[-1].position,
            todos=tuple(todo for todo in todos.values() if todo is not None),
            deleted=tuple(id for id, todo in todos.items() if todo is None),
        )
        if await self._database.project(step):
            return step.position
        return await self._database.checkpoint(PROJECTION)

    async def _current(self, events: Sequence[RecordedEvent]) -> dict[str, Todo | None]:
        ids = {id_of(event.stream) for event in events if is_todo_stream(event.stream)}
        if not ids:
            return {}
        page = await self._database.select_todos(TodoQuery(ids=tuple(sorted(ids)), limit=len(ids)))
        return {todo.id: todo for todo in page.todos}
