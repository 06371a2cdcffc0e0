"""From a broker's URL to the transport for it."""

from __future__ import annotations

from dataclasses import replace
from urllib.parse import urlsplit

from fabric.config import Settings
from fabric.errors import ConfigurationError
from fabric.transports.base import Transport
from fabric.transports.topology import Topology


def transport_for(url: str | None, settings: Settings) -> Transport:
    """A transport, not yet connected.

    Raises:
        ConfigurationError: no URL is given anywhere, or its scheme is unknown.
    """
    if url is None:
        url = settings.broker()
        if url is None:
            raise ConfigurationError(
                "no broker: set FABRIC_BROKER_URL, or FABRIC_BROKER_URL_FILE to a file that holds it, to"
                " amqp://user:password@host/vhost, or to unix:///path of a running `fabric broker`; `fabric up` sets it for the"
                " processes that it starts"
            )
    parts = urlsplit(url)
    topology = Topology(settings.namespace)
    match parts.scheme:
        case "amqp" | "amqps":
            from fabric.transports.amqp import AmqpTransport
            from fabric.transports.amqp_settings import AmqpSettings

            link = AmqpSettings.from_url(url)
            # messages that travel together may be larger than the largest of them, so this is never lowered
            return AmqpTransport(replace(link, max_body=max(link.max_body, settings.max_message_bytes)), topology)
        case "unix":
            from fabric.transports.embedded import EmbeddedTransport

            return EmbeddedTransport(parts.path, topology)
        case scheme:
            raise ConfigurationError(f"unknown kind of broker {scheme!r}: use amqp://, amqps:// or unix://")
