"""The embedded broker against clients that are slow, wrong or hostile, and its claim to a path."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from pathlib import Path
from typing import Any

import msgpack
import pytest

from fabric.errors import ConfigurationError, ConnectionLost, PayloadTooLarge
from fabric.transports.base import LinkState
from fabric.transports.embedded import EmbeddedTransport
from fabric.transports.embedded_frames import LENGTH, VERSION, Word
from fabric.transports.embedded_server import EmbeddedServer, serve
from fabric.transports.memory_session import Verb
from fabric.transports.topology import Topology
from tests.contract.observed import Events, Inbox, events, outcome, until
from tests.contract.raw_client import RawClient

TOPOLOGY = Topology("unit")


async def connected(path: Path, **options: Any) -> EmbeddedTransport:
    transport = EmbeddedTransport(path, TOPOLOGY, **options)
    await transport.connect(timeout=5)
    return transport


async def test_only_for_its_user(socket_path: Path) -> None:
    """The socket may be used by its own user only, from the moment that it is there, and the umask is as it was."""
    mask = os.umask(0o022)
    try:
        async with EmbeddedServer(socket_path):
            assert stat.S_IMODE(socket_path.stat().st_mode) == 0o600
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(mask)


async def test_one_server_a_path(socket_path: Path) -> None:
    """A second server on the path of a live one is refused and harms nothing; after the first has closed it may start."""
    async with EmbeddedServer(socket_path):
        with pytest.raises(ConfigurationError, match="another broker is running"):
            await EmbeddedServer(socket_path).start()
        link = await connected(socket_path)
        await link.aclose()
    async with EmbeddedServer(socket_path):
        assert socket_path.exists()
    assert list(socket_path.parent.iterdir()) == []


async def test_stale_socket(socket_path: Path) -> None:
    """A socket that a dead server left is taken over."""
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(socket_path))
    async with EmbeddedServer(socket_path):
        link = await connected(socket_path)
        await link.aclose()


async def test_not_a_socket(socket_path: Path) -> None:
    """Anything else at the path is left alone, and so is a path that can't be."""
    socket_path.write_text("precious")
    with pytest.raises(ConfigurationError, match="not a socket"):
        await EmbeddedServer(socket_path).start()
    assert socket_path.read_text() == "precious"
    for impossible in (socket_path.parent / "missing" / "broker", socket_path.parent / ("n" * 150)):
        with pytest.raises(ConfigurationError):
            await EmbeddedServer(impossible).start()
    assert list(socket_path.parent.iterdir()) == [socket_path]


async def test_nobody_listens(socket_path: Path) -> None:
    """Without a server a connect ends in its time and names the path."""
    link = EmbeddedTransport(socket_path, TOPOLOGY)
    error = await outcome(link.connect(timeout=0.05))
    assert isinstance(error, ConnectionLost)
    assert str(socket_path) in str(error)
    await link.aclose()


async def test_serve(socket_path: Path) -> None:
    """``serve`` says when it listens, and leaves nothing behind when it is cancelled."""
    started = asyncio.Event()
    serving = asyncio.ensure_future(serve(socket_path, started=started.set))
    await started.wait()
    link = await connected(socket_path)
    seen = Events(link)
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
    await seen.until_state(LinkState.RECONNECTING)
    await link.aclose()
    assert list(socket_path.parent.iterdir()) == []


HELLO = (Word.HELLO, VERSION, "raw", "raw")
PUBLISH = (Word.PUBLISH, 1, "", "q", b"x", 1, "text/plain", None, None, None, None)


@pytest.mark.parametrize(
    "words",
    [
        [PUBLISH],
        [(Word.HELLO, VERSION + 1, "raw", "raw")],
        [(Word.HELLO, VERSION, 5, "raw")],
        [HELLO, HELLO],
        [HELLO, (99, 1)],
        [HELLO, ("word",)],
        [HELLO, ([],)],
        [HELLO, PUBLISH[:-1]],
        [HELLO, (*PUBLISH[:4], "text", *PUBLISH[5:])],
        [HELLO, (*PUBLISH[:3], ["q"], *PUBLISH[4:])],
        [HELLO, (*PUBLISH[:5], 9, *PUBLISH[6:])],
        [HELLO, (*PUBLISH[:7], [1], *PUBLISH[8:])],
        [HELLO, (Word.ACK,), (Word.RELEASE, 7), (99,)],
        [HELLO, (Word.ASK, 1, 99, [])],
        [HELLO, (Word.ASK, 1, Verb.PING, [1, 2, 3])],
        [HELLO, (Word.ASK, 1, Verb.DECLARE, [[["name", "kind"]]])],
        [HELLO, (Word.ASK, 1, Verb.DECLARE, [5])],
        [HELLO, (Word.ASK, 1, Verb.CONSUME, [1, "q", "", [], True, True, "many", 5, []])],
        [HELLO, (Word.ASK, 1, Verb.CONSUME, [1, "q", "", [], True, True, 10, 5, ["soon"]])],
        [HELLO, (Word.ASK, 1, Verb.CONSUME, [[], "q", "", [], True, True, 10, 5, []])],
        [HELLO, *[(Word.ASK, 1, Verb.CONSUME, [1, "q", "", [], True, True, 10, 5, []])] * 2],
        [HELLO, (Word.ASK, 1, Verb.DEAD_LETTERS, ["q"])],
    ],
)
async def test_clients_that_talk_nonsense(socket_path: Path, words: list[tuple[Any, ...]]) -> None:
    """M31 (dramatiq#848): a client that says what is not understood is dropped; the broker and its other clients go on."""
    async with EmbeddedServer(socket_path) as server:
        link = await connected(socket_path)
        async with RawClient(socket_path, greet=False) as client:
            for said in words:
                client.say(*said)
            assert await client.closed()
        await link.ping(timeout=5)
        assert server.network.links == 1
        await link.aclose()


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xff\xff\xff",
        (64 * 1024 + 1).to_bytes(LENGTH),
        (0).to_bytes(LENGTH),
        b"\0\0\0\1\xc1",
        b"\0\0\0\5\xdf\xff\xff\xff\xff",
        b"\0\0\0\1\x05",
        b"GET / HTTP/1.1\r\n\r\n",
        (2_000).to_bytes(LENGTH) + b"\x91" * 2_000,
        (lambda frame: len(frame).to_bytes(LENGTH) + frame)(msgpack.packb([1, msgpack.ExtType(5, b"x")])),
    ],
)
async def test_clients_that_send_noise(socket_path: Path, data: bytes) -> None:
    """M31: bytes that are no frames, claim too much, nest too deep or hold extension types get the client dropped, at once."""
    async with EmbeddedServer(socket_path) as server:
        async with RawClient(socket_path, greet=False) as client:
            client.writer.write(data)
            assert await client.closed()
        assert server.network.links == 0


async def test_body_over_the_limit_of_the_broker(socket_path: Path) -> None:
    """The broker's limit counts on both sides: a transport learns it on connecting, and a client that ignores it is dropped."""
    async with EmbeddedServer(socket_path, max_body=1000):
        link = await connected(socket_path)
        assert link.max_body == 1000
        with pytest.raises(PayloadTooLarge):
            await link.send(TOPOLOGY.rpc, "one", bytes(1001), timeout=5)
        async with RawClient(socket_path) as client:
            client.say(*PUBLISH[:4], bytes(1001), *PUBLISH[5:])
            assert await client.closed()
        await link.aclose()


async def test_client_that_does_not_read(socket_path: Path) -> None:
    """M30 (nats.py#667): a client that asks and never reads is not read from either, so that its answers take no memory."""
    async with EmbeddedServer(socket_path) as server:
        link, inbox = await connected(socket_path), Inbox()
        await link.consume(events(TOPOLOGY, "todo.*"), inbox, timeout=5)
        queue = events(TOPOLOGY, "todo.*").name
        await link.send(TOPOLOGY.events, "todo.created", bytes(500_000), timeout=5)
        await (await inbox.next()).reject("kept")
        async with RawClient(socket_path) as client:
            for number in range(200):
                client.say(Word.ASK, number, Verb.DEAD_LETTERS, [queue, 0, 1])
            connections = list(server._connections)
            await asyncio.gather(*(link.ping(timeout=5) for _ in range(200)))
            assert max(connection._writer.waiting for connection in connections) < 4_000_000
            for number in range(200):
                answer = await client.hear()
                assert answer is not None
                assert answer[:2] == [Word.ANSWER, number]
        await link.aclose()


async def test_reader_that_pauses(socket_path: Path) -> None:
    """M30: what a reader can't take yet waits in its queue, in order, and comes when it reads again."""
    async with EmbeddedServer(socket_path) as server:
        link = await connected(socket_path)
        async with RawClient(socket_path) as client:
            client.say(Word.ASK, 1, Verb.CONSUME, [1, "slow", "", [], False, False, 1, 1, []])
            assert await client.hear() == [Word.ANSWER, 1, "slow"]
            for number in range(300):
                await link.send("", "slow", number.to_bytes(2) + bytes(100_000), timeout=5)
            queue = server.network.broker.queue("slow")
            assert queue is not None
            assert queue.waiting > 200
            for number in range(300):
                heard = await client.hear()
                assert heard is not None
                assert (heard[0], int.from_bytes(heard[6][:2])) == (Word.DELIVER, number)
        await link.aclose()


async def test_posts_have_a_bound(socket_path: Path) -> None:
    """M30: where the broker does not keep up, post says so instead of buffering without limit; nothing that it took is lost."""
    async with EmbeddedServer(socket_path):
        link, other, inbox = await connected(socket_path), await connected(socket_path), Inbox()
        await other.consume(TOPOLOGY.requests("one"), inbox, timeout=5)
        taken = 0
        while link.post(TOPOLOGY.rpc, "one", bytes(100_000)):
            taken += 1
            assert taken < 1000
        assert taken > 20
        assert len(await inbox.bodies(taken)) == taken
        await link.ping(timeout=5)
        assert link.post(TOPOLOGY.rpc, "one", b"again")
        assert await inbox.bodies(1) == [b"again"]
        await link.aclose()
        await other.aclose()


async def test_sends_wait_for_room(socket_path: Path) -> None:
    """Many large sends at once wait for room rather than for memory, and all arrive."""
    async with EmbeddedServer(socket_path):
        link, other, inbox = await connected(socket_path), await connected(socket_path), Inbox()
        await other.consume(TOPOLOGY.requests("one"), inbox, timeout=5)
        await asyncio.gather(*(link.send(TOPOLOGY.rpc, "one", bytes(500_000), timeout=30) for _ in range(100)))
        assert len(await inbox.bodies(100)) == 100
        await link.aclose()
        await other.aclose()


async def test_silent_client(socket_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client from which nothing comes any more is dropped, and its exclusive queue with it."""
    monkeypatch.setattr("fabric.transports.embedded_connection._TICK", 0.02)
    async with EmbeddedServer(socket_path) as server, RawClient(socket_path) as client:
        client.say(Word.ASK, 1, Verb.CONSUME, [1, "mine", "", [], False, False, 1, 1, []])
        assert await client.hear() == [Word.ANSWER, 1, "mine"]
        assert await client.closed()
        assert server.network.broker.queue("mine") is None


async def test_idle_link_lives(socket_path: Path) -> None:
    """A link on which nobody sends stays, because each end asks the other for signs of life."""
    async with EmbeddedServer(socket_path):
        link = await connected(socket_path, patience=0.08)
        seen = Events(link)
        await asyncio.sleep(0.5)  # many times its patience
        assert (link.state, link.epoch, seen.seen) == (LinkState.READY, 1, [])
        await link.aclose()


async def test_many_at_once(socket_path: Path) -> None:
    """M33: a hundred transports that lose their broker are all back, each with its consumer, and none is left after closing."""
    async with EmbeddedServer(socket_path) as server:
        links, inboxes = [await connected(socket_path) for _ in range(100)], [Inbox() for _ in range(100)]
        for number, (link, inbox) in enumerate(zip(links, inboxes, strict=True)):
            await link.consume(TOPOLOGY.requests(f"i{number}"), inbox, timeout=5)
        seen = [Events(link) for link in links]
        server.network.restart()
        for watched in seen:
            await watched.until_epoch(2)
        for number in range(100):
            await links[-number].send(TOPOLOGY.rpc, f"i{number}", b"%d" % number, timeout=5, mandatory=True)
        assert [await inbox.bodies(1) for inbox in inboxes] == [[b"%d" % number] for number in range(100)]
        for link in links:
            await link.aclose()

        async def gone() -> bool:
            return server.network.links == 0

        await until(gone)


async def test_broker_that_talks_nonsense(socket_path: Path) -> None:
    """A transport that reaches something that is no broker says so in its time, and keeps nothing open."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await reader.read()
        writer.close()

    async with await asyncio.start_unix_server(answer, str(socket_path)):
        link = EmbeddedTransport(socket_path, TOPOLOGY)
        error = await outcome(link.connect(timeout=0.3))
        assert isinstance(error, ConnectionLost)
        assert "not understood" in str(error)
        await link.aclose()
