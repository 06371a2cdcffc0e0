"""Commands on their way out: in order for each service, and no service waits for another."""

from __future__ import annotations

import asyncio

from fabric.startup.events import Command, CommandLost
from fabric.startup.participants import Participants, Receive


class Outbox:
    """Hands commands over in the background.

    Args:
        participants: where they go.
        receive: told of each command that could not be handed over within its timeout.
    """

    def __init__(self, participants: Participants, receive: Receive) -> None:
        self._participants, self._receive = participants, receive
        self._queues: dict[str, asyncio.Queue[Command]] = {}
        self._tasks: list[asyncio.Task[None]] = []

    def post(self, command: Command) -> None:
        """Never blocks."""
        queue = self._queues.get(command.service)
        if queue is None:
            queue = self._queues[command.service] = asyncio.Queue()
            task = asyncio.get_running_loop().create_task(self._send_all(queue), name=f"startup-{command.service}")
            self._tasks.append(task)
        queue.put_nowait(command)

    async def aclose(self) -> None:
        """What has not gone out stays here. May be called twice."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _send_all(self, queue: asyncio.Queue[Command]) -> None:
        while True:
            command = await queue.get()
            try:
                async with asyncio.timeout(command.timeout):
                    await self._participants.send(command)
            except Exception as error:
                # Whatever it was, nobody has the command, and the run must not wait for it.
                reason = str(error) or f"not handed over in {command.timeout:g} s"
                lost = CommandLost(
                    kind=command.kind,
                    service=command.service,
                    instance=command.instance,
                    attempt=command.attempt,
                    reason=reason,
                )
                self._receive(lost)
