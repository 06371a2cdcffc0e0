"""Announcements, and the life that an instance leads."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabric.errors import IllegalTransition, InvalidMessage
from fabric.health import Health, HealthStatus
from fabric.routing.instance import HEAVIEST, TRANSITIONS, Instance, InstanceState, Lifecycle
from fabric.wire.codec import JSON, decode, encode, encode_json
from tests.unit.routing.instances import instance
from tests.unit.wire.messages import TEXT, plain, request, unhurried

S = InstanceState
LEGAL = {
    S.REGISTERED: "initializing stopping failed",
    S.INITIALIZING: "starting stopping failed",
    S.STARTING: "running stopping failed",
    S.RUNNING: "stopping failed",
    S.STOPPING: "stopped failed",
    S.STOPPED: "initializing",
    S.FAILED: "initializing stopping stopped",
}
STEPS = [(before, after) for before, after in itertools.product(S, S) if after in LEGAL[before].split()]
MISSTEPS = [(before, after) for before, after in itertools.product(S, S) if after not in LEGAL[before].split()]
WAYS = {
    S.REGISTERED: [],
    S.INITIALIZING: [S.INITIALIZING],
    S.STARTING: [S.INITIALIZING, S.STARTING],
    S.RUNNING: [S.INITIALIZING, S.STARTING, S.RUNNING],
    S.STOPPING: [S.STOPPING],
    S.STOPPED: [S.STOPPING, S.STOPPED],
    S.FAILED: [S.FAILED],
}


def brought_to(state: InstanceState) -> Lifecycle:
    life = Lifecycle("email-service email-1")
    for step in WAYS[state]:
        life.advance(step)
    return life


def test_the_table_is_complete() -> None:
    """Every state has its steps, and every state can be reached from the first."""
    assert {before: set(after) for before, after in TRANSITIONS.items()} == {
        before: {S(name) for name in after.split()} for before, after in LEGAL.items()
    }
    assert {state: brought_to(state).state for state in S} == {state: state for state in S}


@pytest.mark.parametrize(("before", "after"), STEPS)
def test_every_legal_step(before: InstanceState, after: InstanceState) -> None:
    """A step of the table is taken and keeps its reason."""
    life = brought_to(before)
    life.advance(after, "because")
    assert (life.state, life.reason) == (after, "because")


@pytest.mark.parametrize(("before", "after"), MISSTEPS)
def test_every_illegal_step(before: InstanceState, after: InstanceState) -> None:
    """Any other step is refused, says what would be allowed, and changes nothing."""
    life = brought_to(before)
    life.reason = "as it was"
    with pytest.raises(IllegalTransition) as refused:
        life.advance(after, "because")
    error = refused.value
    assert (error.subject, error.current, error.wanted) == ("email-service email-1", before, after)
    assert set(error.allowed) == set(LEGAL[before].split())
    assert all(name in str(error) for name in error.allowed)
    assert (life.state, life.reason) == (before, "as it was")


def test_a_failed_instance_can_start_again() -> None:
    """S1: after a failure the whole way can be gone again without anybody's help."""
    life = brought_to(S.FAILED)
    for step in (S.INITIALIZING, S.STARTING, S.RUNNING):
        life.advance(step)
    assert life.state is S.RUNNING
    assert life.reason == ""


def test_only_a_running_one_takes_calls() -> None:
    """Of all states only RUNNING takes calls, and only STOPPING and STOPPED say goodbye."""
    assert [state for state in S if instance(state=state).takes_calls] == [S.RUNNING]
    assert [state for state in S if instance(state=state).is_gone] == [S.STOPPING, S.STOPPED]


NAMES = st.sampled_from(["a", "text-analysis", "7", "1.2.0", "send_email", "x" * 200, "ü" * 100])
INSTANCES = st.builds(
    Instance,
    service=NAMES,
    id=NAMES,
    incarnation=st.integers(0, 2**63 - 1),
    sequence=st.integers(0, 2**63 - 1),
    state=st.sampled_from(S),
    health=st.builds(Health, st.sampled_from(HealthStatus), TEXT, st.dictionaries(TEXT, plain(binary=False), max_size=2)),
    version=NAMES,
    capabilities=st.lists(NAMES, unique=True, max_size=4).map(tuple),
    weight=st.integers(1, HEAVIEST),
    load=st.integers(0, 2**40),
    zone=TEXT,
    host=TEXT,
    pid=st.integers(0, 2**31),
    methods=st.dictionaries(
        NAMES,
        st.fixed_dictionaries({"idempotent": st.booleans(), "timeout": st.none() | st.floats(0.1, 100)}),
        max_size=3,
    ),
    metadata=st.dictionaries(TEXT, plain(binary=False), max_size=2),
)


@unhurried
@given(INSTANCES)
def test_an_announcement_survives_both_codecs(given: Instance) -> None:
    """Whatever an instance says of itself arrives so."""
    message = request(given.to_plain())
    assert Instance.from_plain(decode(encode(message)).payload) == given
    assert Instance.from_plain(decode(encode_json(message), JSON).payload) == given


@unhurried
@given(plain(binary=True))
def test_any_payload_is_an_announcement_or_refused(payload: object) -> None:
    """M31 (dramatiq#848): a hostile announcement is InvalidMessage and nothing else."""
    with pytest.raises(InvalidMessage):
        Instance.from_plain(payload)


@unhurried
@given(INSTANCES, st.sampled_from(sorted(instance().to_plain())), plain(binary=True) | st.floats())
def test_any_value_in_any_field_of_an_announcement(given: Instance, field: str, value: object) -> None:
    """M31 (dramatiq#848): one hostile field makes the announcement invalid or is tamed, whatever it holds."""
    data = {**given.to_plain(), field: value}
    try:
        read = Instance.from_plain(data)
    except InvalidMessage:
        return
    assert type(read.incarnation) is type(read.sequence) is type(read.weight) is type(read.load) is int
    assert 1 <= read.weight <= HEAVIEST
    assert read.load >= 0
    assert type(read.capabilities) is tuple
    assert all(type(name) is str for name in (read.service, read.id, *read.capabilities, *read.methods))


WRONG: dict[str, list[Any]] = {
    "service": ["", None, 1, "x" * 201, "ü" * 101, b"a", []],
    "id": ["", None, 1, "x" * 201, "ü" * 101],
    "incarnation": [float("inf"), float("nan"), -1, 2**63, "1", None, True, 1.5],
    "sequence": [float("-inf"), -1, 2**63, "1", None],
    "state": ["gone", None, 1, []],
    "health": [None, "yes", {}, {"status": "fine"}, {"status": "yes", "details": 5}],
    "capabilities": ["text", {"a": 1}, [1], [""], [None], 5],
    "weight": [float("inf"), "heavy", None, 2**63, -1],
    "load": [float("inf"), "much", None, -5],
    "pid": [float("inf"), "x", None],
    "methods": [5, "x", {"m": 5}, {"m": "ab"}, {1: {}}, {"": {}}],
    "metadata": [5, "x"],
}


@pytest.mark.parametrize("field", WRONG)
def test_wrong_fields_of_an_announcement(field: str) -> None:
    """M31 (dramatiq#848): each field with what it can't be is refused: infinite counts, text in place of lists, endless names."""
    for value in WRONG[field]:
        with pytest.raises(InvalidMessage, match="not an announcement"):
            Instance.from_plain({**instance().to_plain(), field: value})


@pytest.mark.parametrize("field", ["service", "id", "incarnation", "sequence", "state", "health"])
def test_missing_fields_of_an_announcement(field: str) -> None:
    """M31 (dramatiq#848): an announcement without what makes it one is refused by the field's name."""
    data = instance().to_plain()
    del data[field]
    with pytest.raises(InvalidMessage, match=field):
        Instance.from_plain(data)


def test_optional_fields_of_an_announcement() -> None:
    """A client in another language may leave out the rest."""
    given = instance().to_plain()
    data = {name: given[name] for name in ("service", "id", "incarnation", "sequence", "state", "health")}
    assert Instance.from_plain(data) == instance(pid=0)


def test_no_instance_claims_all_calls() -> None:
    """A weight beyond reason counts as the heaviest allowed, zero as the lightest; doubled capabilities count once."""
    data = instance().to_plain()
    assert Instance.from_plain({**data, "weight": 10**9}).weight == HEAVIEST
    assert Instance.from_plain({**data, "weight": 0}).weight == 1
    assert Instance.from_plain({**data, "capabilities": ["x", "y", "x"]}).capabilities == ("x", "y")


def test_an_id_fits_into_a_routing_key() -> None:
    """The longest id that is accepted leaves room for the prefix of its key within AMQP's 255 bytes."""
    longest = Instance.from_plain({**instance().to_plain(), "id": "ü" * 100, "service": "s" * 200})
    assert len(f"up.capability.{longest.id}".encode()) <= 255
    assert len(f"up.service.{longest.service}".encode()) <= 255


@given(st.tuples(st.integers(0, 3), st.integers(0, 3)), st.tuples(st.integers(0, 3), st.integers(0, 3)))
def test_newer_is_by_incarnation_then_sequence(one: tuple[int, int], other: tuple[int, int]) -> None:
    """M29 (moleculer#339): a new incarnation is newer whatever its sequence; nothing is newer than itself."""
    first, second = (instance(incarnation=pair[0], sequence=pair[1]) for pair in (one, other))
    assert first.newer_than(second) == (one > other)
    assert not first.newer_than(first)
