"""Who may call what, as RabbitMQ vouches for it."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiormq
import pytest
from pamqp import commands

from fabric import Service, rpc
from fabric.config import Settings
from fabric.context import current_call
from fabric.errors import NotAllowed
from fabric.hub import Hub
from fabric.transports.topology import Topology
from fabric.wire import codec
from fabric.wire.batch import messages
from fabric.wire.message import MessageType, ServiceMessage
from tests.brokers.leftovers import remove
from tests.brokers.node import BrokerNode
from tests.brokers.users import url_of, users


class Vault(Service):
    name = "vault"

    def __init__(self) -> None:
        self.opened: list[str | None] = []

    @rpc(callers=("boss", "clerk"))
    async def open(self) -> str:
        call = current_call()
        self.opened.append(call.user if call else None)
        return "gold"

    @rpc()
    async def knock(self) -> str | None:
        call = current_call()
        return call.user if call else None


@dataclass
class House:
    node: BrokerNode
    settings: Settings
    vault: Vault

    @asynccontextmanager
    async def hub(self, name: str, user: str) -> AsyncIterator[Hub]:
        async with Hub.connect(name, url=url_of(self.node, user), settings=self.settings) as hub:
            yield hub


@pytest.fixture
def people(private_broker: BrokerNode) -> Iterator[BrokerNode]:
    """Users who may do everything that the broker knows of."""
    everything = (".*", ".*", ".*")
    with users(private_broker, dict.fromkeys(("vault", "boss", "clerk", "mallory"), everything)):
        yield private_broker


@pytest.fixture
async def house(people: BrokerNode) -> AsyncIterator[House]:
    settings = Settings(broker_url=None, namespace=f"test-{uuid.uuid4().hex[:12]}", instance="")
    house = House(people, settings, Vault())
    async with house.hub("vault", "vault") as hub:
        served = await hub.serve(house.vault)
        await served.open_doors()
        yield house
    await remove(people.url, Topology(settings.namespace), ())


async def test_callers_are_told_apart_by_their_users(house: House) -> None:
    """Who is named may call, who is not is refused with a typed error and never reaches the handler; both may call what is open
    to all."""
    async with house.hub("boss", "boss") as boss, house.hub("mallory", "mallory") as mallory:
        assert await boss.call("vault", "open") == "gold"
        with pytest.raises(NotAllowed) as refused:
            await mallory.call("vault", "open", timeout=5)
        assert await boss.call("vault", "knock") == "boss"
        assert await mallory.call("vault", "knock") == "mallory"
    error = refused.value
    assert (error.executed, error.retryable, error.service, error.method) == (False, False, "vault", "open")
    assert "not for 'mallory'" in str(error)
    assert "callers" in error.advice
    assert error.attempt == 1
    assert house.vault.opened == ["boss"]


async def test_a_claimed_name_is_worth_nothing(house: House) -> None:
    """A hub that calls itself boss but is another user is refused; one of any name that is the right user is not."""
    async with house.hub("boss", "mallory") as pretender, house.hub("front-desk", "clerk") as desk:
        with pytest.raises(NotAllowed, match="not for 'mallory'"):
            await pretender.call("vault", "open")
        assert await desk.call("vault", "open") == "gold"
    assert house.vault.opened == ["clerk"]


async def test_a_message_without_a_user_is_refused(house: House) -> None:
    """A request made by hand that does not say whose it is, so that the broker vouches for nobody, is answered with a refusal."""
    topology = Topology(house.settings.namespace)
    async with house.hub("client", "mallory") as client:
        (vault,) = await client.find("vault")
    answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def receive(message: aiormq.abc.DeliveredMessage) -> None:
        answer.set_result(message.body)

    async with aiormq.connect(url_of(house.node, "mallory")) as connection:
        channel = await connection.channel()
        queue = str((await channel.queue_declare("", exclusive=True)).queue)
        await channel.queue_bind(queue, topology.rpc, "reply.forged")
        await channel.basic_consume(queue, receive, no_ack=True)
        request = ServiceMessage("1", MessageType.REQUEST, "boss", "boss-1", "vault", "open", reply_to="reply.forged")
        properties = commands.Basic.Properties(content_type=codec.MSGPACK)
        body = codec.encode(request)
        await channel.basic_publish(body, exchange=topology.rpc, routing_key=vault.id, properties=properties)
        async with asyncio.timeout(10):
            (message,) = messages(await answer, codec.MSGPACK)
    assert isinstance(message, ServiceMessage)
    assert message.error is not None
    assert (message.error["kind"], message.payload) == ("not-allowed", None)
    assert house.vault.opened == []
