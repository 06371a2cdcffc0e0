"""``fabric doctor`` on a real broker: what it finds, and that it leaves nothing behind."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiormq
import pytest

from fabric.cli.exits import ExitCode
from fabric.cli.main import main
from fabric.transports import amqp_features
from fabric.transports.amqp import AmqpTransport
from fabric.transports.amqp_doctor import examine
from fabric.transports.amqp_facts import Wanted
from fabric.transports.amqp_settings import AmqpSettings
from fabric.transports.amqp_stream import AmqpStream
from fabric.transports.base import QueueSpec
from fabric.transports.diagnosis import Finding, Level, worst
from fabric.transports.topology import Topology
from tests.brokers.leftovers import remove
from tests.brokers.node import BrokerNode, clear_memory_alarm, raise_memory_alarm
from tests.brokers.users import url_of, users
from tests.unit.transports.socket_broker import BROKER, running

MiB = 1024 * 1024


@dataclass
class Place:
    """A namespace on the broker."""

    node: BrokerNode
    topology: Topology

    @property
    def wanted(self) -> Wanted:
        return Wanted(topology=self.topology, message_bytes=MiB)

    @property
    def group(self) -> QueueSpec:
        return self.topology.event_group("mailer", ("todo.*",), prefetch=1, max_attempts=3, retry_delays=(0.05,))

    async def found(self, url: str | None = None, wanted: Wanted | None = None, **settings: Any) -> list[Finding]:
        link = AmqpSettings.from_url(url or self.node.url, **settings)
        return await examine(link, wanted or self.wanted)

    async def fleet_was_here(self, spec: QueueSpec | None = None) -> None:
        """Exchanges and, if given, a durable queue, as a hub makes them."""
        transport = AmqpTransport(self.node.url, self.topology)
        await transport.connect(timeout=10)
        if spec is not None:
            await transport.consume(spec, lambda delivery: None, timeout=10)
        await transport.aclose()


@pytest.fixture
def place(broker: BrokerNode) -> Iterator[Place]:
    topology = Topology(f"test-{uuid.uuid4().hex[:12]}")
    yield Place(broker, topology)
    asyncio.run(remove(broker.url, topology, ("mailer",)))


def of(findings: list[Finding], check: str) -> list[Finding]:
    return [finding for finding in findings if finding.check == check]


async def test_a_broker_that_is_fit(place: Place) -> None:
    """On a fresh broker of any tested version nothing fails, before and after a fleet was there, and every check was made."""
    for _ in range(2):
        found = await place.found()
        assert worst(found) is Level.OK, found
        assert {finding.check for finding in found} >= {"connect", "version", "prediction", "limits", "alarm", "exchange"}
        assert {finding.check for finding in found} >= {"permissions", "message-size", "user", "latency"}
        await place.fleet_was_here()
    (permissions,) = of(found, "permissions")
    assert "may do 19 of 19 things" in permissions.message


async def test_nothing_is_left_behind(place: Place, private_broker: BrokerNode) -> None:
    """After an examination the broker has the same queues and exchanges as before, and nobody got a message of it."""

    def there() -> str:
        return private_broker.ctl("eval", "{rabbit_amqqueue:list_names(), [element(2, E) || E <- rabbit_exchange:list()]}.")

    await place.fleet_was_here(place.group)
    everything = replace(place.group, name=f"{place.topology.events}.mailer.default", keys=("#",))
    transport = AmqpTransport(private_broker.url, place.topology)
    await transport.connect(timeout=10)
    got: list[Any] = []
    await transport.consume(everything, got.append, timeout=10)
    for spec in (place.topology.broadcasts(), place.topology.control_lane("#"), place.topology.discoveries("#")):
        await transport.consume(spec, got.append, timeout=10)
    before = await asyncio.to_thread(there)
    await place.found()
    after = await asyncio.to_thread(there)
    await transport.aclose()
    assert after == before
    assert got == []


def test_a_user_with_too_few_permissions(place: Place, private_broker: BrokerNode) -> None:
    """Each permission that is missing is named with what it is for and how to give it, and what is not missing is not."""
    namespace = place.topology.namespace
    patterns = (r"^amq\.gen.*$", r"^amq\.gen.*$", rf"^(amq\.gen.*|{namespace}\.rpc)$")
    asyncio.run(place.fleet_was_here())
    name = f"meek-{namespace}"
    with users(private_broker, {name: patterns}):
        found = asyncio.run(place.found(url_of(private_broker, name)))
    refused = [finding for finding in of(found, "permissions") if finding.level is Level.FAIL]
    told = "\n".join(finding.message for finding in refused)
    for needed in (
        f"write on {namespace}.rpc",
        f"write on {namespace}.discovery",
        f"read on {namespace}.discovery",
        "configure, write and read on",
    ):
        assert needed in told
    assert "may not declare an inbox" not in told
    assert f"read on {namespace}.rpc" not in told
    assert all("fabric permissions FLEET" in finding.advice for finding in refused)


def test_exchanges_that_nobody_may_make(place: Place, private_broker: BrokerNode) -> None:
    """A user who may not declare exchanges is fine where they exist, and told what to do where they don't."""
    namespace = place.topology.namespace
    name = f"meek-{namespace}"
    rights = rf"^(amq\..*|{namespace}\.events\..*|{namespace}\.journal.*)$", ".*", ".*"
    with users(private_broker, {name: rights}):
        missing = asyncio.run(place.found(url_of(private_broker, name)))
        asyncio.run(place.fleet_was_here())
        there = asyncio.run(place.found(url_of(private_broker, name)))
    (exchange,) = of(missing, "exchange")
    assert exchange.level is Level.FAIL
    assert f"{namespace}.rpc" in exchange.message
    assert worst(there) is Level.OK, there


async def test_a_queue_with_other_arguments(place: Place) -> None:
    """M23 (aio-pika#565): a queue that exists with another max_attempts is found before its service runs into it, and stays as it
    is; one that fits is fine."""
    await place.fleet_was_here(place.group)
    other = replace(place.group, max_attempts=4)
    for spec, level in ((place.group, Level.OK), (other, Level.FAIL), (place.group, Level.OK)):
        (queue,) = of(await place.found(wanted=replace(place.wanted, queues=(spec,))), "queue")
        assert queue.level is level, queue
    (queue,) = of(await place.found(wanted=replace(place.wanted, queues=(other,))), "queue")
    assert "x-delivery-limit" in queue.message
    assert "rabbitmq.md" in queue.advice


async def test_an_exchange_of_another_kind(place: Place) -> None:
    """An exchange of the namespace that somebody made with another kind is a failure that names it."""
    async with aiormq.connect(place.node.url) as connection:
        channel = await connection.channel()
        await channel.exchange_declare(place.topology.events, exchange_type="fanout", durable=True)
    exchanges = of(await place.found(), "exchange")
    assert [finding.level for finding in exchanges if place.topology.events in finding.message] == [Level.FAIL]


async def test_the_journal(place: Place) -> None:
    """A stream that the coordinator can use is fine, there or not; anything else under its name is a failure with advice, and
    stays as it is."""
    assert [finding.level for finding in of(await place.found(), "journal")] == [Level.OK]
    journal = AmqpStream[None](AmqpSettings.from_url(place.node.url), place.topology.journal, lambda offset, body: None)
    await journal.open()
    await journal.aclose()
    (there,) = of(await place.found(), "journal")
    assert there.level is Level.OK
    async with aiormq.connect(place.node.url) as connection:
        channel = await connection.channel()
        await channel.queue_delete(place.topology.journal)
        await channel.queue_declare(place.topology.journal, durable=True)
        (wrong,) = of(await place.found(), "journal")
        assert wrong.level is Level.FAIL
        assert f"delete_queue -p / {place.topology.journal}" in wrong.advice
        (nothing,) = of(await place.found(wanted=replace(place.wanted, service="coordinator", patterns=())), "journal")
        assert nothing.level is Level.FAIL
        assert of(await place.found(wanted=replace(place.wanted, service="mailer")), "journal") == []


async def test_a_queue_of_before_the_group_was_ordered(place: Place) -> None:
    """What a group left in its former queue is counted and told, with what becomes of it."""
    await place.fleet_was_here(place.group)
    ordered = place.topology.event_group("mailer", ("todo.*",), prefetch=1, max_attempts=3, retry_delays=(0.05,), ordered=True)
    queues = of(await place.found(wanted=replace(place.wanted, queues=(ordered,))), "queue")
    assert [finding.level for finding in queues] == [Level.OK, Level.WARN]
    assert f"{place.group.name}: the group had it before" in queues[1].message


async def test_dead_letters_are_told(place: Place) -> None:
    """What a service gave up is counted, with the command that shows it."""
    transport = AmqpTransport(place.node.url, place.topology)
    await transport.connect(timeout=10)

    async def reject(delivery: Any) -> None:
        await delivery.reject("no")

    given_up: list[asyncio.Task[None]] = []
    loop = asyncio.get_running_loop()
    await transport.consume(place.group, lambda delivery: given_up.append(loop.create_task(reject(delivery))), timeout=10)
    await transport.send(place.topology.events, "todo.made", b"x", timeout=10, mandatory=True, persistent=True)
    async with asyncio.timeout(10):
        while not await transport.dead_letters(place.group.name or "", limit=1, timeout=5):
            pass
    await transport.aclose()
    told = of(await place.found(wanted=replace(place.wanted, queues=(place.group,))), "queue")
    assert [(finding.level, "1 dead letters" in finding.message) for finding in told] == [(Level.OK, False), (Level.WARN, True)]


def test_a_memory_alarm(place: Place, private_broker: BrokerNode) -> None:
    """M11: a broker that takes no publishes is told as such, with its reason, in seconds; what needs no publishing is still
    examined."""
    asyncio.run(place.fleet_was_here())
    raise_memory_alarm(private_broker)
    try:
        found = asyncio.run(asyncio.wait_for(place.found(), 30))
    finally:
        clear_memory_alarm(private_broker)
    (alarm,) = of(found, "alarm")
    assert alarm.level is Level.FAIL
    assert "memory" in alarm.message
    levels = {finding.level for finding in of(found, "permissions")}
    assert levels == {Level.OK, Level.WARN}, "some could be tried, some not"
    assert not of(found, "message-size")


def test_a_user_who_may_pretend(place: Place, private_broker: BrokerNode) -> None:
    """A user with the tag impersonator makes the names of callers worthless, and is warned of."""
    name = f"actor-{place.topology.namespace}"
    with users(private_broker, {name: (".*", ".*", ".*")}, tags="impersonator"):
        found = asyncio.run(place.found(url_of(private_broker, name)))
    assert [finding.level for finding in of(found, "user")] == [Level.WARN]


async def test_a_message_that_is_too_large_for_it(place: Place, private_broker: BrokerNode) -> None:
    """A message over the broker's limit is predicted from its version, and shown by trying; both say what to set."""
    version = amqp_features.parse(private_broker.version)
    assert version is not None
    limit = amqp_features.features(version).max_message
    if limit > 16 * MiB:
        await asyncio.to_thread(private_broker.ctl, "eval", f"application:set_env(rabbit, max_message_size, {16 * MiB}).")
    try:
        too_large = replace(place.wanted, message_bytes=16 * MiB + 1)
        found = await place.found(wanted=too_large, max_body=32 * MiB)
    finally:
        if limit > 16 * MiB:
            await asyncio.to_thread(private_broker.ctl, "eval", f"application:set_env(rabbit, max_message_size, {limit}).")
    (size,) = of(found, "message-size")
    assert size.level is Level.FAIL
    assert "at most 16 MiB" in size.message
    predicted = [finding.level for finding in of(found, "prediction") if "take" in finding.message and "MiB" in finding.message]
    assert predicted == ([Level.FAIL] if limit == 16 * MiB else [])


async def test_what_it_predicts_is_so(broker: BrokerNode) -> None:
    """M24 (celery#10287): the broker refuses nothing that its version is not said to refuse, and takes what that should take."""
    async with aiormq.connect(broker.url) as connection:
        version = amqp_features.parse(str(connection.server_properties["version"]))
        assert version is not None
        has = amqp_features.features(version)

        async def refused(ask: Callable[[aiormq.abc.AbstractChannel], Coroutine[Any, Any, Any]]) -> bool:
            async with aiormq.connect(broker.url) as another:
                try:
                    await ask(await another.channel())
                except (aiormq.exceptions.AMQPError, asyncio.CancelledError):
                    return True
            return False

        name = f"test-{uuid.uuid4().hex[:12]}"
        shared = await refused(lambda channel: channel.queue_declare(name, durable=False, auto_delete=False))
        assert has.refuses_transient or not shared
        large = await refused(lambda channel: channel.basic_publish(bytes(16 * MiB + 1), routing_key=name))
        assert large is (has.max_message <= 16 * MiB)
        channel = await connection.channel()
        await channel.queue_delete(name)


@pytest.mark.parametrize(
    ("change", "level", "advice"),
    [
        ({"password": "hunter2"}, Level.FAIL, "authenticate_user"),
        ({"vhost": "no-such"}, Level.FAIL, "list_vhosts"),
        ({"port": 1}, Level.FAIL, "is the broker running"),
    ],
)
async def test_a_broker_that_does_not_let_us_in(place: Place, change: dict[str, Any], level: Level, advice: str) -> None:
    """Wrong credentials, a missing virtual host and a broker that is not there are findings with advice, without the password."""
    found = await place.found(**change)
    (finding,) = found
    assert finding.level is level
    assert advice in finding.advice
    assert "hunter2" not in str(found)
    assert finding.check == ("reach" if "port" in change else "connect")


FLEET = """\
name: post
services:
  mailer: {run: "doctors_post:Mailer", critical: true}
  other: {command: [somewhere]}
"""

MAILER = """\
from fabric import Service, on_event
class Mailer(Service):
    name = "mailer"
    @on_event("todo.*", max_attempts=ATTEMPTS, retry_delays=(0.05,))
    async def mail(self, event: dict) -> None: ...
"""


def doctor(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["doctor", *arguments])
    streams = capsys.readouterr()
    return int(ended.value.code or 0), streams.out, streams.err


def test_the_command_compares_a_fleet(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`fabric doctor FLEET` reads what the services subscribe to from their classes, compares their queues and exits with 1 when
    one can't be consumed, with 0 when all is well."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fleet.yaml").write_text(FLEET)
    (tmp_path / "doctors_post.py").write_text(MAILER.replace("ATTEMPTS", "3"))
    where = ("fleet.yaml", "--broker-url", place.node.url, "--namespace", place.topology.namespace)
    asyncio.run(place.fleet_was_here(place.group))
    code, out, _ = doctor(capsys, *where, "--json", "--service", "mailer")
    told = json.loads(out)
    assert (code, told["level"]) == (ExitCode.OK, "ok"), told
    assert [finding["message"] for finding in told["findings"] if finding["check"] == "queue"] == [
        f"{place.group.name}: as Fabric declares it; 0 messages, 0 consumers"
    ]
    monkeypatch.delitem(__import__("sys").modules, "doctors_post")
    (tmp_path / "doctors_post.py").write_text(MAILER.replace("ATTEMPTS", "5"))
    code, out, _ = doctor(capsys, *where)
    assert code == ExitCode.FAILED
    assert f"fail  queue         {place.group.name}: has other properties" in out
    assert "guest:guest" not in out
    code, _, err = doctor(capsys, *where, "--service", "maler")
    assert (code, "did you mean 'mailer'?" in err) == (ExitCode.CONFIGURATION, True)


async def test_the_command_on_an_embedded_broker(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An embedded broker is fit for work and told to keep nothing; where there is none the exit code is 3."""
    path = tmp_path / "b"
    async with running(BROKER, path):
        code, out, _ = await asyncio.to_thread(doctor, capsys, "--broker-url", f"unix://{path}", "--json")
    told = json.loads(out)
    assert (code, told["level"]) == (ExitCode.OK, "warn")
    assert [finding["check"] for finding in told["findings"]] == ["connect", "durability", "latency"]
    code, out, _ = await asyncio.to_thread(doctor, capsys, "--broker-url", f"unix://{tmp_path}/nobody", "--timeout", "0.3")
    assert code == ExitCode.UNREACHABLE
    assert out.startswith("fail  reach")
