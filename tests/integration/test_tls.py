"""RabbitMQ's own TLS: who is let in, who is refused and what they are told, and that no secret is ever shown."""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydantic import SecretStr

from fabric import Service, rpc
from fabric.cli.main import main
from fabric.config import Settings
from fabric.errors import ConfigurationError, ConnectionLost, FabricError, NotAllowed
from fabric.hub import Hub
from fabric.transports.amqp import AmqpTransport
from fabric.transports.amqp_doctor import examine
from fabric.transports.amqp_facts import Wanted
from fabric.transports.amqp_settings import AmqpSettings
from fabric.transports.base import Delivery, LinkEvent, LinkState
from fabric.transports.connect import transport_for
from fabric.transports.diagnosis import Level
from tests.brokers import certificates, tls
from tests.brokers.certificates import Certificates
from tests.brokers.inbox import Inbox
from tests.brokers.node import BrokerNode
from tests.brokers.proxy import Proxy
from tests.brokers.users import users
from tests.contract.backend_amqp import AmqpBackend


@dataclass(frozen=True)
class Guarded:
    """A broker that takes TLS links from who has a certificate of ``signed``; ``strange`` are those of another authority."""

    node: BrokerNode
    port: int
    signed: Certificates
    strange: Certificates

    def url(self, options: str, *, host: str = "localhost", user: str = "guest:guest@") -> str:
        return f"amqps://{user}{host}:{self.port}/?{options}"

    @property
    def authority(self) -> str:
        return f"cacertfile={self.signed.authority}"

    @property
    def own(self) -> str:
        return f"certfile={self.signed.client}&keyfile={self.signed.client_key}"

    @property
    def good(self) -> str:
        return f"{self.authority}&{self.own}"


@pytest.fixture(scope="module")
def guarded(private_broker: BrokerNode, tmp_path_factory: pytest.TempPathFactory) -> Guarded:
    if not certificates.can_make():
        pytest.skip("no openssl command to make certificates with")
    signed = certificates.make(tmp_path_factory.mktemp("signed"))
    strange = certificates.make(tmp_path_factory.mktemp("strange"))
    return Guarded(private_broker, tls.listen(private_broker, signed), signed, strange)


@asynccontextmanager
async def linked(amqp: AmqpBackend, url: str) -> AsyncIterator[AmqpTransport]:
    transport = AmqpTransport(url, amqp.topology)
    try:
        await transport.connect(timeout=10)
        yield transport
    finally:
        await transport.aclose()


async def refusal(amqp: AmqpBackend, url: str) -> ConfigurationError:
    """What connecting is refused with, at once and for good."""
    with pytest.raises(ConfigurationError) as refused:
        async with linked(amqp, url):
            pass
    return refused.value


async def test_both_sides_show_their_certificates(amqp: AmqpBackend, guarded: Guarded) -> None:
    """With the right authority and a certificate of our own a link is as good as without TLS."""
    inbox: Inbox[Delivery] = Inbox()
    async with linked(amqp, guarded.url(guarded.good)) as transport:
        await transport.consume(amqp.topology.requests("callee"), inbox, timeout=5)
        await transport.send(amqp.topology.rpc, "callee", b"x" * 300_000, timeout=5, mandatory=True)
        assert len((await inbox.next()).body) == 300_000


async def test_an_authority_that_we_do_not_trust(amqp: AmqpBackend, guarded: Guarded) -> None:
    """A broker whose certificate somebody else has signed, or nobody that the system knows, is refused, and told how to trust."""
    for options in (f"cacertfile={guarded.strange.authority}&{guarded.own}", guarded.own):
        assert "cacertfile=FILE" in str(await refusal(amqp, guarded.url(options)))


async def test_a_certificate_for_another_host(amqp: AmqpBackend, guarded: Guarded) -> None:
    """A certificate that is not for the host of the URL is refused, and told how to name the one that it is for."""
    assert "server_name_indication=NAME" in str(await refusal(amqp, guarded.url(guarded.good, host="127.0.0.1")))
    wrong = guarded.url(f"{guarded.good}&server_name_indication=mq.example.org")
    assert "'mq.example.org'" in str(await refusal(amqp, wrong))
    async with linked(amqp, guarded.url(f"{guarded.good}&server_name_indication=localhost", host="127.0.0.1")):
        pass


async def test_without_or_with_a_wrong_certificate_of_ours(amqp: AmqpBackend, guarded: Guarded) -> None:
    """A broker that asks for our certificate refuses us without one, and with one that it does not trust; both say so."""
    assert "certfile=FILE and keyfile=FILE" in str(await refusal(amqp, guarded.url(guarded.authority)))
    strange = f"certfile={guarded.strange.client}&keyfile={guarded.strange.client_key}"
    assert "does not trust our certificate" in str(await refusal(amqp, guarded.url(f"{guarded.authority}&{strange}")))


async def test_a_key_with_a_passphrase(amqp: AmqpBackend, guarded: Guarded, tmp_path: Path) -> None:
    """The key of our certificate may be locked; its passphrase comes from a file, and a wrong one is told, not shown."""
    locked, passphrase = tmp_path / "locked.key", tmp_path / "passphrase"
    passphrase.write_text("open sesame\n")
    certificates.lock(guarded.signed.client_key, locked, "open sesame")
    options = f"{guarded.authority}&certfile={guarded.signed.client}&keyfile={locked}&keyfile_password_file={passphrase}"
    async with linked(amqp, guarded.url(options)):
        pass
    passphrase.write_text("hunter2\n")
    told = str(await refusal(amqp, guarded.url(options)))
    assert "locked.key" in told
    assert "hunter2" not in told


async def test_the_wrong_kind_of_port(amqp: AmqpBackend, guarded: Guarded) -> None:
    """TLS to a port that does not speak it is refused with which port to use; a plain link to one that does is no link."""
    plain = guarded.node.url.replace("amqp://", "amqps://")
    assert "does not speak TLS" in str(await refusal(amqp, plain))
    with pytest.raises(ConnectionLost):
        await AmqpTransport(f"amqp://guest:guest@localhost:{guarded.port}/", amqp.topology).connect(timeout=1)


async def test_a_new_link_is_checked_like_the_first(amqp: AmqpBackend, guarded: Guarded) -> None:
    """After a cut the link comes back over TLS with the same checks."""
    inner = guarded.url("").partition("?")[0].replace("localhost", "127.0.0.1")
    async with Proxy(inner) as proxy:
        options = f"{guarded.good}&server_name_indication=localhost"
        async with linked(amqp, f"{proxy.url}?{options}") as transport:
            events: Inbox[LinkEvent] = Inbox()
            transport.watch(events)
            proxy.cut()
            await events.next(lambda event: event.state is LinkState.READY)
            assert transport.epoch == 2
            await transport.ping(timeout=5)


@pytest.fixture
def named(guarded: Guarded) -> Iterator[Guarded]:
    """The broker takes names from certificates, and knows the one of ours."""
    tls.take_names_from_certificates(guarded.node)
    with users(guarded.node, {"client": (".*", ".*", ".*")}):
        yield guarded


async def test_our_name_from_our_certificate(amqp: AmqpBackend, named: Guarded) -> None:
    """With auth_mechanism=external no password is needed. The URL says the name of the certificate too, and the broker vouches
    for it in each message; another name, or none, is refused before anything is sent under it."""
    external = f"{named.good}&auth_mechanism=external"
    inbox: Inbox[Delivery] = Inbox()
    async with linked(amqp, named.url(external, user="client@")) as transport:
        await transport.consume(amqp.topology.requests("callee"), inbox, timeout=5)
        await transport.send(amqp.topology.rpc, "callee", b"", timeout=5, mandatory=True)
        assert transport.post(amqp.topology.rpc, "callee", b"")
        for _ in range(2):
            assert (await inbox.next()).user_id == "client"
    told = str(await refusal(amqp, named.url(external, user="boss@")))
    assert "another name than 'boss'" in told
    assert "ssl_cert_login_from" in told
    assert "amqps://NAME@host" in str(await refusal(amqp, named.url(external, user="")))


class Vault(Service):
    name = "vault"

    @rpc(callers=("client",))
    async def open(self) -> str:
        return "gold"


async def test_callers_by_their_certificates(amqp: AmqpBackend, named: Guarded) -> None:
    """Over TLS a method that names its callers is open to who has the certificate of that name, and to nobody who has only a
    password, whatever the hub calls itself."""
    settings = Settings(broker_url=None, namespace=amqp.topology.namespace, instance="")
    by_certificate = named.url(f"{named.good}&auth_mechanism=external", user="client@")
    async with (
        Hub.connect("vault", url=named.url(named.good), settings=settings) as vault,
        Hub.connect("front-desk", url=by_certificate, settings=settings) as client,
        Hub.connect("client", url=named.url(named.good), settings=settings) as pretender,
    ):
        served = await vault.serve(Vault())
        await served.open_doors()
        assert await client.call("vault", "open") == "gold"
        with pytest.raises(NotAllowed, match="not for 'guest'"):
            await pretender.call("vault", "open", timeout=10)


async def test_the_doctor_on_tls(amqp: AmqpBackend, guarded: Guarded) -> None:
    """`fabric doctor` tells a link that is encrypted and checked from one that takes any certificate, and what went wrong."""
    wanted = Wanted(topology=amqp.topology, message_bytes=1000)

    async def level(options: str, check: str) -> Level:
        found = await examine(AmqpSettings.from_url(guarded.url(options)), wanted)
        return next(finding.level for finding in found if finding.check == check)

    assert await level(guarded.good, "encryption") is Level.OK
    assert await level(f"{guarded.own}&verify=verify_none", "encryption") is Level.WARN
    assert await level(guarded.own, "connect") is Level.FAIL


async def never_connected(settings: Settings, shown: list[str]) -> None:
    """Note in ``shown`` what the transport says of itself, and raise what connecting does."""
    transport = transport_for(None, settings)
    shown += [repr(transport), repr(vars(transport))]
    try:
        await transport.connect(timeout=1)
    finally:
        await transport.aclose()


async def test_no_secret_is_shown(amqp: AmqpBackend, guarded: Guarded, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Neither text, repr nor traceback of any refusal, nor a log line down to debug, has the password: from the URL or a file,
    wrong or right, refused by TLS, by the broker, or not reached."""
    caplog.set_level(logging.DEBUG)
    file = tmp_path / "password"
    file.write_text("hunter2-in-a-file\n")
    host = "127.0.0.1"
    urls = [
        guarded.url(guarded.good, user="guest:hunter2-in-a-url@"),
        guarded.url(f"{guarded.good}&password_file={file}"),
        guarded.url(guarded.good, user="guest:hunter2-in-a-url@", host=host),
        f"amqp://guest:hunter2-in-a-url@{host}:1/",
        f"{guarded.node.url.replace('guest:guest', 'guest:hunter2-in-a-url')}?password_file={file}",
        f"amqp://guest:hunter2-in-a-url@{host}:notaport/",
        "amqp://guest:hunter2-in-a-url@h/?no-such-option=1",
        "htp://guest:hunter2-in-a-url@h/",
    ]
    shown = []
    for url in urls:
        settings = Settings(broker_url=SecretStr(url), namespace=amqp.topology.namespace)
        shown += [repr(settings), str(settings), settings.model_dump_json()]
        with pytest.raises(FabricError) as refused:
            await never_connected(settings, shown)
        shown += [repr(refused.value), *traceback.format_exception(refused.value)]
    assert len(caplog.records) > len(urls)
    shown += [record.getMessage() + repr(record.args) + str(record.exc_info) for record in caplog.records]
    assert not [text for text in shown if "hunter2" in text]


async def test_the_url_from_a_file(
    amqp: AmqpBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """FABRIC_BROKER_URL_FILE stands in for FABRIC_BROKER_URL, for hubs and for the command line; a file that can't be used is
    named, and what it holds is not shown."""
    file = tmp_path / "url"
    plain = await amqp.transport()
    url = f"amqp://guest:guest@{plain.settings.host}:{plain.settings.port}/"
    file.write_text(f"{url}\n")
    monkeypatch.setenv("FABRIC_BROKER_URL", "amqp://nobody:hunter2@127.0.0.1:1/")
    monkeypatch.setenv("FABRIC_BROKER_URL_FILE", str(file))
    transport = transport_for(None, Settings(namespace=amqp.topology.namespace))
    await transport.connect(timeout=10)
    await transport.aclose()

    async def doctor() -> int:
        with pytest.raises(SystemExit) as ended:
            await asyncio.to_thread(main, ["doctor", "--namespace", amqp.topology.namespace])
        return int(ended.value.code or 0)

    assert await doctor() == 0
    assert "guest:guest" not in capsys.readouterr().out
    monkeypatch.setenv("FABRIC_BROKER_URL_FILE", str(file))
    file.write_text(f"{url}\nhunter2\n")
    assert await doctor() == 2
    told = capsys.readouterr().err
    assert str(file) in told
    assert "hunter2" not in told
