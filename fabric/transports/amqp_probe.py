"""Tries on a real broker what a hub will need, under names of its own that it removes again.

Nothing that others use is changed: exchanges and queues that exist are only compared, and messages are published in
transactions that are rolled back, or to nobody.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import aiormq.exceptions as aiormq
from aiormq.channel import Channel
from pamqp import commands

from fabric.errors import FabricError
from fabric.transports import amqp_durable, topology
from fabric.transports.amqp_facts import COORDINATOR, Facts, Outcome, QueueFacts, Trial, Wanted
from fabric.transports.amqp_link import Link
from fabric.transports.amqp_settings import AmqpSettings
from fabric.transports.amqp_stream import STREAM_ARGUMENTS
from fabric.transports.base import QueueSpec

_PINGS = 5
_SIZE_SECONDS = 30.0
_ALARM_SECONDS = 3.0
_INBOX: dict[str, Any] = {"x-max-priority": 3}

Question = Callable[[Channel], Awaitable[Any]]


def _declare(queue: str, arguments: Mapping[str, Any]) -> Question:
    return lambda channel: channel.queue_declare(queue, durable=True, arguments=dict(arguments))


def _bind_for_a_moment(queue: str, exchange: str, key: str) -> Question:
    """So short that nobody takes us for somebody who answers."""

    async def bind(channel: Channel) -> None:
        await channel.queue_bind(queue, exchange, key)
        await channel.queue_unbind(queue, exchange, key)

    return bind


def _publish_unseen(exchange: str, key: str, user: str | None) -> Question:
    """Publish without anybody getting it: the broker checks what it takes, and forgets it."""

    async def publish(channel: Channel) -> None:
        properties = commands.Basic.Properties(user_id=user)
        await channel.tx_select()
        await channel.basic_publish(b"", exchange=exchange, routing_key=key, properties=properties, wait=False)
        await channel.tx_rollback()

    return publish


def _outcome(error: FabricError) -> Outcome:
    """Each kind of refusal closes the channel with a code of its own."""
    match error.__cause__:
        case aiormq.ChannelAccessRefused():
            return Outcome.REFUSED
        case aiormq.ChannelPreconditionFailed():
            return Outcome.CONFLICT
        case aiormq.ChannelNotFoundEntity():
            return Outcome.MISSING
        case _:
            return Outcome.FAILED


class _Bench:
    """Tries one thing after another on a link; a refusal costs a channel, not the rest."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._channel: Channel | None = None

    async def attempt(self, doing: str, needs: str, question: Question, *, skip: str = "") -> Trial:
        """``skip``: why it is not even tried."""
        if skip or self._link.lost.done():
            return Trial(doing=doing, needs=needs, outcome=Outcome.SKIPPED, said=skip or self._link.lost.result())
        try:
            if self._channel is None or self._channel.is_closed:
                self._channel = await self._link.channel()
            channel = self._channel
            await self._link.ask(lambda: question(channel), doing=doing)
        except FabricError as error:
            # whatever it was, later trials get a channel that knows nothing of it
            if self._channel is not None:
                await self._link.close_channel(self._channel)
            self._channel = None
            return Trial(doing=doing, needs=needs, outcome=_outcome(error), said=error.text.removeprefix(f"{doing}: "))
        return Trial(doing=doing, needs=needs, outcome=Outcome.DONE)


class Probe:
    """One examination. ``links``: to consume and to publish on, both fresh; an alarm stops the second one."""

    def __init__(self, settings: AmqpSettings, wanted: Wanted, consume: Link, publish: Link) -> None:
        self._settings, self._wanted, self._topology = settings, wanted, wanted.topology
        self._consume, self._publish = consume, publish
        self._bench, self._sender = _Bench(consume), _Bench(publish)
        self._mark = f"doctor-{secrets.token_hex(6)}"
        self._trials: list[Trial] = []
        self._inbox = ""
        self._own = ""
        """An exchange that we made."""
        self._target = self._topology.rpc
        """One where messages with our mark as their key reach nobody; "" if there is none."""

    async def run(self, opened_in: float) -> Facts:
        pings = tuple([await self._consume.ping(timeout=self._settings.operation_timeout) for _ in range(_PINGS)])
        alarm = await self._alarm()
        exchanges = [await self._exchange(spec.name, spec.kind.value) for spec in self._topology.exchanges]
        there = [trial.needs for trial in exchanges if trial.outcome is not Outcome.MISSING]
        left: list[str] = []
        try:
            if len(there) < len(exchanges):
                await self._own_exchange(there)
            await self._own_inbox(there)
            await self._publishes(there, skip=alarm or "")
            if self._wanted.patterns != ():
                await self._own_group(there, skip=alarm or "")
            impersonation = await self._impersonation(skip=alarm or "")
            message = await self._largest(skip=alarm or "")
        finally:
            left += await self._clean()
        return Facts(
            product=self._consume.server_property("product"),
            version=self._consume.server_version,
            cluster=self._consume.server_property("cluster_name"),
            channel_max=self._consume.channel_max,
            frame_max=self._consume.frame_max,
            opened_in=opened_in,
            pings=pings,
            alarm=alarm,
            exchanges=tuple(exchanges),
            trials=tuple(self._trials),
            impersonation=impersonation,
            message=message,
            journal=await self._journal() if self._wanted.journal else None,
            queues=tuple([await self._queue(spec) for spec in self._wanted.queues]),
            left=tuple(left),
        )

    async def _alarm(self) -> str | None:
        """A broker that takes no publishes says so at the first one, and then reads nothing more of that connection."""
        lost = self._publish.lost
        told: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()

        def on_change() -> None:
            if self._publish.blocked is not None and not told.done():
                told.set_result(self._publish.blocked)

        self._publish.on_change = on_change

        async def publish() -> None:
            channel = await self._publish.channel(confirms=True)
            await channel.basic_publish(b"", exchange="", routing_key=self._mark)

        publishing = asyncio.ensure_future(publish())
        waits: set[asyncio.Future[Any]] = {publishing, told, lost}
        await asyncio.wait(waits, timeout=_ALARM_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        if told.done():
            alarm = told.result()
        elif publishing.done() or lost.done():
            alarm = None
        else:
            alarm = f"a message was not confirmed within {_ALARM_SECONDS:g} s, and no reason was given"
        publishing.cancel()
        await asyncio.gather(publishing, return_exceptions=True)
        return alarm

    async def _exchange(self, name: str, kind: str) -> Trial:
        """Compared, without making it: ``needs`` is only its name."""
        seen = await self._bench.attempt(
            f"looking for the exchange {name!r}", name, lambda channel: channel.exchange_declare(name, passive=True)
        )
        if seen.outcome is not Outcome.DONE:
            return seen
        same = await self._bench.attempt(
            f"comparing the exchange {name!r}",
            name,
            lambda channel: channel.exchange_declare(name, exchange_type=kind, durable=True),
        )
        return seen if same.outcome is Outcome.REFUSED else same  # whoever may not make it may use it all the same

    async def _try(self, doing: str, needs: str, question: Question, *, skip: str = "", bench: _Bench | None = None) -> bool:
        trial = await (bench or self._bench).attempt(doing, needs, question, skip=skip)
        self._trials.append(trial)
        return trial.outcome is Outcome.DONE

    async def _own_exchange(self, there: Sequence[str]) -> None:
        """Where exchanges are missing: whether we may make them, and one to try on what needs one."""
        name = f"{self._topology.namespace}.{self._mark}"
        made = await self._try(
            "declare exchanges", f"configure on {name}", lambda channel: channel.exchange_declare(name, exchange_type="direct")
        )
        self._own = name if made else ""
        if self._topology.rpc not in there:
            self._target = self._own

    async def _own_inbox(self, there: Sequence[str]) -> None:
        async def declare(channel: Channel) -> None:
            answer = await channel.queue_declare("", exclusive=True, arguments=_INBOX)
            self._inbox = str(answer.queue)

        made = await self._try("declare an inbox", "configure on amq.gen", declare)
        skip = "" if made else "there is no inbox"
        for exchange, key in self._bindings():
            if exchange in there:
                await self._try(
                    f"bind an inbox to {exchange!r} with {key!r}",
                    f"write on amq.gen and read on {exchange}",
                    _bind_for_a_moment(self._inbox, exchange, key),
                    skip=skip,
                )
        await self._try(
            "take from an inbox", "read on amq.gen", lambda channel: channel.basic_get(self._inbox, no_ack=True), skip=skip
        )

    def _bindings(self) -> list[tuple[str, str]]:
        """One of each kind that a service makes."""
        names, service = self._topology, self._wanted.service or self._mark
        return [
            (names.rpc, self._mark),
            *([(names.broadcast, "")] if self._wanted.broadcasts else []),
            (names.control, topology.command(service)),
            (names.discovery, topology.who_service(service)),
            (names.discovery, topology.up_service(self._mark)),
        ]

    async def _publishes(self, there: Sequence[str], *, skip: str) -> None:
        names, service = self._topology, self._wanted.service or self._mark
        for exchange, key in (
            (names.rpc, self._mark),
            (names.events, self._mark),
            (names.broadcast, self._mark),
            (names.control, topology.vote(service)),
            (names.discovery, topology.up_service(service)),
            (names.discovery, topology.who_service(self._mark)),
        ):
            if exchange in there:
                await self._try_publish(exchange, key, skip=skip)

    async def _try_publish(self, exchange: str, key: str, *, skip: str) -> None:
        await self._try(
            f"publish to {exchange or 'the default exchange'!r} with {key!r}",
            f"write on {exchange or 'amq.default'}",
            _publish_unseen(exchange, key, self._settings.vouched_user),
            skip=skip,
            bench=self._sender,
        )

    def _group(self) -> QueueSpec:
        """A durable queue of nobody."""
        service = self._wanted.service or self._mark
        return self._topology.event_group(service, (), group=self._mark, prefetch=1, max_attempts=5, retry_delays=(1.0,))

    def _group_queues(self) -> dict[str, dict[str, Any]]:
        spec = self._group()
        assert spec.name is not None
        return {
            amqp_durable.dead_letter_queue(spec.name): amqp_durable.dead_letter_arguments(),
            spec.name: amqp_durable.queue_arguments(spec),
            amqp_durable.delay_queue(spec.name, 1.0): amqp_durable.delay_arguments(spec.name, 1.0),
        }

    async def _own_group(self, there: Sequence[str], *, skip: str) -> None:
        """What it takes to subscribe to events: three durable queues, and the default exchange between them."""
        queues = self._group_queues()
        spec = self._group()
        name = spec.name
        assert name is not None
        made = True
        for queue, arguments in queues.items():
            made &= await self._try(
                f"declare the durable queue {queue!r}",
                f"configure, write and read on {queue}, and write on amq.default",
                _declare(queue, arguments),
            )
        missing = "" if made else "there is no such queue"
        events = self._topology.events
        for key in self._wanted.patterns or (self._mark,):
            if events in there:
                await self._try(
                    f"bind a queue to {events!r} with {key!r}",
                    f"write on {name} and read on {events}",
                    _bind_for_a_moment(name, events, key),
                    skip=missing,
                )
        await self._try("take from a durable queue", f"read on {name}", lambda channel: channel.basic_get(name), skip=missing)
        await self._try_publish("", name, skip=missing or skip)

    async def _impersonation(self, *, skip: str) -> Trial:
        return await self._sender.attempt(
            "publish as somebody else",
            "the tag impersonator",
            _publish_unseen(self._target, self._mark, f"not-{self._settings.user}"),
            skip=skip if self._target else "there is no exchange to try it on",
        )

    async def _largest(self, *, skip: str) -> Trial:
        exchange, size = self._target, self._wanted.message_bytes
        doing = f"publish a message of {size} bytes"
        skip = skip if exchange else "there is no exchange to try it on"
        if skip or self._publish.lost.done():
            return Trial(doing=doing, needs="", outcome=Outcome.SKIPPED, said=skip or self._publish.lost.result())
        try:
            channel = await self._publish.channel(confirms=True)
            async with asyncio.timeout(_SIZE_SECONDS):
                await channel.basic_publish(bytes(size), exchange=exchange, routing_key=self._mark)
        except FabricError as error:
            return Trial(doing=doing, needs="", outcome=Outcome.FAILED, said=error.text)
        except aiormq.ChannelPreconditionFailed as error:
            return Trial(doing=doing, needs="", outcome=Outcome.CONFLICT, said=str(error))
        except Exception as error:
            return Trial(doing=doing, needs="", outcome=Outcome.FAILED, said=f"{type(error).__name__}: {error}")
        return Trial(doing=doing, needs="", outcome=Outcome.DONE)

    async def _queue(self, spec: QueueSpec) -> QueueFacts:
        assert spec.name is not None
        name = spec.name
        before, _, still = await self._count(topology.former(name))
        former = before if still.outcome is Outcome.DONE else None
        messages, consumers, seen = await self._count(name)
        if seen.outcome is not Outcome.DONE:
            return QueueFacts(name=name, fits=seen, former=former)
        # Declaring what is there with the same properties changes nothing, and anything else is refused.
        same = _declare(name, amqp_durable.queue_arguments(spec))
        fits = await self._bench.attempt(f"comparing the queue {name!r}", f"configure on {name}", same)
        dead, _, _ = await self._count(amqp_durable.dead_letter_queue(name))
        return QueueFacts(name=name, fits=fits, messages=messages, consumers=consumers, dead=dead, former=former)

    async def _journal(self) -> Trial:
        """Compared where it is there. Where it is not, another stream shows whether it could be made; to the coordinator's own
        user, who may make no other, nothing is shown: one that makes it now for itself must not see it removed."""
        name = self._topology.journal
        *_, seen = await self._count(name)
        if seen.outcome is not Outcome.MISSING:
            return await self._bench.attempt(
                f"compare the stream {name!r}", f"configure on {name}", _declare(name, STREAM_ARGUMENTS)
            )
        if self._wanted.service == COORDINATOR:
            return seen
        name = f"{name}.{self._mark}"
        made = await self._bench.attempt(f"make the stream {name!r}", f"configure on {name}", _declare(name, STREAM_ARGUMENTS))
        await self._bench.attempt("removing", "", lambda channel: channel.queue_delete(name))
        return made

    async def _count(self, name: str) -> tuple[int, int, Trial]:
        counted = [0, 0]

        async def look(channel: Channel) -> None:
            answer = await channel.queue_declare(name, passive=True)
            counted[:] = [answer.message_count or 0, answer.consumer_count or 0]

        trial = await self._bench.attempt(f"looking for the queue {name!r}", name, look)
        return counted[0], counted[1], trial

    async def _clean(self) -> list[str]:
        """Remove what is not exclusive to the links. Returns the names of what is still there."""

        def delete(queue: str) -> Question:
            return lambda channel: channel.queue_delete(queue)

        left = []
        for queue in self._group_queues() if self._wanted.patterns != () else ():
            gone = await self._bench.attempt("removing", "", delete(queue))
            if gone.outcome is not Outcome.DONE and (await self._count(queue))[2].outcome is Outcome.DONE:
                left.append(queue)
        if name := self._own:
            gone = await self._bench.attempt("removing", "", lambda channel: channel.exchange_delete(name))
            if gone.outcome is not Outcome.DONE:
                left.append(name)
        return left


async def probe(settings: AmqpSettings, wanted: Wanted) -> Facts:
    """Connect, try everything, leave.

    Raises:
        ConnectionLost: not reached, or lost before the end.
        ConfigurationError: refused for good.
    """
    loop = asyncio.get_running_loop()
    began = loop.time()
    consume = await Link.open(settings, "doctor")
    opened_in = loop.time() - began
    try:
        publish = await Link.open(settings, "doctor")
        try:
            return await Probe(settings, wanted, consume, publish).run(opened_in)
        finally:
            if publish.blocked is None:
                await publish.close(timeout=3.0)
            else:  # a blocked broker does not hear a goodbye
                await publish.abort("the examination is over")
    finally:
        await consume.close(timeout=3.0)
