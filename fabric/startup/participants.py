"""The seam between start-up and the world: how commands go out, how events come in, where they are kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from fabric.startup.events import Command, Event

Receive = Callable[[Event], None]
"""Takes one event. Must be called in the thread of the event loop; never blocks and never raises."""


class Participants(Protocol):
    """The instances of the fleet, as far as start-up is concerned.

    The message bus, a supervisor of local processes, or a simulation stands behind it. What may come in are the events
    of ``fabric.startup.events`` about instances; they may be late, doubled or reordered, the engine sorts that out. The end
    of a process that they bring about themselves to carry out a START is not reported.
    """

    def listen(self, receive: Receive) -> Callable[[], None]:
        """From now on every event about an instance goes to ``receive``. Returns what ends that."""
        ...

    async def send(self, command: Command) -> None:
        """Hands a command over.

        Returns when it is on its way, which is not when it is done: that comes as an event. Commands to one service are
        handed over in order; those to different services at the same time.

        Raises:
            FabricError: it could not be handed over, so nobody has it. Becomes ``CommandLost``.
        """
        ...


class Journal(Protocol):
    """Where events are kept before anything is done about them, so that a successor can go on from there."""

    async def append(self, entries: Sequence[tuple[Event, float]]) -> None:
        """Returns when these events, with their times, are safe. Entries keep the order in which they were handed in.

        Raises:
            FabricError: they are not all safe; nothing may be done about any of them then.
        """
        ...
