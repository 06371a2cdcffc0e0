"""The journal on a real RabbitMQ stream."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

import aiormq
import pytest

from fabric.coordination.journal_stream import StreamJournal
from fabric.errors import StaleCommand
from fabric.startup.events import CancelRequested
from fabric.transports.amqp_settings import AmqpSettings
from tests.brokers.node import BrokerNode

Make = Callable[[], StreamJournal]


@pytest.fixture
async def make(broker: BrokerNode) -> AsyncIterator[Make]:
    """Makes coordinators' accesses to one journal of this test's own."""
    name = f"test-{uuid.uuid4().hex[:12]}.journal"
    async with AsyncExitStack() as stack:

        def journal() -> StreamJournal:
            made = StreamJournal(AmqpSettings.from_url(broker.url), name)
            stack.push_async_callback(made.aclose)
            return made

        yield journal
    connection = await aiormq.connect(broker.url)
    channel = await connection.channel()
    await channel.queue_delete(name)
    await connection.close()


async def test_a_successor_reads_what_was_written_in_order(make: Make) -> None:
    """S2: the history is all that earlier leaders wrote, and each claim has a higher epoch."""
    first = make()
    await first.open()
    assert await first.leader() is None
    began = await first.claim("coordinator-1", 1)
    for number in range(50):
        await first.append([(CancelRequested(reason=f"no. {number}"), float(number))])
    second = make()
    await second.open()
    assert await second.leader() == began.claim
    history = await second.claim("coordinator-2", 1)
    assert [at for _, at in history.entries] == [float(number) for number in range(50)]
    assert history.claim.epoch > began.claim.epoch


async def test_a_leader_that_was_succeeded_can_write_nothing_that_counts(make: Make) -> None:
    """S2: the old leader is refused, and a third one does not read what it wrote; it can lead again by a new claim."""
    old, new = make(), make()
    await old.open()
    await new.open()
    await old.claim("coordinator-1", 1)
    await old.append([(CancelRequested(reason="counts"), 1.0)])
    await new.claim("coordinator-2", 1)
    with pytest.raises(StaleCommand):
        await old.append([(CancelRequested(reason="does not"), 2.0)])
    again = await old.claim("coordinator-1", 1)
    assert [event for event, _ in again.entries] == [CancelRequested(reason="counts")]
    with pytest.raises(StaleCommand):
        await new.append([(CancelRequested(reason="does not"), 3.0)])


async def test_a_history_that_begins_anew_leaves_out_what_was_before(make: Make) -> None:
    """The replay of a fleet that was brought up a hundred times is as long as that of its last run."""
    journal = make()
    await journal.open()
    await journal.claim("coordinator-1", 1)
    await journal.append([(CancelRequested(reason="old"), 1.0)])
    await journal.append([(CancelRequested(reason="new"), 2.0)], first=True)
    successor = make()
    await successor.open()
    history = await successor.claim("coordinator-1", 2)
    assert [event for event, _ in history.entries] == [CancelRequested(reason="new")]
