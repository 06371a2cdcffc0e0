"""Who may speak to RabbitMQ, and who is believed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiormq
import pytest
from pamqp import commands

from fabric.errors import ConfigurationError, ConnectionLost
from fabric.transports.amqp import AmqpTransport
from fabric.transports.base import Delivery
from tests.brokers import certificates
from tests.brokers.certificates import Certificates
from tests.brokers.inbox import Inbox
from tests.brokers.node import BrokerNode
from tests.brokers.proxy import Proxy
from tests.contract.backend_amqp import AmqpBackend


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    if not certificates.can_make():
        pytest.skip("no openssl command to make certificates with")
    return certificates.make(tmp_path_factory.mktemp("certificates"))


@asynccontextmanager
async def over_tls(
    amqp: AmqpBackend,
    broker: BrokerNode,
    signed: Certificates,
    options: str,
    *,
    host: str = "localhost",
    ask_client: bool = False,
) -> AsyncIterator[AmqpTransport]:
    """A transport, not yet connected, to a port of the broker's that speaks TLS."""
    async with Proxy(broker.url, tls=signed.server_context(ask_client=ask_client)) as proxy:
        transport = AmqpTransport(f"{proxy.url.replace('127.0.0.1', host)}?{options}", amqp.topology)
        try:
            yield transport
        finally:
            await transport.aclose()


async def test_tls(amqp: AmqpBackend, broker: BrokerNode, signed: Certificates) -> None:
    """Over amqps with the right authority everything works as without."""
    inbox: Inbox[Delivery] = Inbox()
    async with over_tls(amqp, broker, signed, f"cacertfile={signed.authority}") as transport:
        await transport.connect(timeout=10)
        await transport.consume(amqp.topology.requests("callee"), inbox, timeout=5)
        await transport.send(amqp.topology.rpc, "callee", b"x" * 300_000, timeout=5, mandatory=True)
        assert len((await inbox.next()).body) == 300_000
        await transport.ping(timeout=5)


async def test_an_unknown_authority(amqp: AmqpBackend, broker: BrokerNode, signed: Certificates) -> None:
    """A certificate that nobody we trust has signed is refused for good."""
    async with over_tls(amqp, broker, signed, "") as transport:
        with pytest.raises(ConfigurationError, match="certificate"):
            await transport.connect(timeout=10)


async def test_another_name(amqp: AmqpBackend, broker: BrokerNode, signed: Certificates) -> None:
    """A certificate for another host is refused, unless that name is the one we say we expect."""
    options = f"cacertfile={signed.authority}"
    async with over_tls(amqp, broker, signed, options, host="127.0.0.1") as transport:
        with pytest.raises(ConfigurationError, match="certificate"):
            await transport.connect(timeout=10)
    async with over_tls(amqp, broker, signed, f"{options}&server_name_indication=localhost", host="127.0.0.1") as transport:
        await transport.connect(timeout=10)


async def test_a_client_certificate(amqp: AmqpBackend, broker: BrokerNode, signed: Certificates) -> None:
    """Where the broker asks for a certificate, ours is shown; without one there is no link."""
    options = f"cacertfile={signed.authority}"
    async with over_tls(amqp, broker, signed, options, ask_client=True) as transport:
        with pytest.raises(ConnectionLost):
            await transport.connect(timeout=1)
    options += f"&certfile={signed.client}&keyfile={signed.client_key}"
    async with over_tls(amqp, broker, signed, options, ask_client=True) as transport:
        await transport.connect(timeout=10)


async def test_without_verification(amqp: AmqpBackend, broker: BrokerNode, signed: Certificates) -> None:
    """``verify_none`` takes any certificate, because somebody said so."""
    async with over_tls(amqp, broker, signed, "verify=verify_none", host="127.0.0.1") as transport:
        await transport.connect(timeout=10)


async def test_missing_files(amqp: AmqpBackend, broker: BrokerNode, signed: Certificates, tmp_path: Path) -> None:
    """A TLS file that is not there is named."""
    async with over_tls(amqp, broker, signed, f"cacertfile={tmp_path}/none.pem") as transport:
        with pytest.raises(ConfigurationError, match=r"none\.pem"):
            await transport.connect(timeout=10)


async def test_a_name_that_is_not_ours(amqp: AmqpBackend, broker: BrokerNode) -> None:
    """The broker vouches for ``user_id``: nobody can send in our name, and what we send carries it."""
    transport = await amqp.transport()
    inbox: Inbox[Delivery] = Inbox()
    await transport.consume(amqp.topology.requests("callee"), inbox, timeout=5)
    async with aiormq.connect(broker.url) as connection:
        channel = await connection.channel()
        properties = commands.Basic.Properties(user_id="somebody-else")
        with pytest.raises(aiormq.exceptions.AMQPError):
            await channel.basic_publish(b"", exchange=amqp.topology.rpc, routing_key="callee", properties=properties, timeout=5)
    await transport.send(amqp.topology.rpc, "callee", b"", timeout=5, mandatory=True)
    assert transport.post(amqp.topology.rpc, "callee", b"")
    for _ in range(2):
        assert (await inbox.next()).user_id == transport.settings.user


@pytest.fixture
def narrow(amqp: AmqpBackend, private_broker: BrokerNode) -> Iterator[str]:
    """The URL of a user who may declare only the queues of the broker's naming and of one service's events."""
    name = f"{amqp.topology.namespace}-user"
    own = rf"^(amq\.gen.*|{amqp.topology.namespace}\.events\.mailer\..*)$"
    private_broker.ctl("add_user", name, "secret")
    private_broker.ctl("set_permissions", name, own, ".*", ".*")
    yield private_broker.url.replace("guest:guest", f"{name}:secret")
    private_broker.ctl("delete_user", name)


async def test_a_user_with_few_rights(amqp: AmqpBackend, narrow: str) -> None:
    """A user who may not declare exchanges uses those that are there, retries and dead letters included; what it may not do is
    told at once as what it is."""
    transport = AmqpTransport(narrow, amqp.topology)
    with pytest.raises(ConfigurationError, match="refused"):
        await transport.connect(timeout=10)
    await transport.aclose()
    await amqp.transport()
    transport = AmqpTransport(narrow, amqp.topology)
    await transport.connect(timeout=10)
    try:
        inbox: Inbox[Delivery] = Inbox()
        spec = amqp.topology.event_group("mailer", ("#",), prefetch=5, max_attempts=2, retry_delays=(0.05,))
        await transport.consume(spec, inbox, timeout=5)
        await transport.consume(amqp.topology.requests("callee"), inbox, timeout=5)
        await transport.send(amqp.topology.events, "made", b"event", timeout=5, persistent=True)
        await (await inbox.next()).retry("once")
        await (await inbox.next()).retry("twice")
        assert len(await transport.dead_letters(spec.name or "", limit=9, timeout=5)) == 1
        theirs = amqp.topology.event_group("billing", ("#",), prefetch=5, max_attempts=2, retry_delays=(0.05,))
        with pytest.raises(ConfigurationError, match="billing"):
            await transport.consume(theirs, inbox, timeout=5)
        assert transport.epoch == 1
    finally:
        await transport.aclose()
