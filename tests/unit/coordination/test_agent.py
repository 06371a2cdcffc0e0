"""The agent in a service, commanded over an in-memory bus."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from fabric import Health, Service, rpc
from fabric.coordination.agent import Agent, AgentPolicy
from fabric.coordination.participants import BusParticipants
from fabric.errors import NoInstance, ServiceError
from fabric.health import HealthStatus
from fabric.routing.instance import InstanceState
from fabric.startup.events import (
    Command,
    CommandAccepted,
    CommandKind,
    Event,
    InstanceJoined,
    InstanceLost,
    ServiceFailed,
    ServiceStarted,
    ServiceStopped,
    Vote,
)
from fabric.testing import Bench
from fabric.transports.base import Consumer, QueueSpec, Receiver
from fabric.transports.memory import MemoryTransport


class Kettle(Service):
    """Starts when it is told to and says what the test wants it to say."""

    name = "kettle"

    def __init__(self) -> None:
        self.health = Health.ok("hot")
        self.fail_with: list[Exception] = []
        self.starts = self.stops = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def start(self) -> None:
        self.starts += 1
        await self.gate.wait()
        if self.fail_with:
            raise self.fail_with.pop()

    async def stop(self) -> None:
        self.stops += 1

    async def check_health(self) -> Health:
        return self.health

    @rpc()
    async def boil(self) -> str:
        return "hot"


class Leader:
    """Sends commands and keeps what comes back."""

    def __init__(self, participants: BusParticipants) -> None:
        self.participants = participants
        self.events: list[Event] = []
        self._arrived = asyncio.Event()
        participants.listen(self._take)

    def _take(self, event: Event) -> None:
        self.events.append(event)
        self._arrived.set()

    async def command(self, kind: CommandKind = CommandKind.START, *, epoch: int = 1, attempt: int = 1, **changes: Any) -> None:
        fields: dict[str, Any] = {"run": "run-1", "service": "kettle", "timeout": 5.0, **changes}
        await self.participants.send(Command(kind=kind, epoch=epoch, attempt=attempt, **fields))

    async def until(self, fits: Callable[[Event], bool]) -> Event:
        """The first event that fits, come or coming."""
        async with asyncio.timeout(5):
            while True:
                for event in self.events:
                    if fits(event):
                        return event
                self._arrived.clear()
                await self._arrived.wait()

    async def until_type(self, kind: type[Any]) -> Any:
        return await self.until(lambda event: isinstance(event, kind))

    def forget(self) -> None:
        self.events.clear()


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with Bench(policy=AgentPolicy(first_check=0.01, check_interval=0.1, check_timeout=1.0, vote_valid_for=2.0)) as bench:
        yield bench


@pytest.fixture
async def leader(bench: Bench) -> AsyncIterator[Leader]:
    participants = BusParticipants(await bench.hub("coordinator"))
    await participants.open()
    yield Leader(participants)
    await participants.aclose()


def yes(event: Event) -> bool:
    return isinstance(event, Vote) and event.status is HealthStatus.YES


async def test_a_managed_service_does_nothing_before_its_command(bench: Bench, leader: Leader) -> None:
    """It joins, takes no calls, and its start() has not run."""
    kettle = Kettle()
    agent = await bench.start(kettle, managed=True)
    joined = await leader.until_type(InstanceJoined)
    assert joined.instance == agent.instance
    assert kettle.starts == 0
    hub = await bench.hub()
    with pytest.raises(NoInstance, match="registered"):
        await hub.call("kettle", "boil")


async def test_a_start_is_accepted_then_started_then_voted_for(bench: Bench, leader: Leader) -> None:
    """The reports come in that order, with growing sequence numbers, and calls work once it votes yes."""
    agent = await bench.start(Kettle(), managed=True)
    await leader.command()
    await leader.until(yes)
    reports = [event for event in leader.events if isinstance(event, (CommandAccepted, ServiceStarted, Vote))]
    assert list(dict.fromkeys(type(report) for report in reports)) == [CommandAccepted, ServiceStarted, Vote]
    assert [report.sequence for report in reports] == sorted(report.sequence for report in reports)
    assert {report.epoch for report in reports} == {1}
    assert agent.state is InstanceState.RUNNING
    hub = await bench.hub()
    assert await hub.call("kettle", "boil") == "hot"


async def test_a_command_reaches_an_instance_that_joins_after_it(bench: Bench, leader: Leader) -> None:
    """A slow process is not forgotten: its START waits for it."""
    await leader.command()
    kettle = Kettle()
    await bench.start(kettle, managed=True)
    await leader.until(yes)
    assert kettle.starts == 1


async def test_a_command_on_a_broker_that_takes_its_time(bench: Bench, leader: Leader, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where declaring and binding a queue takes longer than being heard of, as on RabbitMQ, the START that the announcement
    calls forth is not missed."""
    consume = MemoryTransport.consume

    async def slowly(transport: MemoryTransport, queue: QueueSpec, receiver: Receiver, *, timeout: float) -> Consumer:
        for _ in range(200 if queue.exchange.endswith(".control") else 0):
            await asyncio.sleep(0)
        return await consume(transport, queue, receiver, timeout=timeout)

    monkeypatch.setattr(MemoryTransport, "consume", slowly)
    await leader.command()
    kettle = Kettle()
    await bench.start(kettle, managed=True)
    await leader.until(yes)
    assert kettle.starts == 1


async def test_a_repeated_start_is_answered_and_not_repeated(bench: Bench, leader: Leader) -> None:
    """Sending a command again is harmless: start() ran once, and the answer comes again."""
    kettle = Kettle()
    await bench.start(kettle, managed=True)
    await leader.command()
    await leader.until(yes)
    leader.forget()
    await leader.command()
    await leader.until_type(ServiceStarted)
    assert kettle.starts == 1


async def test_a_start_of_a_later_run_adopts_what_runs(bench: Bench, leader: Leader) -> None:
    """S2: a successor that commands a start finds the service up and restarts nothing."""
    kettle = Kettle()
    await bench.start(kettle, managed=True)
    await leader.command()
    await leader.until(yes)
    leader.forget()
    await leader.command(run="run-2", epoch=7, attempt=1)
    started = await leader.until_type(ServiceStarted)
    assert started.epoch == 7
    assert (kettle.starts, kettle.stops) == (1, 0)


async def test_a_command_of_an_older_epoch_is_refused(bench: Bench, leader: Leader) -> None:
    """S2: an old leader that wakes up stops nothing."""
    kettle = Kettle()
    agent = await bench.start(kettle, managed=True)
    await leader.command(epoch=5)
    await leader.until(yes)
    await leader.command(CommandKind.STOP, epoch=4)
    leader.forget()
    await leader.command(CommandKind.CHECK, epoch=5)
    await leader.until(yes)
    assert agent.state is InstanceState.RUNNING
    assert kettle.stops == 0


async def test_a_failed_start_is_reported_with_its_cause_and_can_be_tried_again(bench: Bench, leader: Leader) -> None:
    """The reason and code of the exception travel, what was taken is released, and the next attempt starts anew."""
    kettle = Kettle()
    kettle.fail_with = [ServiceError("no water", code="kettle.dry")]
    agent = await bench.start(kettle, managed=True)
    await leader.command()
    failed = await leader.until_type(ServiceFailed)
    assert "no water" in failed.reason
    assert failed.code == "kettle.dry"
    assert (agent.state, kettle.stops) == (InstanceState.FAILED, 1)
    await leader.command(attempt=2)
    await leader.until(yes)
    assert kettle.starts == 2


async def test_a_recorded_failure_answers_its_own_run_only(bench: Bench, leader: Leader) -> None:
    """S18: a repeat is answered with the failure that it had and starts nothing; a later run that counts its attempts from 1
    again, because the journal was lost, gets a start of its own."""
    kettle = Kettle()
    kettle.fail_with = [RuntimeError("no water"), RuntimeError("no water"), RuntimeError("no water")]
    await bench.start(kettle, managed=True)
    await leader.command(attempt=1)
    await leader.until_type(ServiceFailed)
    await leader.command(attempt=2)
    await leader.until(lambda event: isinstance(event, ServiceFailed) and event.attempt == 2)
    leader.forget()
    await leader.command(attempt=1)
    assert (await leader.until_type(ServiceFailed)).attempt == 2
    assert kettle.starts == 2
    leader.forget()
    await leader.command(run="run-2", epoch=2, attempt=1)
    assert (await leader.until_type(ServiceFailed)).attempt == 1
    assert kettle.starts == 3


async def test_a_late_double_of_a_start_does_not_undo_a_stop(bench: Bench, leader: Leader) -> None:
    """S18: after STOP, the START of before arrives once more: it is answered, and nothing starts."""
    kettle = Kettle()
    agent = await bench.start(kettle, managed=True)
    await leader.command()
    await leader.until(yes)
    await leader.command(CommandKind.STOP)
    await leader.until_type(ServiceStopped)
    leader.forget()
    await leader.command()
    await leader.until_type(ServiceStopped)
    assert (agent.state, kettle.starts) == (InstanceState.STOPPED, 1)


@pytest.mark.parametrize("taken_back", [False, True])
async def test_a_start_during_the_stop_is_carried_out_after_it(bench: Bench, leader: Leader, taken_back: bool) -> None:
    """S14: a run that begins while the last one is being stopped need not wait out a timeout; a STOP after it takes it back."""

    class Slow(Kettle):
        async def stop(self) -> None:
            self.stops += 1
            await self.gate.wait()

    kettle = Slow()
    agent = await bench.start(kettle, managed=True)
    await leader.command()
    await leader.until(yes)
    kettle.gate.clear()
    await leader.command(CommandKind.STOP)
    await agent.wait_state(InstanceState.STOPPING, timeout=5)
    leader.forget()
    await leader.command(run="run-2", attempt=2)
    if taken_back:
        await leader.command(CommandKind.STOP, run="run-2", attempt=2)
    kettle.gate.set()
    await leader.until_type(ServiceStopped)
    if taken_back:
        leader.forget()
        await leader.command(CommandKind.CHECK)
        await leader.until_type(ServiceStopped)
    else:
        await leader.until(yes)
    assert kettle.starts == (1 if taken_back else 2)


async def test_a_start_that_hangs_fails_at_its_timeout(bench: Bench, leader: Leader) -> None:
    """start() is cancelled and the report says that it took too long."""
    kettle = Kettle()
    kettle.gate.clear()
    await bench.start(kettle, managed=True)
    await leader.command(timeout=0.1)
    failed = await leader.until_type(ServiceFailed)
    assert failed.code == "start.timeout"
    assert "timeout" in failed.reason


async def test_a_vote_follows_the_health(bench: Bench, leader: Leader) -> None:
    """S12: readiness that is lost after ready is voted at once, with its reason, and so is its return."""
    kettle = Kettle()
    await bench.start(kettle, managed=True)
    await leader.command()
    await leader.until(yes)
    kettle.health = Health.bad("cold")
    no = await leader.until(lambda event: isinstance(event, Vote) and event.status is HealthStatus.NO)
    assert isinstance(no, Vote)
    assert no.reason == "cold"
    kettle.health = Health.ok()
    leader.forget()
    await leader.until(yes)


async def test_a_health_check_that_raises_is_a_no(bench: Bench, leader: Leader) -> None:
    """A broken check does not end the agent; the vote says what it raised."""

    class Broken(Kettle):
        async def check_health(self) -> Health:
            raise RuntimeError("thermometer gone")

    await bench.start(Broken(), managed=True)
    await leader.command()
    no = await leader.until(lambda event: isinstance(event, Vote) and event.status is HealthStatus.NO)
    assert isinstance(no, Vote)
    assert "thermometer gone" in no.reason


async def test_a_stop_releases_and_a_later_start_starts_anew(bench: Bench, leader: Leader) -> None:
    """After STOP it takes no calls; START brings it back in the same process."""
    kettle = Kettle()
    agent = await bench.start(kettle, managed=True)
    await leader.command()
    await leader.until(yes)
    await leader.command(CommandKind.STOP)
    await leader.until_type(ServiceStopped)
    assert (agent.state, kettle.stops) == (InstanceState.STOPPED, 1)
    leader.forget()
    await leader.command(attempt=2)
    await leader.until(yes)
    assert kettle.starts == 2
    hub = await bench.hub()
    assert await hub.call("kettle", "boil") == "hot"


async def test_a_command_for_another_instance_is_left_alone(bench: Bench, leader: Leader) -> None:
    """Two instances, one command: only the named one starts."""
    first, second = Kettle(), Kettle()
    await bench.start(first, managed=True, instance="kettle-1")
    await bench.start(second, managed=True, instance="kettle-2")
    await leader.command(instance="kettle-2")
    await leader.until(yes)
    assert (first.starts, second.starts) == (0, 1)


async def test_an_instance_that_ends_by_itself_says_so(bench: Bench, leader: Leader) -> None:
    """The coordinator learns of a process that was told to end by somebody else."""
    agent = await bench.start(Kettle(), managed=True)
    await leader.command()
    await leader.until(yes)
    await bench.stop(agent.instance)
    stopped = await leader.until_type(ServiceStopped)
    assert stopped.instance == agent.instance


async def test_an_instance_that_vanishes_is_reported_lost(bench: Bench, leader: Leader) -> None:
    """M6 for start-up: no goodbye, but the broker says that its inbox is gone."""
    agent = await bench.start(Kettle(), managed=True)
    await leader.until_type(InstanceJoined)
    transport = agent.hub.transport
    assert isinstance(transport, MemoryTransport)
    bench.network.partition(transport)
    lost = await leader.until_type(InstanceLost)
    assert lost.instance == agent.instance
    bench.network.heal()


async def test_wait_state_says_where_it_is_when_time_is_up(bench: Bench, leader: Leader) -> None:
    """The error names the instance, its state and its health."""
    agent: Agent = await bench.start(Kettle(), managed=True)
    with pytest.raises(TimeoutError, match="registered"):
        await agent.wait_state(InstanceState.RUNNING, timeout=0.05)
