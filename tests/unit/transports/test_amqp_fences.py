"""A channel without confirms: one question now and then says what the broker has, and is not asked when nobody cares."""

from __future__ import annotations

import asyncio

import pytest

from fabric.errors import ConnectionLost, FabricError, NoRoute
from fabric.transports import amqp_confirms, amqp_frames
from fabric.transports.amqp_confirms import Fences, Sending
from tests.puppet import LIMIT, eventually


class Channel:
    """Counts the questions; the test answers them."""

    def __init__(self) -> None:
        self.asked = 0
        self.fences = Fences(self._ask)

    def _ask(self) -> None:
        self.asked += 1

    def send(self, id: str) -> asyncio.Future[None]:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def told(error: FabricError | None) -> None:
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(error)

        sending = Sending(told, "rpc", f"to-{id}", id.encode(), LIMIT, asyncio.get_running_loop().time() + LIMIT)
        done.add_done_callback(lambda done: sending.forget())
        self.fences.add(sending)
        return done

    def give_back(self, id: str) -> None:
        header = amqp_frames.properties(content_type="x", persistent=False, priority=0, user_id=None, message_id=id)
        self.fences.on_content(b"", header, b"")


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(amqp_confirms, "FENCE_SECONDS", 0.001)


async def test_one_question_for_all_that_was_sent() -> None:
    """Three messages, one question; its answer is for those before it, and the one behind it is asked about next."""
    channel = Channel()
    sent = [channel.send(id) for id in "abc"]
    assert channel.asked == 0
    await eventually(lambda: channel.asked == 1)
    late = channel.send("d")
    assert channel.fences.on_fence()
    assert all(done.done() and done.exception() is None for done in sent)
    assert not late.done()
    await eventually(lambda: channel.asked == 2)
    assert channel.fences.on_fence()
    assert late.done()
    assert not channel.fences.on_fence(), "the question was another's"


async def test_what_comes_back_failed() -> None:
    """M5 (MassTransit#2229): a returned message is told at once, without any question, and the answer later changes nothing."""
    channel = Channel()
    gone, there = channel.send("a"), channel.send("b")
    channel.give_back("a")
    with pytest.raises(NoRoute):
        await gone
    await eventually(lambda: channel.asked == 1)
    channel.fences.on_fence()
    await there


async def test_nobody_is_asked_about_what_nobody_waits_for() -> None:
    """What was answered before the question is due is forgotten; a question about what is left is asked."""
    channel = Channel()
    for id in "ab":
        channel.send(id).cancel()
    await asyncio.sleep(0)
    channel.fences.look()
    assert channel.asked == 0
    kept = channel.send("c")
    await eventually(lambda: channel.asked == 1)
    channel.fences.on_fence()
    await kept


async def test_a_lost_link_leaves_them_unknown() -> None:
    """What the broker is not known to have when the link is lost may have arrived or not; no question is asked any more."""
    channel = Channel()
    done = channel.send("a")
    channel.fences.lose("cut")
    with pytest.raises(ConnectionLost, match="cut"):
        await done
    channel.fences.look()
    assert channel.asked == 0
