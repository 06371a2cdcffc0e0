"""What the rest of Fabric needs from a broker: bytes in, bytes out.

The model is AMQP's, because its faults are what must be survived: exchanges, queues bound by key, mandatory returns,
confirms, acknowledgements. ``memory`` and ``embedded`` implement the same model, and one contract suite runs on all.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from fabric.errors import FabricError
from fabric.wire.message import Priority


class LinkState(enum.StrEnum):
    """The life of a link. ``BLOCKED``: connected, but the broker takes no publishes (memory or disk alarm)."""

    CONNECTING = "connecting"
    READY = "ready"
    BLOCKED = "blocked"
    RECONNECTING = "reconnecting"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkEvent:
    """A change of the link, or of one consumer on it.

    ``READY`` after a reconnect is told when all consumers are restored and have their new addresses; deliveries of the new
    epoch come after it.

    Attributes:
        state: the state it is in now.
        epoch: grows by one with each new connection. What belonged to an older epoch (reply addresses, deliveries not
            yet acknowledged) is void.
        reason: why, for people.
        consumer: empty when this is about the link. Otherwise state and epoch are as they were: the broker cancelled this
            consumer (its queue was deleted), it consumes again at this address, and what it held is gone.
    """

    state: LinkState
    epoch: int
    reason: str = ""
    consumer: str = ""


class ExchangeKind(enum.StrEnum):
    DIRECT = "direct"
    TOPIC = "topic"
    FANOUT = "fanout"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExchangeSpec:
    """A durable exchange. Declared by every transport when it connects."""

    name: str
    kind: ExchangeKind


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueSpec:
    """A queue to consume from.

    Attributes:
        name: None lets the broker name it, anew in each epoch; then ``Consumer.address`` says the name of now.
        exchange: what it is bound to; "" binds nothing (it is reached by its name through the default exchange).
        keys: the binding keys at first; ``Consumer.bind`` adds more. For a topic exchange ``*`` and ``#`` are wildcards.
        durable: True: outlives its consumers, is shared by all that consume it by this name (each message goes to one of
            them), and its messages survive a broker restart. False: exclusive to this link and gone with it.
        ack: True: a delivery counts until it is acknowledged, and comes again when its consumer is lost. False: the broker
            forgets it on sending.
        prefetch: deliveries that may be unacknowledged at once, 1 to 65,535. More is faster and less fair. Only with ack.
        max_attempts: deliveries of one message before it is dead-lettered. Only for durable queues. It belongs to the
            queue: consuming with another one is a ``TopologyConflict``.
        retry_delays: seconds before each redelivery asked for by ``Delivery.retry``; the last one repeats. They belong to
            the consumer and may differ.
        single: of all consumers of the queue one gets deliveries, until it is gone; then another one, first with what was not
            settled, in its order. That helps to keep an order and is no lock: one that was cut off goes on for a moment with
            what it has. Belongs to the queue, and only to a durable one.
    """

    name: str | None
    exchange: str = ""
    keys: tuple[str, ...] = ()
    durable: bool = False
    ack: bool = False
    prefetch: int = 100
    max_attempts: int = 5
    retry_delays: tuple[float, ...] = (0.2, 1.0, 5.0, 30.0)
    single: bool = False

    def __post_init__(self) -> None:
        if self.durable and (self.name is None or not self.ack):
            raise ValueError("a durable queue needs a name and acknowledgements")
        if self.single and not self.durable:
            raise ValueError("only a durable queue is shared, so only that can have a single consumer at a time")
        if not 1 <= self.prefetch <= 65_535:
            raise ValueError(f"prefetch must be 1 to 65535, not {self.prefetch}")
        if self.max_attempts < 1:
            raise ValueError(f"max_attempts must be at least 1, not {self.max_attempts}")


class Delivery(Protocol):
    """One message as it came. Valid in the epoch it came in; after that acknowledging does nothing.

    ``attempt`` counts deliveries of this message, from 1. ``expired`` and crashed deliveries count too. ``exchange``, ``key``,
    ``message_id`` and ``headers`` are as it was published, also after a retry or a replay; headers of the broker's own
    (``x-...``) are left out, and whatever they hold does no harm.

    Several messages sent as one body (``wire.batch``) to a durable queue are one delivery each, settled, tried again and given
    up by itself, and count one by one for ``prefetch``. RabbitMQ stores them as one message: if it is not settled when the
    consumer is lost, what was settled of it may come again. Those have no ``message_id``.
    """

    @property
    def body(self) -> bytes: ...
    @property
    def exchange(self) -> str: ...
    @property
    def key(self) -> str: ...
    @property
    def content_type(self) -> str: ...
    @property
    def priority(self) -> Priority: ...
    @property
    def message_id(self) -> str | None: ...
    @property
    def headers(self) -> Mapping[str, Any]: ...
    @property
    def redelivered(self) -> bool: ...
    @property
    def attempt(self) -> int: ...
    @property
    def user_id(self) -> str | None:
        """Who published it, as the broker vouches for it; None where it does not."""
        ...

    def ack(self) -> None:
        """Done with it. Never blocks. Does nothing on a queue without ack, when repeated, or in a later epoch."""
        ...

    async def retry(self, reason: str) -> None:
        """Deliver it again after the queue's next delay, or dead-letter it when its attempts are used up.

        The message is stored at its next place before it is acknowledged here: it can be doubled, never lost. Does nothing
        when it is settled already or in a later epoch, and does not raise: if the link breaks meanwhile, the message comes
        again. At most 5 seconds. A queue that is not durable has no next place: there it is only acknowledged.
        """
        ...

    async def reject(self, reason: str) -> None:
        """Dead-letter it now, with ``reason``, attempts and history. Same guarantee as ``retry``."""
        ...


Receiver = Callable[[Delivery], None]
"""Called in the event loop for each delivery, in the order of the queue. Must not block or raise; what takes time it
starts elsewhere. With ack, ``prefetch`` bounds what is under way."""


class Consumer(Protocol):
    """A running subscription. It is restored by the transport after a reconnect or a cancel by the broker."""

    @property
    def address(self) -> str:
        """The name of its queue in this epoch; through the default exchange it is the key to reach it."""
        ...

    async def bind(self, key: str) -> None:
        """Also receive what is sent with ``key``. Holds over reconnects. Idempotent.

        Raises, as ``unbind``:
            ConnectionLost: not confirmed within 5 seconds; a bind holds from the next reconnect at the latest.
            TransportClosed: the transport or this consumer is closed.
        """
        ...

    async def unbind(self, key: str) -> None:
        """The reverse of ``bind``. Idempotent."""
        ...

    async def aclose(self) -> None:
        """Stop receiving; a queue that is not durable is deleted, with what it holds. Deliveries under way may still be
        acknowledged, but not those of a ``single`` queue: they go to the next consumer before all others. Idempotent."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """An event that was given up.

    Attributes:
        id: names it for replay and discard.
        queue: where it was being consumed.
        exchange, key, body, content_type, headers: as it was published.
        reason: of the last failure.
        attempts: deliveries so far.
        history: one ``{"at", "reason", "instance"}`` a failure, oldest first.
        died_at: seconds since 1970.
    """

    id: str
    queue: str
    exchange: str
    key: str
    body: bytes
    content_type: str
    reason: str
    attempts: int
    died_at: float
    headers: Mapping[str, Any] = field(default_factory=dict)
    history: tuple[Mapping[str, Any], ...] = ()


Told = Callable[[FabricError | None], None]
"""Called in the event loop with how a body that was handed over ended: None when the broker has it, otherwise the error that
``Transport.send`` would have raised."""


class Transport(Protocol):
    """A link to a broker. Made closed; ``connect`` opens it; it reconnects by itself until ``aclose``.

    Every method that waits has a limit. Order: what one task sends to one exchange and key with one priority arrives in
    that order, except around a reconnect, a redelivery or a retry. What is posted and what is sent are two ways: one may overtake
    the other.
    """

    @property
    def name(self) -> str:
        """``memory``, ``embedded`` or ``amqp``."""
        ...

    @property
    def state(self) -> LinkState: ...

    @property
    def epoch(self) -> int:
        """0 before the first connection."""
        ...

    @property
    def max_body(self) -> int:
        """The largest body in bytes that ``send`` and ``post`` take."""
        ...

    def watch(self, listener: Callable[[LinkEvent], None]) -> Callable[[], None]:
        """Call ``listener`` in the event loop at each change of state or epoch; the answer ends that."""
        ...

    async def connect(self, *, timeout: float) -> None:
        """Open the link and declare the exchanges.

        Raises:
            ConnectionLost: not reached within ``timeout`` seconds; says what was tried, without the password.
            ConfigurationError: refused for good: credentials, permissions, virtual host, TLS.
            TopologyConflict: an exchange exists with another kind.
            TransportClosed: after ``aclose``.
        """
        ...

    async def send(
        self,
        exchange: str,
        key: str,
        body: bytes,
        *,
        timeout: float,
        priority: Priority = Priority.NORMAL,
        content_type: str = "application/msgpack",
        headers: Mapping[str, Any] | None = None,
        message_id: str | None = None,
        expires: float | None = None,
        mandatory: bool = False,
        answered: bool = False,
        persistent: bool = False,
        delay: float | None = None,
    ) -> None:
        """Publish, and return when the broker has taken it (confirmed; with ``persistent`` to a durable queue: stored).

        While the link is down or blocked it waits within ``timeout``; what was not sent by then never is.

        Args:
            timeout: seconds for all of it.
            headers: plain data (None, bool, 64-bit int, float, str, bytes, list, dict with str keys), copied here; names that
                begin with ``x-`` are the broker's.
            expires: seconds after which the broker may drop it undelivered; counts until its first delivery.
            mandatory: fail with ``NoRoute`` when no queue takes it.
            answered: whoever gets it will answer, so that it was taken may be told some milliseconds late, which costs less;
                ``NoRoute`` is told as soon as ever. Only with ``mandatory``. What is sent after it may overtake it.
            persistent: on disk, for durable queues.
            message_id: names the message for receivers; may repeat.
            delay: seconds for which the broker keeps it first, above 0 and at most seven days; then it is routed as if it was
                published at that time. Only to the exchange of events, and not with ``expires`` or ``mandatory``. Whatever
                ``persistent`` says it is stored where there is a disk. RabbitMQ rounds it up to two significant digits.

        Raises:
            NotSent: the broker never had it (link down or blocked for ``timeout``, or it refused it: a queue is full).
            NoRoute: ``mandatory`` and nothing is bound there.
            ConnectionLost: handed over but not confirmed: unknown.
            PayloadTooLarge: over ``max_body``; nothing was sent.
            TransportClosed: after ``aclose``.
            ValueError: the key is longer than 255 bytes, or the headers or the delay are not as above or over 64 KiB.
            ConfigurationError: with ``delay``, this user may not make the queue that holds it.
        """
        ...

    def submit(
        self,
        exchange: str,
        key: str,
        body: bytes,
        told: Told,
        *,
        timeout: float,
        priority: Priority = Priority.NORMAL,
        content_type: str = "application/msgpack",
        answered: bool = False,
    ) -> bool:
        """As ``send`` of something mandatory that expires after ``timeout``, for whoever sends much and keeps book itself: it is
        published now, without a task to wait in, and ``told`` is called once with how it ended, never before this returns.

        Returns:
            False when the link does not take it at present, and nothing was done; ``send`` waits.

        Raises:
            PayloadTooLarge, TransportClosed, ValueError: as ``send``; then ``told`` is not called.
        """
        ...

    def post(
        self,
        exchange: str,
        key: str,
        body: bytes,
        *,
        priority: Priority = Priority.NORMAL,
        content_type: str = "application/msgpack",
        headers: Mapping[str, Any] | None = None,
        expires: float | None = None,
    ) -> bool:
        """Publish without waiting and without a promise: replies, heartbeats, broadcasts.

        Returns:
            False when it was dropped here: the link is not ready or its buffer is full. True promises nothing.

        Raises:
            PayloadTooLarge, TransportClosed, ValueError: as ``send``.
        """
        ...

    async def consume(self, queue: QueueSpec, receiver: Receiver, *, timeout: float) -> Consumer:
        """Declare the queue, bind it, and hand each delivery to ``receiver``, now and after each reconnect.

        Returns when the broker has confirmed: what is sent from then on arrives.

        Raises:
            TopologyConflict: it exists with other properties.
            ConnectionLost: not ready within ``timeout`` seconds.
            TransportClosed: after ``aclose``.
        """
        ...

    async def dead_letters(self, queue: str, *, limit: int, timeout: float) -> list[DeadLetter]:
        """The oldest ``limit`` dead letters of the durable ``queue``, left in place; none if there is no such queue.

        Raises, as the two below:
            ConnectionLost: not done within ``timeout`` seconds.
            TransportClosed: after ``aclose``.
        """
        ...

    async def replay_dead_letter(self, queue: str, id: str, *, timeout: float) -> bool:
        """Put one back at the end of its queue with a fresh count of attempts. False: it is not there.

        Raises:
            NoRoute: the queue itself is gone; the dead letter stays.
        """
        ...

    async def discard_dead_letter(self, queue: str, id: str, *, timeout: float) -> bool:
        """Remove one. False: it is not there."""
        ...

    async def ping(self, *, timeout: float) -> float:
        """One round trip through the broker in seconds.

        Raises:
            ConnectionLost: none within ``timeout`` seconds.
        """
        ...

    async def aclose(self) -> None:
        """Hand over what ``post`` still buffers, leave and close. Idempotent, at most 5 seconds."""
        ...
