from __future__ import annotations

import asyncio

import pamqp.frame
from hypothesis import given
from hypothesis import strategies as st
from pamqp import commands

from fabric.transports.amqp_acks import Acks


class Queue:
    """The broker's side of a channel: what it has delivered and not yet heard of."""

    def __init__(self) -> None:
        self.open: dict[int, None] = {}
        self.acked: list[int] = []
        self.returned: list[int] = []
        self.frames = 0

    def hear(self, data: bytes) -> None:
        while data:
            size, channel, frame = pamqp.frame.unmarshal(data)
            data = data[size:]
            assert channel == 7
            assert isinstance(frame, commands.Basic.Ack | commands.Basic.Nack)
            self.frames += 1
            tag = frame.delivery_tag or 0
            assert tag in self.open, "the broker would close the channel for an unknown tag"
            tags = [known for known in self.open if known <= tag] if frame.multiple else [tag]
            for known in tags:
                del self.open[known]
            (self.acked if isinstance(frame, commands.Basic.Ack) else self.returned).extend(tags)


step = st.sampled_from(["deliver", "ack", "ack", "requeue", "turn"])


@given(st.lists(st.tuples(step, st.integers(0, 1000)), max_size=80))
def test_every_delivery_is_settled_once_as_it_was_meant(steps: list[tuple[str, int]]) -> None:
    """Whatever the order of deliveries, acks, returns and loop turns: the broker hears of each exactly what was said, once, and
    of none that nothing was said of."""

    async def run() -> None:
        queue = Queue()
        acks = Acks(queue.hear, 7)
        unsettled: list[int] = []
        acked: set[int] = set()
        returned: set[int] = set()
        tag = 0
        for what, choice in steps:
            if what == "deliver":
                tag += 1
                queue.open[tag] = None
                unsettled.append(tag)
                acks.add(tag)
            elif what == "turn":
                await asyncio.sleep(0)
            elif unsettled:
                chosen = unsettled.pop(choice % len(unsettled))
                if what == "ack":
                    acked.add(chosen)
                    acks.ack(chosen)
                else:
                    returned.add(chosen)
                    acks.requeue(chosen)
            assert acks.idle.is_set() == (not unsettled)
            assert len(acks) == len(unsettled)
        await asyncio.sleep(0)
        assert sorted(queue.acked) == sorted(acked)
        assert sorted(queue.returned) == sorted(returned)
        assert list(queue.open) == sorted(unsettled)

    asyncio.run(run())


async def test_what_is_settled_together_is_told_in_one_frame() -> None:
    """A hundred deliveries acknowledged in one loop turn, in any order, cost one frame; one that is still open splits them."""
    queue = Queue()
    acks = Acks(queue.hear, 7)
    for tag in range(1, 101):
        queue.open[tag] = None
        acks.add(tag)
    for tag in range(50, 0, -1):
        acks.ack(tag)
    await asyncio.sleep(0)
    assert (queue.frames, len(queue.open)) == (1, 50)
    for tag in (51, 53, 54):
        acks.ack(tag)
    await asyncio.sleep(0)
    assert queue.frames == 1 + 3
    assert next(iter(queue.open)) == 52


async def test_nothing_is_written_after_the_channel_is_gone() -> None:
    """Settling what came on a channel that is gone says nothing to anybody."""
    queue = Queue()
    acks = Acks(queue.hear, 7)
    for tag in (1, 2, 3):
        queue.open[tag] = None
        acks.add(tag)
    acks.ack(1)
    acks.close()
    acks.ack(2)
    acks.requeue(3)
    await asyncio.sleep(0)
    assert queue.frames == 0
