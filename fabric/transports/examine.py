"""Is this broker fit for a fleet? One answer for every kind of it."""

from __future__ import annotations

from urllib.parse import urlsplit

from fabric.config import Settings
from fabric.errors import ConfigurationError, FabricError
from fabric.transports.base import QueueSpec, Transport
from fabric.transports.connect import transport_for
from fabric.transports.diagnosis import Finding, not_connected, ok, warn
from fabric.transports.topology import Topology


async def examine(
    url: str,
    settings: Settings,
    *,
    service: str = "",
    patterns: tuple[str, ...] | None = None,
    broadcasts: bool = True,
    queues: tuple[QueueSpec, ...] = (),
) -> list[Finding]:
    """Look at a broker as the hubs of a fleet will.

    Args:
        url: of the broker.
        settings: namespace and limits of the fleet.
        service: whose user is in the URL, so that only what it needs is tried; "" tries everything.
        patterns: the topics that ``service`` subscribes to; None where they are not known.
        broadcasts: whether it listens to broadcasts.
        queues: the durable queues of the fleet.

    Raises:
        ConfigurationError: this is no URL of a broker.
    """
    if urlsplit(url).scheme in ("amqp", "amqps"):
        from fabric.transports.amqp_doctor import examine as examine_amqp
        from fabric.transports.amqp_facts import Wanted
        from fabric.transports.amqp_settings import AmqpSettings

        limit = settings.connect_timeout
        link = AmqpSettings.from_url(url, max_body=settings.max_message_bytes, operation_timeout=limit)
        wanted = Wanted(
            topology=Topology(settings.namespace),
            service=service,
            patterns=patterns,
            broadcasts=broadcasts,
            queues=queues,
            message_bytes=settings.max_message_bytes,
        )
        return await examine_amqp(link, wanted)
    return await _examine_embedded(transport_for(url, settings), settings)


async def _examine_embedded(transport: Transport, settings: Settings) -> list[Finding]:
    try:
        try:
            await transport.connect(timeout=settings.connect_timeout)
        except ConfigurationError as error:
            return [not_connected(error)]
        seconds = await transport.ping(timeout=settings.connect_timeout)
    except FabricError as error:
        return [not_connected(error)]
    finally:
        await transport.aclose()
    found = [
        ok("connect", "the embedded broker answers"),
        warn(
            "durability",
            "events and dead letters are in the memory of one process: they are gone when it ends",
            "fine for development and tests; for more set FABRIC_BROKER_URL to a RabbitMQ",
        ),
    ]
    if settings.max_message_bytes > transport.max_body:
        found.append(
            warn(
                "message-size",
                f"it takes {transport.max_body} bytes, and {settings.max_message_bytes} are allowed",
                "lower FABRIC_MAX_MESSAGE_BYTES",
            )
        )
    return [*found, ok("latency", f"a round trip takes {seconds * 1000:.1f} ms")]
