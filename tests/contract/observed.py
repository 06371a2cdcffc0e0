"""What a test sees of a transport, and ways to wait for it. Nothing here waits longer than ``LIMIT``."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from fabric.errors import FabricError
from fabric.transports.base import DeadLetter, Delivery, LinkEvent, LinkState, QueueSpec, Transport
from fabric.transports.topology import Topology

LIMIT = 20.0


class Inbox:
    """A receiver that keeps what it gets.

    Args:
        ack: acknowledge each at once.
    """

    def __init__(self, *, ack: bool = False) -> None:
        self._ack = ack
        self._got: asyncio.Queue[Delivery] = asyncio.Queue()

    def __call__(self, delivery: Delivery) -> None:
        if self._ack:
            delivery.ack()
        self._got.put_nowait(delivery)

    @property
    def waiting(self) -> int:
        """Deliveries that no test has looked at."""
        return self._got.qsize()

    async def next(self) -> Delivery:
        async with asyncio.timeout(LIMIT):
            return await self._got.get()

    async def bodies(self, count: int) -> list[bytes]:
        return [(await self.next()).body for _ in range(count)]


class Events:
    """The link events of a transport from now on."""

    def __init__(self, transport: Transport) -> None:
        self.seen: list[LinkEvent] = []
        self._more = asyncio.Event()
        self._end = transport.watch(self._note)

    def _note(self, event: LinkEvent) -> None:
        self.seen.append(event)
        self._more.set()

    async def until(self, wanted: Callable[[LinkEvent], bool]) -> LinkEvent:
        async with asyncio.timeout(LIMIT):
            while True:
                for event in self.seen:
                    if wanted(event):
                        return event
                self._more.clear()
                await self._more.wait()

    async def until_epoch(self, epoch: int) -> None:
        await self.until(lambda event: event.state is LinkState.READY and event.epoch == epoch)

    async def until_state(self, state: LinkState) -> None:
        await self.until(lambda event: event.state is state)


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Ask again until it does: for what a broker tells nobody."""
    async with asyncio.timeout(LIMIT):
        while not await holds():
            await asyncio.sleep(0.02)


async def letters(link: Transport, queue: str, count: int) -> list[DeadLetter]:
    """The dead letters of ``queue``, when there are ``count``."""
    found: list[DeadLetter] = []

    async def there() -> bool:
        found[:] = await link.dead_letters(queue, limit=100, timeout=LIMIT)
        return len(found) >= count

    await until(there)
    return found


async def outcome(work: Awaitable[object]) -> FabricError | None:
    """The error that ``work`` ended with, if any."""
    try:
        await work
    except FabricError as error:
        return error
    return None


def events(
    topology: Topology,
    *patterns: str,
    group: str = "default",
    prefetch: int = 10,
    max_attempts: int = 5,
    retry_delays: tuple[float, ...] = (0.05,),
    ordered: bool = False,
) -> QueueSpec:
    """A durable queue of events."""
    return topology.event_group(
        "suite",
        patterns,
        group=group,
        prefetch=prefetch,
        max_attempts=max_attempts,
        retry_delays=retry_delays,
        ordered=ordered,
    )
