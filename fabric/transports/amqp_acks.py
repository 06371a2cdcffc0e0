"""Acknowledging what came on one channel, in as few frames as the order of settling allows."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from fabric.transports import amqp_frames as frames


class Acks:
    """The unsettled deliveries of one channel.

    What is settled in one loop turn is told together, and all that nothing unsettled stands before in one frame: a quorum
    queue has a log entry for each settling frame, and that is most of what an event costs the broker.

    Args:
        write: takes whole frames.
        channel: their number.

    Attributes:
        idle: set while nothing is unsettled.
    """

    def __init__(self, write: Callable[[bytes], None], channel: int) -> None:
        self._write, self._channel = write, channel
        self._unsettled: dict[int, None] = {}
        self._done: list[int] = []
        self._open = True
        self.idle = asyncio.Event()
        self.idle.set()

    def __len__(self) -> int:
        return len(self._unsettled)

    def add(self, tag: int) -> None:
        """In the order of delivery."""
        self._unsettled[tag] = None
        self.idle.clear()

    def ack(self, tag: int) -> None:
        self._settle(tag)
        if not self._done:
            asyncio.get_running_loop().call_soon(self.flush)
        self._done.append(tag)

    def requeue(self, tag: int) -> None:
        """Give it back to its queue."""
        self._settle(tag)
        if self._open:
            self._write(frames.nack(self._channel, tag, requeue=True))

    def _settle(self, tag: int) -> None:
        self._unsettled.pop(tag, None)
        if not self._unsettled:
            self.idle.set()

    def flush(self) -> None:
        """Write what was settled."""
        done, self._done = self._done, []
        if not done or not self._open:
            return
        bound = next(iter(self._unsettled), None)
        together = [tag for tag in done if bound is None or tag < bound]
        if together:
            self._write(frames.ack(self._channel, max(together), multiple=len(together) > 1))
        for tag in done:
            if bound is not None and tag > bound:
                self._write(frames.ack(self._channel, tag))

    def close(self) -> None:
        """The channel is gone: nothing may be written on it any more."""
        self._open = False
        self.idle.set()
