"""Rolling restarts: one instance after the other, never too few, and back when the new version is no good."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from fabric.errors import ConfigurationError, UnknownName
from fabric.health import HealthStatus
from fabric.startup.definition import ServiceDefinition
from fabric.startup.events import (
    Command,
    CommandKind,
    LeadershipTaken,
    RollAborted,
    RollFinished,
    RollPaused,
    RollRequested,
    RollResumed,
    RollState,
    ShutdownRequested,
)
from fabric.startup.simulation import Behaviour, Simulation
from tests.unit.startup.fleets import THRICE, request, service, states

FLEET = (service("db", instances=2), service("api", "db", instances=3, retry_policy=THRICE), service("web", "api"))


class Rolled(Simulation):
    """A simulation that knows which version each instance runs and how many were ready at the worst."""

    def __init__(self, bad: Callable[[str, str], Behaviour | None]) -> None:
        self.version: dict[str, str] = {}
        self.fewest: dict[str, int] = {}
        self.watching = False

        def behave(name: str, instance: str, attempt: int) -> Behaviour:
            return bad(instance, self.version.get(instance, "")) or Behaviour(seconds=2.0, stop_seconds=1.0)

        super().__init__(behave)

    def obey(self, command: Command) -> None:
        if command.kind is CommandKind.START and command.instance is not None and command.version:
            self.version[command.instance] = command.version
        super().obey(command)
        if self.watching:
            self.count()

    def count(self) -> None:
        for name, record in self.engine.services.items():
            ready = len([instance for instance in self._up if instance.startswith(f"{name}#")])
            self.fewest[name] = min(ready, self.fewest.get(name, record.definition.instances))


def up(
    bad: Callable[[str, str], Behaviour | None] = lambda instance, version: None, fleet: tuple[ServiceDefinition, ...] = FLEET
) -> Rolled:
    simulation = Rolled(bad)
    end = simulation.run(request(fleet))
    assert end is not None
    assert end.outcome.ok
    simulation.watching = True
    return simulation


def roll(*services: str, **more: Any) -> RollRequested:
    return RollRequested(**{"roll": "roll-1", "services": services, "version": "v2", "previous": "v1", "stable_for": 5.0, **more})


def finish(simulation: Simulation) -> RollFinished:
    while True:
        for _, action in reversed(simulation.actions):
            if isinstance(action, RollFinished):
                return action
        assert simulation.step(until=1e6), "the rolling restart hangs"


def commanded(simulation: Simulation, since: int = 0) -> list[tuple[str, str]]:
    return [
        (str(action.kind), str(action.instance))
        for _, action in simulation.actions[since:]
        if isinstance(action, Command) and action.instance is not None
    ]


def test_s13_each_instance_goes_when_the_one_before_is_stable() -> None:
    """S13 (nomad#3836): dependencies first, one instance at a time, the next only after the minimum healthy time."""
    simulation = up()
    begin = simulation.now
    seen = len(simulation.actions)
    simulation.tell(roll("api", "db"))
    end = finish(simulation)
    assert end.state is RollState.DONE
    assert end.replaced == ("db#1", "db#2", "api#1", "api#2", "api#3")
    order = ["db#1", "db#2", "api#1", "api#2", "api#3"]
    assert commanded(simulation, seen) == [(kind, name) for name in order for kind in ("stop", "start")]
    assert simulation.fewest["db"] == 1
    assert simulation.fewest["api"] == 2
    assert end.at - begin == 5 * (1.0 + 2.0 + 5.0)
    assert set(states(simulation).values()) == {"ready"}
    assert set(simulation.version.values()) == {"v2"}


def test_s13_surge_never_has_fewer_than_before() -> None:
    """S13 (nomad#6864): with a surge one replica is replaced without a gap, and the extra instance goes in the end."""
    simulation = up()
    simulation.tell(roll("web", surge=True))
    end = finish(simulation)
    assert end.state is RollState.DONE
    assert simulation.fewest["web"] == 1
    assert simulation._up >= {"web#1"}
    assert "web#2" not in simulation._up
    assert list(simulation.engine.services["web"].instances) == ["web#1"]


def test_s13_one_replica_surges_or_refuses() -> None:
    """S13 (nomad#6864): a single replica that must stay available is not restarted without a surge; nothing is touched."""
    simulation = up()
    before = len(simulation.actions)
    with pytest.raises(ConfigurationError, match="allow a surge"):
        simulation.tell(roll("web"))
    assert len(simulation.actions) == before
    simulation.tell(roll("web", min_available=0))
    assert finish(simulation).state is RollState.DONE


def bad_v2(instance: str, version: str) -> Behaviour | None:
    return Behaviour(seconds=1.0, exit_code=1, says="no such table") if version == "v2" else None


@pytest.mark.parametrize("surge", [False, True])
def test_s13_broken_version_goes_back(surge: bool) -> None:
    """S13 (nomad#3836): a version that does not start is reverted; no healthy instance is stopped for it."""
    simulation = up(bad_v2)
    simulation.tell(roll("api", surge=surge))
    end = finish(simulation)
    assert end.state is RollState.REVERTED
    assert "exited with code 1" in end.reason
    assert end.replaced == ()
    assert simulation.fewest["api"] >= (3 if surge else 2)
    assert "v2" not in {version for name, version in simulation.version.items() if name in simulation._up}
    assert set(states(simulation).values()) == {"ready"}


def test_s13_version_that_breaks_late_takes_all_back() -> None:
    """S13 (nomad#3836): when the third new instance fails, the two before it go back too, the last one first."""
    simulation = up(lambda instance, version: Behaviour(error="boom") if (instance, version) == ("api#3", "v2") else None)
    simulation.tell(roll("api"))
    end = finish(simulation)
    assert end.state is RollState.REVERTED
    assert simulation.version == {"api#1": "v1", "api#2": "v1", "api#3": "v1"}
    assert simulation.fewest["api"] == 2
    assert [name for kind, name in commanded(simulation) if kind == "start"][-3:] == ["api#3", "api#2", "api#1"]


def test_s13_version_that_is_never_stable_goes_back() -> None:
    """S13: a new instance that starts and keeps voting no is reverted after its time."""
    simulation = up(lambda instance, version: Behaviour(ready=False, says="schema mismatch") if version == "v2" else None)
    simulation.tell(roll("db"))
    end = finish(simulation)
    assert end.state is RollState.REVERTED
    assert "schema mismatch" in end.reason


def test_flapping_begins_the_healthy_time_anew() -> None:
    """A no in the minimum healthy time makes it begin again, so the next instance waits."""
    simulation = up()
    simulation.tell(roll("db"))
    simulation.go_to(simulation.now + 6.0)
    simulation.tell(simulation.vote("db", "db#1", HealthStatus.NO, "hiccup"))
    simulation.tell(simulation.vote("db", "db#1"))
    again = simulation.now
    while ("stop", "db#2") not in commanded(simulation):
        assert simulation.step()
    assert simulation.now == again + 5.0


def test_waits_for_others_to_be_ready_and_gives_up_in_time() -> None:
    """While another instance is not ready none is stopped; if it does not come back in time, things go back."""
    simulation = up()
    simulation.tell(simulation.vote("api", "api#3", HealthStatus.NO, "disk full"))
    simulation.tell(simulation.vote("api", "api#3"))
    simulation.tell(roll("api", stable_for=1.0))
    simulation.tell(simulation.vote("api", "api#3", HealthStatus.NO, "disk full"))
    simulation.go_to(simulation.now + 10.0)
    assert ("stop", "api#2") not in commanded(simulation)
    simulation.tell(simulation.vote("api", "api#3"))
    assert finish(simulation).state is RollState.DONE


def test_pause_resume_and_abort() -> None:
    """A pause lets the step under way end; an abort leaves every instance up, or goes back if it is told to."""
    simulation = up()
    simulation.tell(roll("api"))
    simulation.tell(RollPaused())
    simulation.go_to(simulation.now + 100.0)
    assert commanded(simulation) == [("stop", "api#1")]
    simulation.tell(RollResumed())
    simulation.go_to(simulation.now + 4.0)
    simulation.tell(RollAborted(revert=False))
    end = finish(simulation)
    assert (end.state, end.replaced) == (RollState.ABORTED, ("api#1",))
    assert set(states(simulation).values()) == {"ready"}
    simulation.actions.clear()
    simulation.tell(roll("api", roll="roll-2", version="v3", previous="v2"))
    simulation.go_to(simulation.now + 10.0)
    simulation.tell(RollAborted(revert=True))
    assert finish(simulation).state is RollState.REVERTED
    assert set(simulation.version.values()) == {"v2"}


def test_abort_between_stop_and_start_leaves_nothing_down() -> None:
    """An abort that comes while an instance is being stopped still starts it again."""
    simulation = up()
    simulation.tell(roll("api"))
    simulation.tell(RollAborted(revert=False))
    end = finish(simulation)
    assert end.state is RollState.ABORTED
    assert len([name for name in simulation._up if name.startswith("api#")]) == 3


def test_held_instance_is_not_restarted_by_the_run() -> None:
    """What a rolling restart stops is no failure of the run: it is not retried behind its back."""
    simulation = up()
    starts = len(simulation.commands())
    simulation.tell(roll("api"))
    simulation.tell(RollPaused())
    simulation.go_to(simulation.now + 500.0)
    assert len(simulation.commands()) == starts
    assert states(simulation)["api"] == "unready"
    assert simulation.engine.services["api"].failures == []


def test_only_one_at_a_time_and_only_of_what_is_ready() -> None:
    """A second rolling restart, an unknown service and one that is not ready are refused."""
    simulation = up()
    simulation.tell(roll("api"))
    with pytest.raises(ConfigurationError, match="under way"):
        simulation.tell(roll("db", roll="roll-2"))
    other = up()
    with pytest.raises(UnknownName):
        other.tell(roll("ghost"))
    other.tell(other.vote("db", "db#1", HealthStatus.NO, "x"))
    with pytest.raises(ConfigurationError, match="unready"):
        other.tell(roll("db"))


def test_failed_way_back_is_left_to_the_run() -> None:
    """When going back fails too, the rolling restart fails, and the run starts what is down within its retry policy."""
    simulation = up(
        lambda instance, version: Behaviour(error="boom") if instance == "api#1" and version in ("v1", "v2") else None
    )
    simulation.tell(roll("api"))
    end = finish(simulation)
    assert end.state is RollState.FAILED
    assert "going back failed too" in end.reason
    assert simulation.engine.services["api"].instances["api#1"].phase == "pausing"


def test_shutdown_ends_it() -> None:
    """A shutdown in the middle of a rolling restart drops it and stops everything."""
    simulation = up()
    simulation.tell(roll("api"))
    simulation.go_to(simulation.now + 2.0)
    simulation.tell(ShutdownRequested())
    assert finish(simulation).state is RollState.ABORTED
    simulation.go_to(simulation.now + 60.0)
    assert set(states(simulation).values()) == {"stopped"}


def test_new_leader_goes_on() -> None:
    """A successor that replays the journal repeats the step under way and goes on to the end."""
    simulation = up()
    simulation.tell(roll("api"))
    simulation.go_to(simulation.now + 1.5)
    simulation.tell(LeadershipTaken(epoch=1))
    assert finish(simulation).state is RollState.DONE
