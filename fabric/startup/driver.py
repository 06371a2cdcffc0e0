"""Runs the engine in asyncio: events in one at a time, journalled before anything is done about them, actions out."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from fabric.clock import Clock
from fabric.errors import ConfigurationError, FabricError
from fabric.startup.engine import Engine
from fabric.startup.events import Action, Command, CommandLost, Event, SetTimer, TimerDue
from fabric.startup.participants import Journal, Participants
from fabric.tasks import Tasks

_log = logging.getLogger("fabric.startup")


class Driver:
    """One engine, its participants, its clock and its journal. Owns the tasks that carry commands.

    Args:
        changed: called in the event loop after each event, with what the engine asked for.
    """

    def __init__(
        self,
        engine: Engine,
        participants: Participants,
        *,
        clock: Clock,
        journal: Journal | None = None,
        changed: Callable[[list[Action]], None] = lambda actions: None,
    ) -> None:
        self.engine = engine
        self._participants, self._clock, self._journal, self._changed = participants, clock, journal, changed
        self._events: asyncio.Queue[tuple[Event, asyncio.Future[None] | None]] = asyncio.Queue()
        self._tasks = Tasks("start-up")
        self._timer: asyncio.Task[None] | None = None
        self._carriers: dict[str, asyncio.Queue[Command]] = {}
        self._unlisten: Callable[[], None] = lambda: None

    def open(self) -> None:
        """Begin to take events. Call it in the event loop."""
        self._tasks.start(self._take_events(), "take events")
        self._unlisten = self._participants.listen(self.post)

    def post(self, event: Event) -> None:
        """Hand in an event; it is taken in its turn."""
        self._events.put_nowait((event, None))

    async def tell(self, event: Event) -> None:
        """Hand in an event, and return when the engine has taken it.

        Raises:
            ConfigurationError: the engine refused it: a run that can't be. Nothing has changed.
            FabricError: the journal could not keep it; nothing was done about it.
        """
        taken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._events.put_nowait((event, taken))
        await taken

    async def _take_events(self) -> None:
        while True:
            event, taken = await self._events.get()
            try:
                now = self._clock.time()
                if self._journal is not None:
                    await self._journal.append(event, now)
                actions = self.engine.handle(event, now)
            except FabricError as error:
                if taken is None or taken.done():
                    _log.error("%s was not taken: %s", type(event).__name__, error)
                    if not isinstance(error, ConfigurationError):
                        # Nothing may be done about what is not journalled, but it must not be forgotten either.
                        self._tasks.start(self._again(event), f"offer {type(event).__name__} again")
                else:
                    taken.set_exception(error)
                continue
            for action in actions:
                self._perform(action)
            if taken is not None and not taken.done():
                taken.set_result(None)
            self._changed(actions)

    async def _again(self, event: Event) -> None:
        await self._clock.sleep(1.0)
        self.post(event)

    def _perform(self, action: Action) -> None:
        match action:
            case Command():
                self._carry(action)
            case SetTimer(at=at):
                if self._timer is not None:
                    self._timer.cancel()
                    self._timer = None
                if at is not None:
                    self._timer = self._tasks.start(self._ring(at), "timer")
            case _:
                pass

    async def _ring(self, at: float) -> None:
        await self._clock.sleep(max(0.0, at - self._clock.time()))
        self._timer = None
        self.post(TimerDue())

    def _carry(self, command: Command) -> None:
        """In order to one service, at the same time to different ones."""
        waiting = self._carriers.get(command.service)
        if waiting is None:
            waiting = self._carriers[command.service] = asyncio.Queue()
            self._tasks.start(self._carry_all(waiting), f"commands to {command.service}")
        waiting.put_nowait(command)

    async def _carry_all(self, waiting: asyncio.Queue[Command]) -> None:
        while True:
            command = await waiting.get()
            try:
                await self._participants.send(command)
            except FabricError as error:
                self.post(
                    CommandLost(
                        kind=command.kind,
                        service=command.service,
                        instance=command.instance,
                        attempt=command.attempt,
                        reason=str(error),
                    )
                )

    async def aclose(self) -> None:
        """Stop taking events. What runs is left as it is."""
        self._unlisten()
        await self._tasks.aclose()
