"""The names of everything on the broker. No other module spells one.

All are prefixed by a namespace, so that several fleets share a broker. Three ways of keys:

* ``rpc`` (direct): one instance's id for requests, one hub's ``reply.ID`` for answers, an instance's ``ID.last`` when it leaves.
* ``discovery`` (topic): ``up.service.NAME`` and ``up.capability.NAME`` carry announcements to those who asked for them;
  ``who.service.NAME`` and ``who.capability.NAME`` ask the instances to announce themselves.
* ``control`` (topic): ``command.SERVICE`` to its agents, ``vote.SERVICE`` to the coordinator, ``journal`` to what coordinators
  write down.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from fabric.errors import ConfigurationError
from fabric.transports.base import ExchangeKind, ExchangeSpec, QueueSpec

_LONGEST_QUEUE = 230
"""AMQP allows 255 bytes; transports make the names of retry and dead-letter queues from it."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_\-]{0,99}")


ORDERED = ".ordered"
"""Ends the name of a group's queue when it keeps the order; no name of a group has a dot."""


def check_name(kind: str, name: str) -> str:
    """Names become parts of routing keys, where ``.``, ``*`` and ``#`` have a meaning.

    Raises:
        ValueError: not 1 to 100 letters, digits, ``-`` and ``_``, beginning with a letter or digit.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"{kind} {name!r}: use 1 to 100 letters, digits, '-' and '_', beginning with a letter or digit")
    return name


@dataclass(frozen=True, slots=True)
class Topology:
    """The exchanges and queues of one namespace."""

    namespace: str = "fabric"

    def __post_init__(self) -> None:
        check_name("namespace", self.namespace)

    @property
    def rpc(self) -> str:
        return f"{self.namespace}.rpc"

    @property
    def events(self) -> str:
        return f"{self.namespace}.events"

    @property
    def broadcast(self) -> str:
        return f"{self.namespace}.broadcast"

    def delayed(self, milliseconds: int) -> str:
        """An exchange, and the queue behind it that holds events so long."""
        return f"{self.namespace}.delayed.{milliseconds}"

    @property
    def delayed_sink(self) -> str:
        """A queue that takes a copy of every delayed event when it is due, so that each has a way out."""
        return f"{self.namespace}.delayed.sink"

    @property
    def delayed_sink_key(self) -> str:
        """Patterns of a subscriber that match it match too much for harm: it gets an event that it has no handler for."""
        return f"{self.namespace}.delayed.sink.of.what.was.held.back"

    @property
    def control(self) -> str:
        return f"{self.namespace}.control"

    @property
    def discovery(self) -> str:
        return f"{self.namespace}.discovery"

    @property
    def journal(self) -> str:
        """Where coordinators write down what happens: a stream, or a file of this name."""
        return f"{self.namespace}.journal"

    @property
    def exchanges(self) -> tuple[ExchangeSpec, ...]:
        return (
            ExchangeSpec(name=self.rpc, kind=ExchangeKind.DIRECT),
            ExchangeSpec(name=self.events, kind=ExchangeKind.TOPIC),
            ExchangeSpec(name=self.broadcast, kind=ExchangeKind.FANOUT),
            ExchangeSpec(name=self.control, kind=ExchangeKind.TOPIC),
            ExchangeSpec(name=self.discovery, kind=ExchangeKind.TOPIC),
        )

    def requests(self, instance: str) -> QueueSpec:
        """The inbox of one instance, gone with it. Without ack: the consumer's own bounded scheduler orders by priority
        and answers what it can't take, which a full prefetch on the broker could not."""
        return QueueSpec(name=None, exchange=self.rpc, keys=(instance,))

    def replies(self, address: str) -> QueueSpec:
        """Where answers to one hub arrive. The queue is new in each epoch, so that nothing is declared again by a name that the
        broker may still hold for the old link; ``address`` stays, so that an answer finds the hub after a reconnect."""
        return QueueSpec(name=None, exchange=self.rpc, keys=(address,))

    def event_group(
        self,
        service: str,
        patterns: tuple[str, ...],
        *,
        group: str = "default",
        prefetch: int,
        max_attempts: int,
        retry_delays: tuple[float, ...],
        ordered: bool = False,
    ) -> QueueSpec:
        """The durable queue that all instances of a service share. An ``ordered`` one has a single consumer at a time, and
        another name, as that can't be changed for a queue that exists.

        Raises:
            ConfigurationError: namespace, service and group are too long together.
        """
        name = f"{self.namespace}.events.{service}.{group}{ORDERED if ordered else ''}"
        if len(name) > _LONGEST_QUEUE:
            raise ConfigurationError(
                f"{name!r} is too long for the name of a queue: at most {_LONGEST_QUEUE} characters; shorten the group"
            )
        return QueueSpec(
            name=name,
            exchange=self.events,
            keys=patterns,
            durable=True,
            ack=True,
            prefetch=prefetch,
            max_attempts=max_attempts,
            retry_delays=retry_delays,
            single=ordered,
        )

    def broadcasts(self) -> QueueSpec:
        return QueueSpec(name=None, exchange=self.broadcast, keys=("",))

    def control_lane(self, *keys: str) -> QueueSpec:
        return QueueSpec(name=None, exchange=self.control, keys=keys)

    def discoveries(self, *keys: str) -> QueueSpec:
        return QueueSpec(name=None, exchange=self.discovery, keys=keys)


def former(queue: str) -> str:
    """What the queue of a group was called, or will be, when the group is ordered and was not, or the reverse."""
    return queue.removesuffix(ORDERED) if queue.endswith(ORDERED) else f"{queue}{ORDERED}"


def last_call(instance: str) -> str:
    """Of ``rpc``: what an instance that leaves sends itself, behind all that came before."""
    return f"{instance}.last"


def up_service(name: str) -> str:
    return f"up.service.{name}"


def up_capability(name: str) -> str:
    return f"up.capability.{name}"


def who_service(name: str) -> str:
    return f"who.service.{name}"


def who_capability(name: str) -> str:
    return f"who.capability.{name}"


EVERY_ANNOUNCEMENT = "up.service.#"
WHO_EVERYONE = "who.everyone"


def command(service: str) -> str:
    return f"command.{service}"


def vote(service: str) -> str:
    return f"vote.{service}"


EVERY_VOTE = "vote.#"
JOURNAL = "journal"
