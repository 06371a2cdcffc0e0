"""Where the errors of aiormq, aio-pika and pamqp stop: one table says what each becomes."""

from __future__ import annotations

import asyncio
import re
import ssl
from typing import Literal

import aiormq.exceptions as aiormq
import pamqp.exceptions as pamqp

from fabric.errors import ConfigurationError, ConnectionLost, FabricError, TopologyConflict
from fabric.transports import amqp_tls

Meaning = Literal["lost", "refused", "conflict"]

MEANING: dict[type[BaseException], Meaning] = {
    # the link is gone, or its peer says what nobody can use: connect anew
    aiormq.AMQPError: "lost",
    aiormq.ChannelInvalidStateError: "lost",
    aiormq.ChannelNotFoundEntity: "lost",
    aiormq.ChannelLockedResource: "lost",
    pamqp.PAMQPException: "lost",
    OSError: "lost",
    EOFError: "lost",
    RuntimeError: "lost",
    TimeoutError: "lost",
    asyncio.TimeoutError: "lost",
    asyncio.QueueEmpty: "lost",
    asyncio.CancelledError: "lost",
    # the broker, or the certificate, says no: trying again won't help
    aiormq.AuthenticationError: "refused",
    aiormq.ProbableAuthenticationError: "refused",
    aiormq.IncompatibleProtocolError: "refused",
    aiormq.ConnectionNotAllowed: "refused",
    aiormq.ChannelAccessRefused: "refused",
    aiormq.MethodNotImplemented: "refused",
    aiormq.ConnectionNotImplemented: "refused",
    ssl.SSLCertVerificationError: "refused",
    ssl.CertificateError: "refused",
    # it is there with other properties
    aiormq.ChannelPreconditionFailed: "conflict",
}
"""What an error means; that of the nearest base class counts. A test shows that none of the three libraries is left out."""

_REFUSALS = frozenset({402, 403, 530, 540})
"""Codes of a close: trying again won't help."""

_URL_SECRET = re.compile(r"(amqps?://[^:/@\s]*):[^@\s]*@")


def meaning(error: BaseException) -> Meaning | None:
    """What ``error`` means, or None if it is none of the libraries' and not of the network."""
    for kind in type(error).__mro__:
        if kind in MEANING:
            return MEANING[kind]
    return None


def explain(error: BaseException) -> str:
    """One line for people, without secrets."""
    text = _URL_SECRET.sub(r"\1:***@", " ".join(str(error).split()))
    return text or type(error).__name__


def translate(error: BaseException, *, doing: str, name: str = "", code: int = 0, reason: str = "") -> FabricError:
    """The error to ``raise ... from error``.

    Args:
        error: of one of the libraries or the network.
        doing: what we were at, for people: ``"declaring the queue 'x'"``.
        name: the queue or exchange, for a ``TopologyConflict``.
        code, reason: why the link was closed, and the broker's code for that where it gave one.
    """
    if isinstance(error, FabricError):
        return error
    why = reason or explain(error)
    if advice := amqp_tls.meaning_of(f"{why} {explain(error)}"):
        return ConfigurationError(f"{doing}: {advice} ({why})")
    match "refused" if code in _REFUSALS else meaning(error):
        case "refused":  # then the error knows more than the link that was closed because of it
            return ConfigurationError(f"{doing}: refused: {why if code else explain(error)}")
        case "conflict" if name:
            return TopologyConflict(name, why)
        case _:
            return ConnectionLost(f"{doing}: {why}")
