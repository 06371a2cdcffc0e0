"""Durable queues on RabbitMQ: their arguments, their delay and dead-letter queues, and what a message carries between them.

A message to be retried is published to a delay queue, whose time to live dead-letters it back to its queue; one that is given
up is published to ``QUEUE.dead``. Both happen before it is acknowledged. What the broker gives up itself, because its
consumers were lost with it too often, it dead-letters there too, at least once (RabbitMQ 3.10 and later).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from fabric.transports.amqp_frames import Properties
from fabric.transports.amqp_publisher import ATTEMPT_MARK, MESSAGE_ID
from fabric.transports.base import DeadLetter, QueueSpec
from fabric.transports.headers import without_reserved
from fabric.wire.message import Priority

_EXCHANGE, _KEY, _USER = "x-fabric-exchange", "x-fabric-key", "x-fabric-user"
_ATTEMPTS, _HISTORY = "x-fabric-attempts", "x-fabric-history"
_REASON, _DIED_AT = "x-fabric-reason", "x-fabric-died-at"

_MOST_HISTORY = 20
_MOST_REASON = 500
_WITHOUT_BOUND = 1_000_000
"""Looking at a dead letter counts as a delivery of it; unlimited has no value that 3.10 and 4 both take."""


def dead_letter_queue(queue: str) -> str:
    return f"{queue}.dead"


def delay_queue(queue: str, seconds: float) -> str:
    """One for each delay: its time to live can't be changed, so it is part of its name."""
    return f"{queue}.retry.{round(seconds * 1000)}"


def _quorum(limit: int) -> dict[str, Any]:
    return {"x-queue-type": "quorum", "x-delivery-limit": limit}


def _dead_lettering(to: str) -> dict[str, Any]:
    """At least once needs a queue that rejects when it is full, instead of dropping."""
    return {
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": to,
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
    }


def queue_arguments(spec: QueueSpec) -> dict[str, Any]:
    """The broker's limit is one above ours: the delivery after the last attempt goes to a consumer too, which gives the message
    up with its history. Only if that consumer is lost as well, the broker gives it up itself."""
    assert spec.name is not None
    single = {"x-single-active-consumer": True} if spec.single else {}
    return _quorum(spec.max_attempts) | _dead_lettering(dead_letter_queue(spec.name)) | single


def delay_arguments(queue: str, seconds: float) -> dict[str, Any]:
    return _quorum(_WITHOUT_BOUND) | _dead_lettering(queue) | {"x-message-ttl": round(seconds * 1000)}


def dead_letter_arguments() -> dict[str, Any]:
    return _quorum(_WITHOUT_BOUND)


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried:
    """What a message carries of its past."""

    exchange: str
    key: str
    user_id: str | None
    message_id: str | None
    attempts: int = 0
    history: tuple[Mapping[str, Any], ...] = ()

    def failed(self, *, attempts: int, reason: str, at: float, instance: str) -> Carried:
        entry = {"at": at, "reason": reason[:_MOST_REASON], "instance": instance}
        return replace(self, attempts=attempts, history=(*self.history, entry)[-_MOST_HISTORY:])

    def headers(self) -> dict[str, Any]:
        """For the next place."""
        values: dict[str, Any] = {
            _EXCHANGE: self.exchange,
            _KEY: self.key,
            _ATTEMPTS: self.attempts,
            _HISTORY: [dict(entry) for entry in self.history],
        }
        if self.user_id is not None:
            values[_USER] = self.user_id
        if self.message_id is not None:
            values[MESSAGE_ID] = self.message_id
        return values

    def death(self, reason: str, at: float) -> dict[str, Any]:
        """For the dead-letter queue."""
        return self.headers() | {_REASON: reason[:_MOST_REASON], _DIED_AT: at}


def carried(properties: Properties, exchange: str, key: str, *, ours: str | None) -> Carried:
    """Read what a message carries.

    Args:
        properties: of the message.
        exchange, key: where this sending of it was published.
        ours: our user. What we note on a message for ourselves is believed only if the broker vouches that we did.
    """
    message_id = properties.headers.get(MESSAGE_ID)
    if not isinstance(message_id, str):
        meant = properties.message_id
        message_id = None if meant is None or meant.startswith(ATTEMPT_MARK) else meant
    fresh = Carried(exchange=exchange, key=key, user_id=properties.user_id, message_id=message_id)
    headers = properties.headers
    noted = headers.get(_ATTEMPTS)
    if type(noted) is not int or noted < 0 or properties.user_id != ours:
        return fresh
    first_exchange, first_key, user = headers.get(_EXCHANGE), headers.get(_KEY), headers.get(_USER)
    history = headers.get(_HISTORY)
    return Carried(
        exchange=first_exchange if isinstance(first_exchange, str) else exchange,
        key=first_key if isinstance(first_key, str) else key,
        user_id=user if isinstance(user, str) else None,
        message_id=message_id,
        attempts=noted,
        history=tuple(entry for entry in history if isinstance(entry, dict)) if isinstance(history, list) else (),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Dead:
    """A dead letter, and what it takes to put it back."""

    letter: DeadLetter
    past: Carried
    priority: Priority

    def replayed(self) -> dict[str, Any]:
        """Our headers of it when it goes back: where it first came from, and a fresh count."""
        past = self.past
        return Carried(exchange=past.exchange, key=past.key, user_id=past.user_id, message_id=past.message_id).headers()


def read_dead(queue: str, properties: Properties, exchange: str, key: str, body: bytes, *, ours: str | None) -> Dead:
    """One message of the dead-letter queue, put there by us or by the broker."""
    # What its service noted is shown to whoever looks, who may be another user; for whom it speaks is believed of ours alone.
    past = carried(properties, exchange, key, ours=properties.user_id)
    if properties.user_id != ours:
        past = replace(past, user_id=properties.user_id)
    headers = properties.headers
    reason, died_at = headers.get(_REASON), headers.get(_DIED_AT)
    if not isinstance(reason, str) or not isinstance(died_at, float) or not past.attempts:
        past, reason, died_at = _given_up_by_broker(past, headers)
    letter = DeadLetter(
        id=properties.message_id or hashlib.sha256(body + str(died_at).encode()).hexdigest()[:32],
        queue=queue,
        exchange=past.exchange,
        key=past.key,
        body=body,
        content_type=properties.content_type,
        headers=without_reserved(headers),
        reason=reason,
        attempts=past.attempts,
        history=past.history,
        died_at=died_at,
    )
    return Dead(letter=letter, past=past, priority=Priority(min(properties.priority, Priority.CRITICAL)))


def _given_up_by_broker(past: Carried, headers: Mapping[str, Any]) -> tuple[Carried, str, float]:
    """What is known of a message that its consumers were lost with too often: past, reason, time."""
    death = _first_death(headers)
    count, keys, time = headers.get("x-delivery-count"), death.get("routing-keys"), death.get("time")
    lost = count if type(count) is int and count > 0 else 1
    if not past.attempts:
        exchange = str(death.get("exchange", past.exchange))
        key = str(keys[0]) if isinstance(keys, list) and keys else past.key
        past = replace(past, exchange=exchange, key=key)
    reason = f"the broker gave it up: {death.get('reason', 'unknown')}"
    return replace(past, attempts=past.attempts + lost), reason, time if isinstance(time, float) else 0.0


def _first_death(headers: Mapping[str, Any]) -> Mapping[str, Any]:
    deaths = headers.get("x-death")
    if isinstance(deaths, list) and deaths and isinstance(deaths[0], dict):
        return deaths[0]
    return {}
