"""Who is there, against a simple model, whatever order the news comes in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from fabric.health import Health, HealthStatus
from fabric.routing.instance import Instance, InstanceState
from fabric.routing.registry import Endpoint, Happening, RegistryEvent, ServiceRegistry
from tests.unit.routing.instances import instance
from tests.unit.wire.messages import unhurried

IDS = ("i-1", "i-2", "i-3", "i-4")
SERVICES = ("email", "todo")
CAPABILITIES = ("text", "mail", "search")


@dataclass
class Known:
    """What the model knows of one instance that is there."""

    instance: Instance
    seen: float
    suspect: bool = False


class RegistryMachine(RuleBasedStateMachine):
    """Announcements are made in order by the instances and arrive in any order, doubled, late or never."""

    announcements: Bundle[Instance] = Bundle("announcements")

    @initialize()
    def begin(self) -> None:
        self.registry = ServiceRegistry()
        self.now = 0.0
        self.made: dict[str, tuple[int, int]] = {}
        self.newest: dict[str, tuple[int, int]] = {}
        self.there: dict[str, Known] = {}
        self.told: dict[str, Instance] = {}
        self.endpoints: dict[str, Endpoint] = {}
        self.registry.watch(self.watch)

    def watch(self, event: RegistryEvent) -> None:
        """A watcher that keeps its own books must end with the same."""
        id = event.instance.id
        match event.happening:
            case Happening.JOINED:
                assert id not in self.told
                assert event.before is None
                self.told[id] = event.instance
            case Happening.CHANGED:
                assert event.before is not None
                assert event.instance.newer_than(event.before)
                assert event.before.incarnation == event.instance.incarnation == self.told[id].incarnation
                self.told[id] = event.instance
            case Happening.LEFT:
                assert event.instance.is_gone
                del self.told[id]
            case Happening.LOST:
                assert event.reason
                assert event.instance.state is InstanceState.FAILED
                del self.told[id]

    @rule(
        target=announcements,
        id=st.sampled_from(IDS),
        restarted=st.booleans(),
        service=st.sampled_from(SERVICES),
        state=st.sampled_from([InstanceState.RUNNING] * 4 + list(InstanceState)),
        status=st.sampled_from([HealthStatus.YES, *HealthStatus]),
        capabilities=st.sets(st.sampled_from(CAPABILITIES)),
        weight=st.integers(1, 3),
        load=st.integers(0, 3),
    )
    def make(
        self,
        id: str,
        restarted: bool,
        service: str,
        state: InstanceState,
        status: HealthStatus,
        capabilities: set[str],
        weight: int,
        load: int,
    ) -> Instance:
        """An instance says something new; whether it arrives is another matter."""
        incarnation, sequence = self.made.get(id, (1, 0))
        incarnation, sequence = (incarnation + 1, 1) if restarted else (incarnation, sequence + 1)
        self.made[id] = (incarnation, sequence)
        return Instance(
            service=service,
            id=id,
            incarnation=incarnation,
            sequence=sequence,
            state=state,
            health=Health(status),
            capabilities=tuple(sorted(capabilities)),
            weight=weight,
            load=load,
        )

    @rule(announcement=announcements)
    def arrive(self, announcement: Instance) -> None:
        self.now += 1
        id = announcement.id
        event = self.registry.apply(announcement, self.now)
        key = (announcement.incarnation, announcement.sequence)
        known = self.there.get(id)
        if id in self.newest and key <= self.newest[id]:
            assert event is None, "old news changed something"
            return
        self.newest[id] = key
        if announcement.is_gone:
            self.there.pop(id, None)
            assert (event is None) == (known is None)
            if event is not None and known is not None:
                same = known.instance.incarnation == announcement.incarnation
                assert event.happening is (Happening.LEFT if same else Happening.LOST)
        elif known is None or known.instance.incarnation < announcement.incarnation:
            self.there[id] = Known(announcement, self.now)
            assert event is not None
            assert event.happening is Happening.JOINED
        else:
            before, known.instance = known.instance, announcement
            known.seen, was_suspect, known.suspect = self.now, known.suspect, False
            same = replace(before, sequence=announcement.sequence, load=announcement.load) == announcement
            assert (event is None) == (same and not was_suspect)
            assert event is None or event.happening is Happening.CHANGED

    @rule(id=st.sampled_from(IDS))
    def lose(self, id: str) -> None:
        event = self.registry.lose(id, "its inbox is gone")
        known = self.there.pop(id, None)
        assert (event is None) == (known is None)
        assert event is None or (event.happening, event.reason) == (Happening.LOST, "its inbox is gone")

    @rule(id=st.sampled_from(IDS))
    def suspect(self, id: str) -> None:
        self.registry.suspect(id)
        if id in self.there:
            self.there[id].suspect = True

    @rule(ago=st.integers(0, 5))
    def overdue(self, ago: int) -> None:
        before = self.now - ago
        found = {endpoint.id for endpoint in self.registry.overdue(before)}
        assert found == {id for id, known in self.there.items() if known.seen < before}

    @invariant()
    def the_registry_is_the_model(self) -> None:
        registry = self.registry
        assert len(registry) == len(self.there)
        assert registry.instances() == tuple(self.there[id].instance for id in sorted(self.there))
        assert {endpoint.id: endpoint.instance for endpoint in registry.endpoints()} == {
            id: known.instance for id, known in self.there.items()
        }
        for service in SERVICES:
            offered = [known for _, known in sorted(self.there.items()) if known.instance.service == service]
            assert registry.instances(service) == tuple(known.instance for known in offered)
            assert [e.instance for e in registry.candidates(service)] == usable(offered)
            healthy = any(k.instance.takes_calls and k.instance.health.status is not HealthStatus.NO for k in offered)
            assert registry.missing([service]) == (() if healthy else (service,))
        for capability in CAPABILITIES:
            offered = [known for _, known in sorted(self.there.items()) if capability in known.instance.capabilities]
            assert registry.offering(capability) == tuple(known.instance for known in offered)
            assert [e.instance for e in registry.candidates_by_capability(capability)] == usable(offered)
        assert registry.services == tuple(sorted({known.instance.service for known in self.there.values()}))
        assert registry.capabilities == tuple(
            sorted({name for known in self.there.values() for name in known.instance.capabilities})
        )

    @invariant()
    def watchers_know_who_is_there(self) -> None:
        assert set(self.told) == set(self.there)
        for id, known in self.there.items():
            told = replace(self.told[id], sequence=known.instance.sequence, load=known.instance.load)
            assert told == known.instance

    @invariant()
    def an_endpoint_lives_as_long_as_its_incarnation(self) -> None:
        """Calls under way are counted on it, so it must not be replaced while the process lives."""
        for endpoint in self.registry.endpoints():
            kept = self.endpoints.get(endpoint.id)
            if kept is not None and kept.instance.incarnation == endpoint.instance.incarnation:
                assert kept is endpoint
        self.endpoints = {endpoint.id: endpoint for endpoint in self.registry.endpoints()}


def usable(offered: list[Known]) -> list[Instance]:
    """Who a call may go to: running; of these the healthy, if any; of these the ones that were heard of, if any."""
    running = [known for known in offered if known.instance.state is InstanceState.RUNNING]
    healthy = [known for known in running if known.instance.health.status is not HealthStatus.NO]
    heard = [known for known in healthy if not known.suspect]
    return [known.instance for known in heard or healthy or running]


RegistryMachine.TestCase.settings = settings(deadline=None, max_examples=60, stateful_step_count=40)
TestAgainstTheModel = RegistryMachine.TestCase


@unhurried
@given(st.permutations(range(8)), st.integers(0, 7))
def test_the_order_of_arrival_does_not_matter(order: list[int], goodbye: int) -> None:
    """M29 (moleculer#339): of announcements in any order the newest counts in the end, a goodbye included."""
    news = [
        instance(
            incarnation=1 + n // 4,
            sequence=n % 4,
            weight=n + 1,
            state=InstanceState.STOPPING if n == goodbye else InstanceState.RUNNING,
        )
        for n in range(8)
    ]
    registry = ServiceRegistry()
    for position in order:
        registry.apply(news[position], 0.0)
    assert registry.instances() == (() if goodbye == 7 else (news[7],))


def test_a_late_word_does_not_bring_back_the_dead() -> None:
    """M29 (moleculer#339): what an instance said before it was lost is no sign of life; what it says afterwards is."""
    registry = ServiceRegistry()
    old = [instance(sequence=n) for n in range(3)]
    registry.apply(old[2], 0.0)
    registry.lose("a-1", "its inbox is gone")
    for late in old:
        assert registry.apply(late, 1.0) is None
    assert registry.candidates("a") == []
    alive = registry.apply(instance(sequence=3), 2.0)
    assert alive is not None
    assert alive.happening is Happening.JOINED


def test_an_old_incarnation_is_ignored_for_good() -> None:
    """M29 (moleculer#339): after a restart nothing of the old process counts, not even its goodbye, nor after the new is lost."""
    registry = ServiceRegistry()
    registry.apply(instance(incarnation=1, sequence=9), 0.0)
    events: list[RegistryEvent] = []
    registry.watch(events.append)
    registry.apply(instance(incarnation=2, sequence=0), 1.0)
    assert [event.happening for event in events] == [Happening.LOST, Happening.JOINED]
    for late in (instance(incarnation=1, sequence=10), instance(incarnation=1, sequence=11, state=InstanceState.STOPPING)):
        assert registry.apply(late, 2.0) is None
    registry.lose("a-1", "gone")
    assert registry.apply(instance(incarnation=1, sequence=12), 3.0) is None


def test_the_goodbye_of_a_new_incarnation_that_nobody_met() -> None:
    """A process that started and stopped before anybody heard of it leaves nothing behind, whatever comes late."""
    registry = ServiceRegistry()
    registry.apply(instance(incarnation=1), 0.0)
    event = registry.apply(instance(incarnation=2, sequence=5, state=InstanceState.STOPPED), 1.0)
    assert event is not None
    assert event.happening is Happening.LOST
    assert registry.apply(instance(incarnation=2, sequence=4), 2.0) is None
    assert len(registry) == 0


def test_panic_prefers_some_answer_to_none() -> None:
    """M15 (Envoy): unhealthy and silent instances are left out as long as a better one is there, and used when none is."""
    registry = ServiceRegistry()
    for id in ("a-1", "a-2", "a-3"):
        registry.apply(instance(id), 0.0)

    def ids() -> list[str]:
        return [endpoint.id for endpoint in registry.candidates("a")]

    registry.suspect("a-1")
    assert ids() == ["a-2", "a-3"]
    registry.apply(instance("a-2", sequence=1, health=Health.bad("disk full")), 1.0)
    assert ids() == ["a-3"]
    registry.lose("a-3", "gone")
    assert ids() == ["a-1"], "silent is better than unhealthy"
    registry.apply(instance("a-1", sequence=1, health=Health.bad("disk full")), 2.0)
    assert ids() == ["a-1", "a-2"], "all unhealthy: panic"
    registry.suspect("a-2")
    assert ids() == ["a-1", "a-2"]
    registry.apply(instance("a-2", sequence=2), 3.0)
    assert ids() == ["a-2"], "and it recovers alone"


def test_unknown_health_still_takes_calls() -> None:
    """Running without a verdict is no reason to be left out."""
    registry = ServiceRegistry()
    registry.apply(instance(health=Health.unknown("not checked yet")), 0.0)
    assert [endpoint.id for endpoint in registry.candidates("a")] == ["a-1"]
    assert registry.missing(["a", "b"]) == ("b",)


@pytest.mark.parametrize("state", [state for state in InstanceState if state is not InstanceState.RUNNING])
def test_only_running_ones_are_candidates(state: InstanceState) -> None:
    """An instance that starts, stops or failed gets no calls, not even in panic."""
    registry = ServiceRegistry()
    registry.apply(instance(state=state), 0.0)
    assert registry.candidates("a") == []
    assert registry.missing(["a"]) == ("a",)


@pytest.mark.parametrize(
    "change",
    [
        {"service": "b"}, {"capabilities": ("x",)}, {"state": InstanceState.FAILED}, {"health": Health.bad("x")},
        {"weight": 2}, {"metadata": {"a": 1}}, {"version": "2.0.0"}, {"zone": "west"}, {"methods": {"m": {"idempotent": True}}},
    ],
)  # fmt: skip
def test_watchers_hear_of_every_change(change: dict[str, Any]) -> None:
    """Whatever callers may act on is told, with what was before."""
    registry = ServiceRegistry()
    registry.apply(instance(), 0.0)
    events: list[RegistryEvent] = []
    registry.watch(events.append)
    changed = instance(sequence=1, **change)
    assert registry.apply(changed, 1.0) == events[0]
    assert (events[0].happening, events[0].before, events[0].instance) == (Happening.CHANGED, instance(), changed)


def test_watchers_do_not_hear_of_load() -> None:
    """M28 (moleculer#705): an announcement that differs in load only is no news, yet the load is kept."""
    registry = ServiceRegistry()
    registry.apply(instance(), 0.0)
    events: list[RegistryEvent] = []
    registry.watch(events.append)
    assert registry.apply(instance(sequence=1, load=7), 5.0) is None
    assert events == []
    endpoint = registry.get("a-1")
    assert endpoint is not None
    assert (endpoint.instance.load, endpoint.seen) == (7, 5.0)
    assert registry.apply(instance(sequence=1, load=9), 9.0) is None, "a repetition is no sign of life"
    assert endpoint.seen == 5.0


def test_a_watcher_that_fails_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """An error of one watcher is logged; the others are told, and the registry goes on."""
    registry = ServiceRegistry()
    heard: list[RegistryEvent] = []

    def broken(event: RegistryEvent) -> None:
        raise RuntimeError("broken watcher")

    registry.watch(broken)
    registry.watch(heard.append)
    registry.apply(instance(), 0.0)
    assert [event.happening for event in heard] == [Happening.JOINED]
    assert "a-1" in caplog.text
    assert "broken watcher" in caplog.text


def test_unwatching_ends_it_and_only_it() -> None:
    """The same function watched twice is told twice; each end ends one, also when it is called twice."""
    registry = ServiceRegistry()
    heard: list[RegistryEvent] = []
    first, second = registry.watch(heard.append), registry.watch(heard.append)
    first()
    first()
    registry.apply(instance(), 0.0)
    assert len(heard) == 1
    second()
    registry.lose("a-1", "gone")
    assert len(heard) == 1


def test_watchers_may_come_and_go_while_being_told() -> None:
    """A watcher that ends itself or another, or adds one, is obeyed at once."""
    registry = ServiceRegistry()
    heard: list[str] = []
    ends: dict[str, Callable[[], None]] = {}

    def first(event: RegistryEvent) -> None:
        heard.append("first")
        ends["first"]()
        ends["second"]()
        registry.watch(lambda _: heard.append("third"))

    ends["first"] = registry.watch(first)
    ends["second"] = registry.watch(lambda _: heard.append("second"))
    registry.apply(instance(), 0.0)
    assert heard == ["first"]
    registry.lose("a-1", "gone")
    assert heard == ["first", "third"]


def test_a_watcher_may_change_the_registry() -> None:
    """A watcher that loses the instance it is told of leaves a registry that is in order."""
    registry = ServiceRegistry()

    def unwanted(event: RegistryEvent) -> None:
        if event.happening is Happening.JOINED:
            registry.lose(event.instance.id, "not wanted")

    registry.watch(unwanted)
    registry.apply(instance(capabilities=("x",)), 0.0)
    assert len(registry) == 0
    assert registry.services == registry.capabilities == ()
    assert registry.candidates("a") == registry.candidates_by_capability("x") == []


def test_candidates_are_in_order_of_ids() -> None:
    """Strategies rely on the order, whatever the order of arrival."""
    registry = ServiceRegistry()
    for id in ("a-3", "a-1", "a-10", "a-2"):
        registry.apply(instance(id, capabilities=("x",)), 0.0)
    assert [endpoint.id for endpoint in registry.candidates("a")] == ["a-1", "a-10", "a-2", "a-3"]
    assert registry.candidates("a") == registry.candidates_by_capability("x")


def test_what_it_remembers_is_bounded() -> None:
    """M28 (moleculer#705): instances that came and went leave no trace for ever."""
    registry = ServiceRegistry()
    for n in range(3000):
        registry.apply(instance(f"a-{n}", capabilities=(f"c-{n}",)), 0.0)
        if n % 2:
            registry.lose(f"a-{n}", "gone")
        else:
            registry.apply(instance(f"a-{n}", sequence=1, state=InstanceState.STOPPED), 0.0)
    assert len(registry) == 0
    assert registry.capabilities == ()
    assert registry.apply(instance("a-2999"), 1.0) is None, "the last ones are remembered"
    assert registry.apply(instance("a-0"), 1.0) is not None, "the first ones are not"
