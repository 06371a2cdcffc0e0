"""The outbox against a transport that a test drives by hand: what travels together, what is confirmed, every end told once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabric.errors import ConnectionLost, FabricError, InvalidMessage, NoRoute, NotSent, PayloadTooLarge, TransportClosed
from fabric.transports.base import Consumer, DeadLetter, LinkEvent, LinkState, QueueSpec, Receiver, Told, Transport
from fabric.transports.outbox import Outbox, Parcel
from fabric.wire import batch
from fabric.wire.codec import MSGPACK
from fabric.wire.message import Priority
from fabric.wire.rows import MOST_ROWS, ROWS
from tests.puppet import LIMIT, eventually
from tests.unit.parcels import Wish
from tests.unit.wire.messages import unhurried


@dataclass(eq=False)
class Letter(Wish):
    """A parcel that knows what it holds."""

    data: bytes
    deadline: float


@dataclass(eq=False)
class Sending:
    """A body under way: the test decides how it ends."""

    exchange: str
    key: str
    body: bytes
    timeout: float
    priority: Priority
    content_type: str
    expires: float | None
    mandatory: bool
    answered: bool
    end: asyncio.Future[None]

    @property
    def parts(self) -> list[bytes]:
        return list(batch.split(self.body, self.content_type))

    @property
    def rows(self) -> list[Any]:
        """The head and the rows below it."""
        assert self.content_type == ROWS
        found: list[Any] = msgpack.unpackb(self.body)
        return found


class HandTransport:
    """A transport that only sends, and says that it has when the test says so."""

    name, epoch = "hand", 1

    def __init__(self, *, max_body: int = 1_000_000) -> None:
        self.max_body = max_body
        self.state = LinkState.READY
        self.sendings: list[Sending] = []
        self.busy = False
        """It takes nothing now; who waits for it is in ``sendings`` all the same."""
        self.refuses: Exception | None = None
        self._listeners: dict[object, Callable[[LinkEvent], None]] = {}

    def turn(self, state: LinkState) -> None:
        self.state = state
        for listener in tuple(self._listeners.values()):
            listener(LinkEvent(state=state, epoch=self.epoch))

    def watch(self, listener: Callable[[LinkEvent], None]) -> Callable[[], None]:
        place = object()
        self._listeners[place] = listener

        def unwatch() -> None:
            self._listeners.pop(place, None)

        return unwatch

    @property
    def listeners(self) -> int:
        return len(self._listeners)

    async def send(
        self,
        exchange: str,
        key: str,
        body: bytes,
        *,
        timeout: float,
        priority: Priority = Priority.NORMAL,
        content_type: str = MSGPACK,
        headers: Mapping[str, Any] | None = None,
        message_id: str | None = None,
        expires: float | None = None,
        mandatory: bool = False,
        answered: bool = False,
        persistent: bool = False,
        delay: float | None = None,
    ) -> None:
        end: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.sendings.append(Sending(exchange, key, body, timeout, priority, content_type, expires, mandatory, answered, end))
        await end

    def submit(
        self,
        exchange: str,
        key: str,
        body: bytes,
        told: Told,
        *,
        timeout: float,
        priority: Priority = Priority.NORMAL,
        content_type: str = MSGPACK,
        answered: bool = False,
    ) -> bool:
        if self.refuses is not None:
            raise self.refuses
        if self.busy:
            return False
        end: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def ended(end: asyncio.Future[None]) -> None:
            if not end.cancelled():
                error = end.exception()
                assert error is None or isinstance(error, FabricError)
                told(error)

        end.add_done_callback(ended)
        self.sendings.append(Sending(exchange, key, body, timeout, priority, content_type, timeout, True, answered, end))
        return True

    async def connect(self, *, timeout: float) -> None:
        raise AssertionError("an outbox only sends")

    def post(self, exchange: str, key: str, body: bytes, **options: Any) -> bool:
        raise AssertionError("an outbox only sends")

    async def consume(self, queue: QueueSpec, receiver: Receiver, *, timeout: float) -> Consumer:
        raise AssertionError("an outbox only sends")

    async def dead_letters(self, queue: str, *, limit: int, timeout: float) -> list[DeadLetter]:
        raise AssertionError("an outbox only sends")

    async def replay_dead_letter(self, queue: str, id: str, *, timeout: float) -> bool:
        raise AssertionError("an outbox only sends")

    async def discard_dead_letter(self, queue: str, id: str, *, timeout: float) -> bool:
        raise AssertionError("an outbox only sends")

    async def ping(self, *, timeout: float) -> float:
        raise AssertionError("an outbox only sends")

    async def aclose(self) -> None:
        self.turn(LinkState.CLOSED)


@dataclass
class Desk:
    """An outbox and everything that it told."""

    transport: HandTransport
    max_batch_bytes: int = 1000
    max_waiting_bytes: int = 100_000
    pause: float = 0.001
    told: list[tuple[Letter, str]] = field(default_factory=list)
    errors: list[FabricError] = field(default_factory=list)

    changed: set[bytes] = field(default_factory=set)
    """What can't be made whole any more."""

    def __post_init__(self) -> None:
        self.outbox = Outbox(
            self.transport,
            sent=self.sent,
            failed=self.failed,
            whole=self.whole,
            max_batch_bytes=self.max_batch_bytes,
            max_waiting_bytes=self.max_waiting_bytes,
            pause=self.pause,
        )

    def sent(self, parcels: Sequence[Parcel]) -> None:
        self._note(parcels, "sent")

    def failed(self, parcels: Sequence[Parcel], error: FabricError) -> None:
        self._note(parcels, type(error).__name__)
        self.errors.append(error)

    def whole(self, parcel: Parcel) -> bytes:
        assert isinstance(parcel, Letter)
        if parcel.data in self.changed:
            raise InvalidMessage("it can't be sent any more")
        return b"whole " + parcel.data

    def _note(self, parcels: Sequence[Parcel], how: str) -> None:
        for parcel in parcels:
            assert isinstance(parcel, Letter)
            self.told.append((parcel, how))

    def put(
        self,
        data: bytes,
        *,
        key: str = "inbox",
        priority: Priority = Priority.NORMAL,
        seconds: float = 1000.0,
        company: int = 0,
        head: bytes = b"",
    ) -> Letter:
        letter = Letter(data, asyncio.get_running_loop().time() + seconds)
        self.outbox.put("rpc", key, priority, data, letter, company, head)
        return letter

    def told_of(self, letter: Letter) -> list[str]:
        return [how for other, how in self.told if other is letter]

    @property
    def under_way(self) -> list[Sending]:
        return [sending for sending in self.transport.sendings if not sending.end.done()]

    @property
    def left(self) -> list[list[bytes]]:
        """The messages of each body that left."""
        return [sending.parts for sending in self.transport.sendings]

    @property
    def waiting(self) -> bool:
        return any(lane.rows for lane in self.outbox._lanes.values())

    async def confirm(self) -> None:
        """Let everything that is under way, or gets so, end well."""
        await settle()
        async with asyncio.timeout(LIMIT):
            while self.under_way or self.waiting:
                for sending in self.under_way:
                    sending.end.set_result(None)
                await settle()
                if self.waiting and not self.under_way:
                    await asyncio.sleep(self.pause)


async def settle() -> None:
    """Let the loop run until all that is ready has run; nothing here waits for time."""
    for _ in range(6):
        await asyncio.sleep(0)


@pytest.fixture
async def desk() -> Desk:
    return Desk(HandTransport())


async def test_one_body_of_a_lane_is_under_way_while_the_next_fills(desk: Desk) -> None:
    """What nothing else would gather, as there is no pause for high priority: messages leave at once, and what comes while a
    body is to be confirmed leaves together when it has arrived, in order."""
    first = desk.put(b"1", priority=Priority.HIGH, company=9)
    await settle()
    for data in (b"2", b"3", b"4"):
        desk.put(data, priority=Priority.HIGH, company=9)
        await settle()
    assert desk.left == [[b"1"]]
    assert desk.transport.sendings[0].content_type == MSGPACK
    assert first.left
    desk.transport.sendings[0].end.set_result(None)
    await settle()
    assert desk.left == [[b"1"], [b"2", b"3", b"4"]]
    assert desk.transport.sendings[1].content_type == batch.BATCH
    assert desk.told == [(first, "sent")]
    assert not any(sending.answered for sending in desk.transport.sendings)
    await desk.confirm()
    assert [how for _, how in desk.told] == ["sent"] * 4


async def test_many_of_one_turn_leave_in_parts_that_the_callee_can_work_on(desk: Desk) -> None:
    """A body's worth leaves without waiting for the rest or for a confirm, in order, with a bound on what is under way."""
    letters = [desk.put(b"%d" % number) for number in range(100)]
    await settle()
    assert [len(sending.parts) for sending in desk.transport.sendings] == [50, 50]
    letters += [desk.put(b"%d" % number) for number in range(100, 200)]
    await settle()
    assert len(desk.under_way) == 2
    desk.under_way[1].end.set_result(None)
    await settle()
    assert [len(sending.parts) for sending in desk.transport.sendings] == [50, 50, 100]
    assert b"".join(part for sending in desk.transport.sendings for part in sending.parts) == b"".join(
        b"%d" % number for number in range(200)
    )
    await desk.confirm()
    assert all(desk.told_of(letter) == ["sent"] for letter in letters)


@pytest.fixture
async def patient() -> AsyncIterator[Desk]:
    """One whose pauses never end by themselves."""
    desk = Desk(HandTransport(), pause=10_000.0)
    yield desk
    await desk.outbox.aclose()


async def crowd(desk: Desk, key: str = "inbox", priority: Priority = Priority.NORMAL) -> None:
    """Have ten messages answered late, in a body that the broker has."""
    for number in range(10):
        desk.put(b"%d" % number, key=key, priority=priority, company=number + 1)
    await settle()
    desk.under_way[-1].end.set_result(None)
    await settle()
    assert not desk.under_way


async def test_in_a_crowd_a_small_body_waits_for_company(patient: Desk) -> None:
    """Right after a body, with many answers still to come, what is put in waits; when the answers have come and all is there
    that may be, it leaves in one body."""
    await crowd(patient)
    for number in (10, 11, 12):
        patient.put(b"%d" % number, company=number + 1)
        await settle()
    assert len(patient.left) == 1, "ten answers may come"
    patient.put(b"13", company=7)
    await settle()
    assert len(patient.left) == 2, "three others are no crowd"
    assert patient.left[1] == [b"10", b"11", b"12", b"13"]
    await patient.confirm()


async def test_the_pause_is_short(desk: Desk) -> None:
    """M9 (faststream#1318): what waits for company leaves by itself soon, whoever comes, also if it came while a body was under
    way."""
    await crowd(desk)
    first = desk.put(b"10", company=11)
    await eventually(lambda: first.left)
    second = desk.put(b"11", company=12)
    await settle()
    desk.under_way[-1].end.set_result(None)
    await eventually(lambda: second.left)
    assert desk.left[1:] == [[b"10"], [b"11"]]
    await desk.confirm()


async def test_who_does_not_wait_for_company(patient: Desk) -> None:
    """A message that no others are asked with, one of high priority, a full body, and one for somebody else leave at once."""
    await crowd(patient)
    await crowd(patient, "other", Priority.HIGH)
    bodies = len(patient.left)
    patient.put(b"urgent", key="other", priority=Priority.HIGH, company=11)
    patient.put(b"elsewhere", key="third", company=11)
    await settle()
    assert patient.left[bodies:] == [[b"urgent"], [b"elsewhere"]]
    for number in range(49):
        patient.put(b"%d" % number, company=11 + number)
        await settle()
    assert len(patient.left) == bodies + 2
    patient.put(b"49", company=60)
    await settle()
    assert len(patient.left[-1]) == 50
    await patient.confirm()
    patient.put(b"alone", company=1)
    await settle()
    assert patient.left[-1] == [b"alone"]
    await patient.confirm()


async def test_what_waits_for_company_is_refused_when_the_hub_closes(patient: Desk) -> None:
    """M14: closing refuses what waits, for whatever reason."""
    await crowd(patient)
    letter = patient.put(b"10", company=11)
    await settle()
    await patient.outbox.aclose()
    assert patient.told_of(letter) == ["TransportClosed"]
    assert not letter.left


async def test_a_small_body_need_not_be_confirmed_at_once(desk: Desk) -> None:
    """What a callee that owes few answers is sent leaves at once, alone or together, without a prompt confirm; a full body and
    what goes to one that owes very many have to be confirmed."""
    lone = desk.put(b"1", company=1)
    await settle()
    desk.put(b"2", company=2)
    desk.put(b"3", company=3)
    desk.put(b"high", key="other", priority=Priority.HIGH, company=1)
    await settle()
    assert desk.left == [[b"1"], [b"2", b"3"], [b"high"]]
    assert all(sending.answered for sending in desk.transport.sendings)
    for number in range(50):
        desk.put(b"%d" % number, key="third", company=number + 1)
    await settle()
    assert len(desk.left[-1]) == 50
    desk.put(b"one of many", key="fourth", company=100)
    await settle()
    assert [sending.answered for sending in desk.transport.sendings] == [True] * 3 + [False] * 2
    await desk.confirm()
    assert desk.told_of(lone) == ["sent"]


async def test_in_a_crowd_the_pause_keeps_bodies_few(desk: Desk) -> None:
    """One small body of a crowd after the other leaves unconfirmed, as far apart as the pause."""
    for number in range(5):
        desk.put(b"%d" % number, company=10 + number)
        await eventually(lambda: not desk.waiting)
    assert desk.left == [[b"%d" % number] for number in range(5)]
    assert all(sending.answered for sending in desk.transport.sendings)
    await desk.confirm()


async def test_a_slow_broker_holds_small_bodies_back(desk: Desk) -> None:
    """M30 (nats.py#667): only so many bodies may be unsure; then the broker has to confirm, which it is waited for."""
    for number in range(70):
        desk.put(b"%d" % number, company=1)
        await settle()
    assert [sending.answered for sending in desk.transport.sendings] == [True] * 64 + [False]
    desk.transport.sendings[64].end.set_result(None)
    await settle()
    assert len(desk.left[65]) == 5
    await desk.confirm()
    desk.put(b"again", company=1)
    await settle()
    assert desk.transport.sendings[-1].answered, "the broker has all"
    await desk.confirm()


async def test_large_bodies_are_unsure_one_by_one(desk: Desk) -> None:
    """A lone body of any size need not be confirmed at once; a second large one meanwhile has to be."""
    desk.put(b"x" * 70_000, company=1)
    await settle()
    desk.put(b"x" * 70_000, company=2)
    await settle()
    assert [sending.answered for sending in desk.transport.sendings] == [True, False]
    await desk.confirm()
    desk.put(b"x" * 70_000, company=1)
    await settle()
    assert desk.transport.sendings[-1].answered
    await desk.confirm()


async def test_a_lone_message_that_can_not_be_delivered(desk: Desk) -> None:
    """M5 (MassTransit#2229): what becomes of a lone message is told as of any other."""
    letter = desk.put(b"1", key="gone", company=1)
    await settle()
    desk.transport.sendings[0].end.set_exception(NoRoute("rpc", "gone"))
    await settle()
    assert desk.told == [(letter, "NoRoute")]
    again = desk.put(b"2", key="gone", company=1)
    await settle()
    assert desk.transport.sendings[1].answered
    await desk.confirm()
    assert desk.told_of(again) == ["sent"]


async def test_lanes_do_not_wait_for_each_other(desk: Desk) -> None:
    """M9 (faststream#1318): a destination or priority whose body hangs holds up no other."""
    desk.put(b"stuck", key="slow")
    await settle()
    for number, priority in enumerate(Priority):
        desk.put(b"%d" % number, key="fast", priority=priority)
    await settle()
    assert [(s.key, s.priority) for s in desk.under_way] == [
        ("slow", Priority.NORMAL),
        *(("fast", priority) for priority in Priority),
    ]
    await desk.confirm()


async def test_what_the_transport_is_told(desk: Desk) -> None:
    """A body is mandatory, and lives as long as the last of its messages is wanted; a late one still gets a moment."""
    now = asyncio.get_running_loop().time()
    desk.put(b"short", seconds=5.0)
    desk.put(b"long", seconds=50.0)
    desk.put(b"late", key="other", seconds=-3.0)
    await settle()
    both, late = desk.transport.sendings
    assert (both.exchange, both.key, both.mandatory, both.priority) == ("rpc", "inbox", True, Priority.NORMAL)
    assert both.timeout == both.expires
    assert 49.0 < both.timeout <= 50.0 + asyncio.get_running_loop().time() - now
    assert late.timeout == late.expires == 0.001
    await desk.confirm()


TYPED = [NoRoute("rpc", "inbox"), NotSent("down"), ConnectionLost("cut"), TransportClosed("closed"), PayloadTooLarge(2, 1)]
OTHERS = [ValueError("the key is longer than 255 bytes"), RuntimeError("a bug"), TimeoutError()]


@pytest.mark.parametrize(
    ("when", "error", "told"),
    [
        *((when, error, type(error).__name__) for when in ("handed over", "waiting", "under way") for error in TYPED),
        *((when, error, "ConnectionLost") for when in ("handed over", "waiting") for error in OTHERS),
    ],
)
async def test_an_error_is_told_to_each_and_the_lane_goes_on(desk: Desk, error: Exception, told: str, when: str) -> None:
    """Whatever the transport raises, also what it should not, each message of the body hears of it, and the next body goes."""
    desk.transport.busy = when == "waiting"
    desk.transport.refuses = error if when == "handed over" else None
    letters = [desk.put(b"1"), desk.put(b"2")]
    await settle() if when != "handed over" else await asyncio.sleep(0)
    desk.transport.busy, desk.transport.refuses = False, None
    behind = desk.put(b"3")
    if when != "handed over":
        desk.transport.sendings[0].end.set_exception(error)
    await settle()
    assert [desk.told_of(letter) for letter in letters] == [[told], [told]]
    assert [sending.parts for sending in desk.under_way] == [[b"3"]]
    await desk.confirm()
    assert desk.told_of(behind) == ["sent"]


async def test_a_busy_link_is_waited_for(desk: Desk) -> None:
    """What the link does not take at once waits for it, within the time that its messages have, and counts as under way."""
    desk.transport.busy = True
    letters = [desk.put(b"1", seconds=5.0), desk.put(b"2", seconds=50.0)]
    await settle()
    later = desk.put(b"3")
    await settle()
    (waiting,) = desk.transport.sendings
    assert (waiting.parts, waiting.mandatory, waiting.answered) == ([b"1", b"2"], True, False)
    assert waiting.expires == waiting.timeout
    assert 49.0 < waiting.timeout <= 50.0
    desk.transport.busy = False
    waiting.end.set_result(None)
    await settle()
    assert [sending.parts for sending in desk.under_way] == [[b"3"]]
    await desk.confirm()
    assert [desk.told_of(letter) for letter in (*letters, later)] == [["sent"]] * 3


async def test_a_listener_that_fails_does_not_stop_the_lane() -> None:
    """An error in what is told is logged, and the lane goes on."""
    transport, told = HandTransport(), list[int]()

    def broken(parcels: Sequence[Parcel]) -> None:
        told.append(len(parcels))
        raise KeyError("broken listener")

    outbox = Outbox(transport, sent=broken, failed=lambda parcels, error: None, max_batch_bytes=1000)
    for data in (b"1", b"2"):
        outbox.put("rpc", "inbox", Priority.NORMAL, data, Letter(data, asyncio.get_running_loop().time() + 100))
        await settle()
    for number in range(2):
        transport.sendings[number].end.set_result(None)
        await settle()
    assert told == [1, 1]
    await outbox.aclose()


async def test_given_up_at_the_last_moment(desk: Desk) -> None:
    """M8 (faststream#1579): what is given up while it waits never leaves, and a lane of nothing else is not kept."""
    desk.put(b"1")
    await settle()
    letters = [desk.put(b"2"), desk.put(b"3")]
    for letter in letters:
        letter.wanted = False
    desk.transport.sendings[0].end.set_result(None)
    await settle()
    assert len(desk.transport.sendings) == 1
    assert not any(letter.left for letter in letters)
    assert desk.told_of(letters[0]) == []
    await eventually(lambda: not desk.outbox._lanes)


async def test_lanes_are_not_kept(desk: Desk) -> None:
    """M28 (moleculer#705): a destination that nothing waits for leaves nothing behind, a refused message neither."""
    for number in range(300):
        desk.put(b"x", key=f"inbox-{number}")
    await desk.confirm()
    with pytest.raises(NotSent):
        desk.put(b"x" * 200_000, key="inbox-full")
    desk.transport.turn(LinkState.BLOCKED)
    with pytest.raises(NotSent):
        desk.put(b"x", key="inbox-low", priority=Priority.LOW)
    await eventually(lambda: not desk.outbox._lanes)


async def test_a_body_fits_what_the_transport_takes() -> None:
    """A batch is never larger than the transport's own limit, whatever the outbox was told."""
    desk = Desk(HandTransport(max_body=100), max_batch_bytes=1_000_000)
    for _ in range(20):
        desk.put(b"x" * 30)
    await desk.confirm()
    assert all(len(sending.body) <= 100 for sending in desk.transport.sendings)
    assert sum(len(sending.parts) for sending in desk.transport.sendings) == 20


@pytest.mark.parametrize("state", [LinkState.CONNECTING, LinkState.RECONNECTING, LinkState.BLOCKED])
async def test_without_a_link_everything_waits(desk: Desk, state: LinkState) -> None:
    """M8 (MassTransit#3502): nothing is handed over without a link, so that what is given up meanwhile provably did not run."""
    desk.transport.turn(state)
    letters = [desk.put(b"%d" % number) for number in range(3)]
    await settle()
    assert desk.transport.sendings == []
    letters[1].wanted = False
    desk.transport.turn(LinkState.READY)
    await desk.confirm()
    assert [sending.parts for sending in desk.transport.sendings] == [[b"0", b"2"]]
    assert [letter.left for letter in letters] == [True, False, True]


async def test_a_link_that_comes_and_goes_while_a_body_is_under_way(desk: Desk) -> None:
    """Reconnects meanwhile neither start a second body of the lane nor strand what waits behind."""
    desk.put(b"1", priority=Priority.HIGH, company=9)
    await settle()
    desk.transport.turn(LinkState.RECONNECTING)
    waiting = desk.put(b"2", priority=Priority.HIGH, company=10)
    await settle()
    desk.transport.turn(LinkState.READY)
    desk.transport.turn(LinkState.READY)
    await settle()
    assert len(desk.under_way) == 1
    desk.transport.turn(LinkState.RECONNECTING)
    desk.transport.sendings[0].end.set_exception(ConnectionLost("cut"))
    await settle()
    assert not desk.under_way
    assert not waiting.left
    desk.transport.turn(LinkState.READY)
    await desk.confirm()
    assert desk.told_of(waiting) == ["sent"]


async def test_closing(desk: Desk) -> None:
    """Closing refuses what waits, waits for no confirm, forgets its link, and what is put afterwards is refused as well."""
    under_way = [desk.put(data, priority=Priority.HIGH, company=9) for data in (b"1", b"1b")]
    unsure = desk.put(b"0", key="third", company=1)
    await settle()
    waiting = [desk.put(b"x" * 900, priority=Priority.HIGH, company=9) for _ in range(3)]
    desk.transport.turn(LinkState.BLOCKED)
    other = desk.put(b"2", key="other")
    await settle()
    await desk.outbox.aclose()
    await desk.outbox.aclose()
    for sending in desk.under_way:
        sending.end.set_result(None)
    await settle()
    assert not any(desk.told_of(letter) for letter in (*under_way, unsure)), "nobody knows; whoever closes says so"
    assert all(desk.told_of(letter) == ["TransportClosed"] for letter in (*waiting, other))
    assert desk.transport.listeners == 0
    late = [desk.put(b"x" * 900) for _ in range(3)]
    await settle()
    assert all(desk.told_of(letter) == ["TransportClosed"] for letter in late)
    assert not any(letter.left for letter in (*waiting, other, *late))
    assert len(desk.transport.sendings) == 2
    assert not desk.outbox._lanes


# ---------------------------------------------------------------- rows


def head(text: str) -> bytes:
    data: bytes = msgpack.packb(text)
    return data


def row(number: int) -> bytes:
    data: bytes = msgpack.packb([number])
    return data


async def test_rows_travel_below_their_head_and_a_lone_one_whole(desk: Desk) -> None:
    """Several of one head are one body of rows, in order; one that is alone, or is the last that is wanted, is sent whole, which
    a client in another language can read."""
    first = desk.put(row(0), head=head("a"))
    await settle()
    letters = [desk.put(row(number), head=head("a")) for number in (1, 2, 3)]
    await settle()
    lone, together = desk.transport.sendings
    assert (lone.body, lone.content_type, lone.answered) == (b"whole " + row(0), MSGPACK, True)
    assert (together.rows, together.answered) == (["a", [1], [2], [3]], True)
    behind = [desk.put(row(number), head=head("a")) for number in (4, 5)]
    behind[0].wanted = False
    await desk.confirm()
    assert (desk.transport.sendings[2].body, desk.transport.sendings[2].content_type) == (b"whole " + row(5), MSGPACK)
    assert [desk.told_of(letter) for letter in (first, *letters, *behind)] == [["sent"]] * 4 + [[], ["sent"]]


async def test_a_lone_row_that_can_not_be_made_whole(desk: Desk) -> None:
    """M31 (dramatiq#848): what was changed after it was put in fails by itself, and holds up nobody who comes to its lane."""
    desk.changed.add(row(0))
    spoilt = desk.put(row(0), head=head("a"))
    await settle()
    assert not spoilt.left
    assert desk.transport.sendings == []
    after = desk.put(row(1), head=head("a"))
    await settle()
    assert [sending.body for sending in desk.transport.sendings] == [b"whole " + row(1)]
    assert desk.told_of(spoilt) == ["InvalidMessage"]
    assert after.left


async def test_two_heads_never_share_a_body(desk: Desk) -> None:
    """Rows of one destination and priority whose heads differ, and whole messages for there, are bodies of their own."""
    for number in range(0, 12, 3):
        desk.put(row(number), head=head("a"))
        desk.put(row(number + 1), head=head("b"))
        desk.put(row(number + 2))
    await desk.confirm()
    found = [sending.rows if sending.content_type == ROWS else sending.parts for sending in desk.transport.sendings]
    assert found == [["a", [0], [3], [6], [9]], ["b", [1], [4], [7], [10]], [row(number) for number in (2, 5, 8, 11)]]
    assert desk.transport.sendings[2].content_type == batch.BATCH


async def test_a_body_has_no_more_rows_than_are_read() -> None:
    """However small rows are and however many wait, a body has MOST_ROWS at most, for more would be refused; all leave."""
    desk = Desk(HandTransport(), max_batch_bytes=1_000_000)
    desk.transport.turn(LinkState.RECONNECTING)
    letters = [desk.put(row(number), head=head("a")) for number in range(2 * MOST_ROWS + 10)]
    desk.transport.turn(LinkState.READY)
    await desk.confirm()
    bodies = [sending.rows for sending in desk.transport.sendings]
    assert [len(body) - 1 for body in bodies] == [MOST_ROWS, MOST_ROWS, 10]
    assert [number for body in bodies for (number,) in body[1:]] == list(range(len(letters)))
    assert all(desk.told_of(letter) == ["sent"] for letter in letters)


async def test_a_head_counts_in_the_size_of_its_body() -> None:
    """Head and rows together keep to the limit of a body, also to the transport's own."""
    desk = Desk(HandTransport(max_body=600), max_batch_bytes=1000)
    top = head("x" * 200)
    for number in range(20):
        desk.put(msgpack.packb([number, b"y" * 90]), head=top)
    await desk.confirm()
    assert all(len(sending.body) <= 600 for sending in desk.transport.sendings)
    assert [number for sending in desk.transport.sendings for number, _ in sending.rows[1:]] == list(range(20))
    assert len(desk.transport.sendings[0].rows) > 3


async def test_rows_that_are_given_up_or_refused(desk: Desk) -> None:
    """M8 (faststream#1579): of rows that wait, what is given up never leaves; what became of a body is told to each of its rows;
    closing refuses the rest."""
    desk.put(row(0), head=head("a"))
    desk.put(row(1), head=head("a"))
    await settle()
    behind = [desk.put(row(number), head=head("a")) for number in (2, 3, 4)]
    behind[1].wanted = False
    desk.transport.sendings[0].end.set_exception(NoRoute("rpc", "inbox"))
    await settle()
    assert [how for _, how in desk.told] == ["NoRoute", "NoRoute"]
    assert desk.transport.sendings[1].rows == ["a", [2], [4]]
    waiting = desk.put(row(5), head=head("a"))
    await desk.outbox.aclose()
    assert desk.told_of(waiting) == ["TransportClosed"]
    assert not desk.outbox._lanes


Step = tuple[str, int, int]


@unhurried
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["put", "put", "put", "drop", "end", "lose", "down", "up"]), st.integers(0, 5), st.integers(0, 400)
        ),
        max_size=60,
    ),
    st.integers(50, 600),
)
def test_any_history(steps: list[Step], max_batch_bytes: int) -> None:
    """Through any mix of puts, drops, ends, losses and outages: order holds in each lane, bodies keep the limit, one is to be
    confirmed for each lane, and every message that is wanted ends once: sent or failed."""
    asyncio.run(history(steps, max_batch_bytes))


async def history(steps: list[Step], max_batch_bytes: int) -> None:
    desk = Desk(HandTransport(), max_batch_bytes=max_batch_bytes)
    lanes: dict[tuple[str, Priority], list[Letter]] = {}
    letters: list[Letter] = []

    def end(number: int, error: Exception | None) -> None:
        if desk.under_way:
            chosen = desk.under_way[number % len(desk.under_way)].end
            chosen.set_exception(error) if error else chosen.set_result(None)

    for number, (what, which, size) in enumerate(steps):
        match what:
            case "put":
                key, priority = f"inbox-{which % 2}", Priority(1 + which // 2)
                letter = desk.put(b"%06d" % number + b"x" * size, key=key, priority=priority, company=size % 12)
                letters.append(letter)
                lanes.setdefault((key, priority), []).append(letter)
            case "drop" if letters:
                letters[size % len(letters)].wanted = False
            case "end":
                end(which, None)
            case "lose":
                end(which, ConnectionLost("cut"))
            case "down":
                desk.transport.turn(LinkState.RECONNECTING)
            case "up":
                desk.transport.turn(LinkState.READY)
        if which % 2:
            await settle()
        busy = [(sending.key, sending.priority) for sending in desk.under_way if not sending.answered]
        assert len(busy) == len(set(busy)), "two bodies of one lane are under way"
    desk.transport.turn(LinkState.READY)
    await desk.confirm()
    for sending in desk.transport.sendings:
        assert len(sending.parts) == 1 or len(sending.body) <= max_batch_bytes
    for (key, priority), put in lanes.items():
        bodies = [s.parts for s in desk.transport.sendings if (s.key, s.priority) == (key, priority)]
        assert [part for parts in bodies for part in parts] == [letter.data for letter in put if letter.left]
    for letter in letters:
        assert len(desk.told_of(letter)) <= (1 if letter.left else 0)
        assert desk.told_of(letter) or not letter.left or not letter.wanted, "only what is wanted no more is told nothing"
        assert letter.left or not letter.wanted
    assert not any(lane.rows or lane.busy for lane in desk.outbox._lanes.values())
    await desk.outbox.aclose()


def test_the_hand_is_a_transport() -> None:
    """mypy holds the test's transport to the shape of the real ones, so what passes here is what they get."""
    made: Transport = HandTransport()
    assert made.name == "hand"


async def test_what_is_behind_a_bodyful_that_was_given_up(desk: Desk) -> None:
    """M8 (faststream#1579): although all that would fill the next body has been given up, what is behind it leaves."""
    desk.transport.turn(LinkState.RECONNECTING)
    given_up = [desk.put(b"%02d" % number + b"x" * 90) for number in range(20)]
    kept = [desk.put(b"kept"), desk.put(b"kept too")]
    for letter in given_up:
        letter.wanted = False
    desk.transport.turn(LinkState.READY)
    await desk.confirm()
    assert desk.left == [[b"kept", b"kept too"]]
    assert [desk.told_of(letter) for letter in kept] == [["sent"], ["sent"]]
    assert not any(letter.left for letter in given_up)
