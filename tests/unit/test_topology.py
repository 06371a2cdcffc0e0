"""The names of everything on the broker: distinct, within AMQP's limits, apart for each namespace."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabric.errors import ConfigurationError
from fabric.transports import topology
from fabric.transports.base import ExchangeKind
from fabric.transports.topology import Topology, check_name, former

NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}", fullmatch=True)
LONGEST = "n" * 100
KEYS = (
    topology.up_service, topology.up_capability, topology.who_service, topology.who_capability, topology.command, topology.vote,
)  # fmt: skip


@pytest.mark.parametrize("name", ["", ".", "a.b", "*", "#", "a b", "-a", "_a", "ä", "a/b", "a\n", "n" * 101, "a\x00"])
def test_names_that_would_mean_something_in_a_key(name: str) -> None:
    """Dots and wildcards have a meaning in routing keys; names with them are refused with what to use."""
    with pytest.raises(ValueError, match="use 1 to 100 letters, digits"):
        check_name("service", name)
    with pytest.raises(ValueError, match="namespace"):
        Topology(name)


@given(NAMES)
def test_names_that_are_fine(name: str) -> None:
    """Every other name is taken as it is."""
    assert check_name("service", name) == name


@given(NAMES, NAMES)
def test_namespaces_share_nothing(one: str, other: str) -> None:
    """Two fleets on one broker have no exchange and no durable queue in common, whatever their names."""
    if one == other:
        return

    def everything(namespace: str) -> set[str]:
        names = Topology(namespace)
        queue = names.event_group("todo", ("#",), prefetch=1, max_attempts=1, retry_delays=(1.0,)).name
        assert queue is not None
        return {exchange.name for exchange in names.exchanges} | {queue}

    assert not everything(one) & everything(other)


@given(st.lists(st.tuples(NAMES, NAMES), min_size=2, max_size=2, unique=True))
def test_groups_share_no_queue(pairs: list[tuple[str, str]]) -> None:
    """Two groups, of one service or of two, never read from one queue."""
    first, second = (
        Topology().event_group(service, ("a",), group=group, prefetch=1, max_attempts=1, retry_delays=(1.0,)).name
        for service, group in pairs
    )
    assert first != second


@given(NAMES, NAMES)
def test_keys_do_not_collide(one: str, other: str) -> None:
    """Keys of different kinds are different, and so are those of different names."""
    keys = [make(one) for make in KEYS]
    assert len(set(keys)) == len(KEYS)
    if one != other:
        assert not set(keys) & {make(other) for make in KEYS}


def test_everything_fits() -> None:
    """With the longest names all keys and exchanges are within AMQP's 255 bytes."""
    assert all(len(make(LONGEST)) <= 255 for make in KEYS)
    assert all(len(exchange.name) <= 255 for exchange in Topology(LONGEST).exchanges)


@given(st.integers(1, 100), st.integers(1, 100), st.integers(1, 100))
def test_a_queue_name_leaves_room_for_its_retry_queues(namespace: int, service: int, group: int) -> None:
    """A name that would grow over 255 bytes with the suffix of a retry queue is refused before anything is declared."""
    names = Topology("n" * namespace)
    length = namespace + service + group + len(".events..")

    def declared() -> str | None:
        return names.event_group(
            "s" * service, ("a",), group="g" * group, prefetch=1, max_attempts=1, retry_delays=(86_399.0,)
        ).name

    if length > 230:
        with pytest.raises(ConfigurationError, match="shorten the group"):
            declared()
    else:
        assert len(f"{declared()}.retry.86399000") <= 255


def test_the_kinds_of_exchanges() -> None:
    """Requests go to one, broadcasts to all, the rest by topic."""
    kinds = {exchange.name: exchange.kind for exchange in Topology("shop").exchanges}
    assert kinds == {
        "shop.rpc": ExchangeKind.DIRECT,
        "shop.events": ExchangeKind.TOPIC,
        "shop.broadcast": ExchangeKind.FANOUT,
        "shop.control": ExchangeKind.TOPIC,
        "shop.discovery": ExchangeKind.TOPIC,
    }


def test_only_events_outlive_their_readers() -> None:
    """M3 (nameko#359): no queue of a process has a name that the broker could still hold for its old link."""
    names = Topology()
    own = [
        names.requests("email-1"),
        names.replies("reply.1"),
        names.broadcasts(),
        names.control_lane("vote.#"),
        names.discoveries(),
    ]
    assert all(queue.name is None and not queue.durable for queue in own)
    group = names.event_group("email", ("todo.*",), prefetch=7, max_attempts=3, retry_delays=(0.5,))
    assert (group.name, group.durable, group.ack) == ("fabric.events.email.default", True, True)
    assert (group.prefetch, group.max_attempts, group.retry_delays, group.keys) == (7, 3, (0.5,), ("todo.*",))


def test_wildcards_cover_their_keys() -> None:
    """Whoever listens to every announcement or vote gets those of every service."""
    for every, make in ((topology.EVERY_ANNOUNCEMENT, topology.up_service), (topology.EVERY_VOTE, topology.vote)):
        assert every.endswith(".#")
        assert make("email").startswith(every[:-1])
    assert len({topology.WHO_EVERYONE, *(make("everyone") for make in KEYS)}) == len(KEYS) + 1
    assert all(a != b for a, b in itertools.combinations((topology.EVERY_ANNOUNCEMENT, topology.EVERY_VOTE), 2))


def test_what_a_group_was_called_before() -> None:
    """An ordered group and one that is not have each the other's queue as their former one."""
    topology = Topology("shop")
    names = [
        topology.event_group("mail", (), prefetch=1, max_attempts=1, retry_delays=(), ordered=ordered).name or ""
        for ordered in (False, True)
    ]
    assert [former(name) for name in names] == names[::-1]
