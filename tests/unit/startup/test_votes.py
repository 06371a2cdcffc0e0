"""Votes and gates against an independent model: late, doubled, reordered, lost, expired, and from two leaders."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from fabric.health import HealthStatus
from fabric.startup.definition import ServiceDefinition
from fabric.startup.engine import Engine
from fabric.startup.events import (
    Command,
    Event,
    InstanceJoined,
    LeadershipTaken,
    ProcessExited,
    SetTimer,
    TimerDue,
    Vote,
)
from fabric.startup.gates import GateState
from fabric.startup.simulation import Behaviour, Simulation
from tests.unit.startup.fleets import request, service, stage

NAMES = ("kafka#1", "kafka#2", "kafka#3")
FOREVER = 1e9


@dataclass
class Agent:
    """An instance as it really is: it obeys the highest epoch, and numbers what it says."""

    name: str
    epoch: int = 0
    incarnation: int = 0
    sequence: int = 0

    def says(self, status: HealthStatus, expires_at: float) -> Vote:
        self.sequence += 1
        return Vote(
            service="kafka",
            instance=self.name,
            status=status,
            incarnation=self.incarnation,
            sequence=self.sequence,
            epoch=self.epoch,
            expires_at=expires_at,
        )


class Leader:
    """A coordinator: an engine, its timer, and a model of what it may believe."""

    def __init__(self, epoch: int, needed: int) -> None:
        self.engine, self.epoch, self.needed = Engine(epoch=epoch), epoch, needed
        self.timer: float | None = None
        self.last: dict[str, Vote | InstanceJoined] = {}
        self.dead: dict[str, int] = {}
        self.deposed = False
        self.sent: list[Command] = []
        fleet = [service("kafka", instances=3, timeout=FOREVER), service("api", timeout=FOREVER)]
        gates = [
            stage("core", "kafka", required=["kafka"], instances={"kafka": needed}, timeout=FOREVER),
            stage("rest", "api", timeout=FOREVER),
        ]
        self.tell(LeadershipTaken(epoch=epoch), 0.0)
        self.tell(request(fleet, gates), 0.0)

    def tell(self, event: Event, now: float) -> None:
        for action in self.engine.handle(event, now):
            if isinstance(action, SetTimer):
                self.timer = action.at
            elif isinstance(action, Command):
                self.sent.append(action)
        if isinstance(event, Vote | InstanceJoined):
            if event.epoch > self.epoch:
                self.deposed = True
            known = self.last.get(event.instance)
            newer = known is None or (event.incarnation, event.sequence) > (known.incarnation, known.sequence)
            if newer and not self.deposed and event.incarnation > self.dead.get(event.instance, -1):
                self.last[event.instance] = event
        elif isinstance(event, ProcessExited) and event.incarnation is not None:
            known = self.last.get(event.instance)
            if known is None or event.incarnation >= known.incarnation:
                self.dead[event.instance] = max(event.incarnation, self.dead.get(event.instance, -1))

    def fresh(self, now: float) -> int:
        """How many instances it knows to be ready: the last word of each is a yes of its epoch that has not expired."""
        return sum(
            isinstance(vote, Vote)
            and vote.status is HealthStatus.YES
            and vote.epoch == self.epoch
            and now < vote.expires_at
            and vote.incarnation > self.dead.get(name, -1)
            for name, vote in self.last.items()
        )


class VotesAndGates(RuleBasedStateMachine):
    """Two leaders, three instances, and a network that loses, doubles, delays and reorders what goes to each leader."""

    @initialize(needed=st.integers(1, 3))
    def begin(self, needed: int) -> None:
        self.now = 0.0
        self.needed = needed
        self.agents = {name: Agent(name) for name in NAMES}
        self.leaders = [Leader(1, needed)]
        self.wire: list[tuple[int, Event]] = []
        for agent in self.agents.values():
            agent.epoch = 1

    def broadcast(self, event: Event) -> None:
        self.wire.extend((index, event) for index in range(2))

    @rule(name=st.sampled_from(NAMES), status=st.sampled_from(HealthStatus), lasts=st.sampled_from([0.0, 1.0, 5.0, FOREVER]))
    def vote(self, name: str, status: HealthStatus, lasts: float) -> None:
        self.broadcast(self.agents[name].says(status, self.now + lasts))

    @rule(name=st.sampled_from(NAMES))
    def restart(self, name: str) -> None:
        agent = self.agents[name]
        self.broadcast(ProcessExited(service="kafka", instance=name, code=1, incarnation=agent.incarnation))
        agent.incarnation += 1
        agent.sequence = 0
        joined = InstanceJoined(
            service="kafka", instance=name, incarnation=agent.incarnation, sequence=agent.sequence, epoch=agent.epoch
        )
        self.broadcast(joined)

    @precondition(lambda self: bool(self.wire))
    @rule(data=st.data(), copies=st.sampled_from([0, 1, 1, 1, 2]), keep=st.booleans())
    def deliver(self, data: st.DataObject, copies: int, keep: bool) -> None:
        place = data.draw(st.integers(0, len(self.wire) - 1))
        index, event = self.wire[place]
        if not keep:
            del self.wire[place]
        if index < len(self.leaders):
            for _ in range(copies):
                self.leaders[index].tell(event, self.now)

    @rule(name=st.sampled_from(NAMES))
    def yes_at_once(self, name: str) -> None:
        vote = self.agents[name].says(HealthStatus.YES, self.now + FOREVER)
        for leader in self.leaders:
            leader.tell(vote, self.now)

    @rule(seconds=st.sampled_from([0.5, 1.0, 4.0]))
    def time_passes(self, seconds: float) -> None:
        until = self.now + seconds
        for leader in self.leaders:
            while leader.timer is not None and leader.timer <= until:
                due, leader.timer = leader.timer, None
                leader.tell(TimerDue(), max(due, self.now))
        self.now = until

    @precondition(lambda self: len(self.leaders) == 1)
    @rule()
    def another_leader(self) -> None:
        self.leaders.append(Leader(2, self.needed))

    @precondition(lambda self: len(self.leaders) == 2)
    @rule(name=st.sampled_from(NAMES))
    def agent_hears_of_the_new_leader(self, name: str) -> None:
        self.agents[name].epoch = 2

    @invariant()
    def no_gate_opens_without_k_fresh_votes_of_the_epoch(self) -> None:
        for leader in getattr(self, "leaders", []):
            if leader.deposed:
                assert leader.engine.deposed_by == 2
                continue
            gate = leader.engine.scheduler.gates[0]
            enough = leader.fresh(self.now) >= leader.needed
            assert (gate.state is GateState.OPEN) == enough, (gate.state, leader.fresh(self.now), leader.needed)
            if any(command.service == "api" for command in leader.sent):
                continue
            assert not enough

    @invariant()
    def a_deposed_leader_commands_nothing(self) -> None:
        for leader in getattr(self, "leaders", []):
            if leader.deposed:
                before = len(leader.sent)
                leader.tell(self.agents[NAMES[0]].says(HealthStatus.YES, math.inf), self.now)
                assert len(leader.sent) == before


def test_s18_no_gate_opens_without_fresh_votes() -> None:
    """S18 (aphyr.com/posts/315): no gate opens without k fresh votes of the current epoch, whatever the network does."""
    run_state_machine_as_test(VotesAndGates, settings=settings(max_examples=150, stateful_step_count=40, deadline=None))


def test_definition_of_the_model_is_not_empty() -> None:
    """The model's gate really opens: with k yes votes at once the stage behind it is commanded."""
    leader = Leader(1, 2)
    for name in NAMES[:2]:
        leader.tell(Agent(name, epoch=1).says(HealthStatus.YES, math.inf), 0.0)
    assert leader.engine.scheduler.gates[0].state is GateState.OPEN
    assert any(command.service == "api" for command in leader.sent)
    assert isinstance(leader.engine.services["api"].definition, ServiceDefinition)


@given(st.floats(0.0, 5.0), st.floats(0.001, 5.0), st.sampled_from([0.0, 1.0, 1_700_000_000.0]))
@settings(max_examples=200, deadline=None)
def test_gate_opens_at_the_moment_at_which_its_votes_have_lasted(seconds: float, stable_for: float, start: float) -> None:
    """The minimum healthy time is over when its timer says so, however the sums of the times round."""
    simulation = Simulation(lambda name, instance, attempt: Behaviour(seconds=seconds if name == "db" else 1.0), start=start)
    stages = [stage("core", "db", required=["db"], stable_for=stable_for, timeout=60.0), stage("front", "web")]
    end = simulation.run(request([service("db"), service("web")], stages))
    assert end is not None
    assert end.at - start == pytest.approx(seconds + stable_for + 1.0, abs=1e-5)
