"""The start-up engine in the faults that users of other tools met."""

from __future__ import annotations

import random

import pytest

from fabric.health import HealthStatus
from fabric.startup.definition import Condition, Dependency, RetryPolicy, ServiceDefinition
from fabric.startup.events import (
    CancelRequested,
    CommandKind,
    InstanceJoined,
    InstanceLost,
    Outcome,
    RunRequested,
    ServiceFailed,
    ServiceStarted,
    ShutdownRequested,
)
from fabric.startup.explain import explain
from fabric.startup.measure import profile_of
from fabric.startup.simulation import Behaviour, Simulation
from tests.unit.startup.fleets import THRICE, random_fleet, request, service, simulate, stage, started, states

CHAIN = [service("db"), service("store", "db"), service("api", "store"), service("mail", critical=False)]


def test_dependencies_alone_order_a_run_without_stages() -> None:
    """Each service starts in the moment in which the last thing it needs is ready."""
    simulation = simulate(db=Behaviour(seconds=3), store=Behaviour(seconds=2))
    end = simulation.run(request(CHAIN))
    assert end is not None
    assert end.outcome is Outcome.SUCCEEDED
    assert end.at == 6.0
    assert started(simulation) == ["db", "mail", "store", "api"]


def test_one_slot_starts_one_service_at_a_time() -> None:
    """``parallel=False`` makes the run as long as all services together."""
    simulation = simulate(db=Behaviour(seconds=3), store=Behaviour(seconds=2))
    end = simulation.run(request(CHAIN, parallel=False))
    assert end is not None
    assert end.at == 7.0


def test_what_something_critical_needs_goes_first_then_the_longest_path() -> None:
    """With one slot the order of the queue is that of the plan: critical before others, long before short."""
    fleet = [
        service("long-optional", critical=False),
        service("short"),
        service("helper", critical=False),
        service("head", "helper"),
        service("slow"),
    ]
    simulation = simulate()
    simulation.run(
        request(fleet, slots=1, durations={"long-optional": 99.0, "short": 1.0, "helper": 1.0, "head": 5.0, "slow": 4.0})
    )
    assert started(simulation) == ["helper", "head", "slow", "short", "long-optional"]


def test_gate_holds_later_stages_back_until_its_services_vote_yes() -> None:
    """A stage begins when the gate before it opens, though its services need nothing."""
    simulation = simulate(db=Behaviour(seconds=5))
    stages = [stage("core", "db", "mail", required=["db"]), stage("rest", "web")]
    end = simulation.run(request([service("db"), service("mail", critical=False), service("web")], stages))
    assert end is not None
    assert end.at == 6.0
    assert profile_of(simulation.engine).service("web").gate == 5.0


class TestS1:
    def test_failed_once_then_recovered_by_retry(self) -> None:
        """S1 (systemd#18856, process-compose#189): a service fails once and is tried again; its dependents start."""
        simulation = simulate(db=[Behaviour(error="boom"), Behaviour()])
        end = simulation.run(request([service("db", retry_policy=THRICE), service("api", "db")]))
        assert end is not None
        assert end.outcome is Outcome.SUCCEEDED
        assert simulation.engine.services["db"].attempt == 2

    def test_failed_for_good_then_recovered_by_itself(self) -> None:
        """S1 (systemd#18856): after the run has failed, the service comes up by itself; its dependents start unasked."""
        simulation = simulate(db=[Behaviour(error="boom"), Behaviour()])
        end = simulation.run(request([service("db"), service("api", "db"), service("web", "api")]))
        assert end is not None
        assert end.outcome is Outcome.FAILED
        assert states(simulation) == {"db": "failed", "api": "blocked", "web": "blocked"}
        simulation.tell(simulation.vote("db", "db#1"))
        again = simulation.run_on()
        assert again is not None
        assert again.outcome is Outcome.SUCCEEDED
        assert set(states(simulation).values()) == {"ready"}

    def test_failed_for_good_then_its_process_was_restarted_by_others(self) -> None:
        """S1 (process-compose#189): a new process of a failed service gets another attempt, and its dependents start."""
        simulation = simulate(db=[Behaviour(exit_code=1), Behaviour()])
        end = simulation.run(request([service("db"), service("api", "db")]))
        assert end is not None
        assert end.outcome is Outcome.FAILED
        simulation.tell(InstanceJoined(service="db", instance="db#1", incarnation=1, sequence=0))
        again = simulation.run_on()
        assert again is not None
        assert again.outcome is Outcome.SUCCEEDED


class TestS3:
    def test_exit_before_the_first_vote(self) -> None:
        """S3 (compose#9732): a dependency that exits ends the run at once, with its name, exit code and last words."""
        simulation = simulate(db=Behaviour(seconds=0.5, exit_code=3, says="bind: address already in use"))
        end = simulation.run(request([service("db"), service("api", "db"), service("mail", critical=False)]))
        assert end is not None
        assert end.outcome is Outcome.FAILED
        report = profile_of(simulation.engine).report
        assert report is not None
        first = report.unhealthy[0]
        assert (first.name, first.code, first.root, first.waiting) == ("db", 3, True, ("api",))
        assert "port" in first.advice
        assert states(simulation)["mail"] == "ready"

    @pytest.mark.parametrize(
        ("behaviour", "says"),
        [(Behaviour(silent=True), "nothing was heard"), (Behaviour(ready=False, says="no disk"), "no disk")],
    )
    def test_never_healthy(self, behaviour: Behaviour, says: str) -> None:
        """S3 (podman-compose#1534): one that never gets healthy ends the run within its timeout and a second."""
        simulation = simulate(db=behaviour)
        end = simulation.run(request([service("db", timeout=20.0), service("api", "db")]))
        assert end is not None
        assert end.outcome is Outcome.FAILED
        assert end.at <= 21.0
        assert says in simulation.engine.services["db"].reason

    def test_stage_timeout_ends_the_run_though_a_service_has_more_time(self) -> None:
        """S3: the stage's time bounds the run, whatever its services still have, also for those that they wait for."""
        fleet = [service("db", timeout=900.0), service("store", "db"), service("web")]
        simulation = simulate(db=Behaviour(seconds=500.0))
        end = simulation.run(request(fleet, [stage("core", "store", required=["store"], timeout=10.0), stage("rest", "web")]))
        assert end is not None
        assert (end.outcome, end.at) == (Outcome.FAILED, 10.0)
        report = profile_of(simulation.engine).report
        assert report is not None
        assert report.stage == "core"
        assert report.roots[0].name == "db"
        late = simulation.run_on()
        assert late is not None
        assert late.outcome is Outcome.SUCCEEDED, "the gate opens late when what it needs recovers"


@pytest.mark.parametrize("slots", [1, 2, 3])
@pytest.mark.parametrize("seed", range(5))
def test_few_slots_never_deadlock(slots: int, seed: int) -> None:
    """S5 (compose#5864, tilt#5592): 200 services come up through 1 to 3 slots, and a slot is held until its service is ready."""
    rng = random.Random(seed)
    fleet = random_fleet(rng, 200)
    stages = [
        stage("one", *(f"s{i}" for i in range(60)), required=["s0", "s7"]),
        stage("two", *(f"s{i}" for i in range(60, 200)), required=[]),
    ]
    seconds = {f"s{i}": rng.uniform(0.1, 5.0) for i in range(200)}
    simulation = Simulation(lambda name, instance, attempt: Behaviour(seconds=seconds[name]))
    end = simulation.run(request(fleet, stages, slots=slots))
    assert end is not None
    assert end.outcome is Outcome.SUCCEEDED
    running: set[str] = set()
    for _, action in simulation.actions:
        name, state = getattr(action, "name", ""), str(getattr(action, "state", ""))
        if state == "starting":
            running.add(name)
        elif state == "ready":
            running.discard(name)
        assert len(running) <= slots


class TestS6:
    FLEET = (service("kafka", instances=3, timeout=10.0), service("api", "kafka"))

    @staticmethod
    def gate(count: int) -> list[object]:
        return [stage("core", "kafka", required=["kafka"], instances={"kafka": count}), stage("rest", "api")]

    def test_two_of_three_are_enough_when_the_gate_says_so(self) -> None:
        """S6 (compose#10101): with one of three replicas gone a gate of two opens, and the run is degraded."""
        simulation = simulate(kafka_2=Behaviour(exit_code=1))
        end = simulation.run(request(self.FLEET, self.gate(2)))  # type: ignore[arg-type]
        assert end is not None
        assert end.outcome is Outcome.DEGRADED
        assert states(simulation) == {"kafka": "ready", "api": "ready"}

    def test_three_of_three_explains_what_is_missing(self) -> None:
        """S6 (compose#10101): a gate of three stays closed and says which instance is missing and why."""
        simulation = simulate(kafka_2=Behaviour(silent=True))
        simulation.tell(request(self.FLEET, self.gate(3)))  # type: ignore[arg-type]
        simulation.go_to(5.0)
        text = str(explain(simulation.engine, "api"))
        assert "kafka (2 of 3)" in text
        assert "1 not heard of yet" in text
        end = simulation.run_on()
        assert end is not None
        assert end.outcome is Outcome.FAILED


class TestS7:
    FLEET = (
        service("flags", critical=False),
        service("collector", critical=False),
        service("checkout", "flags", "collector"),
        service("web", "checkout"),
        service("ads", "flags", critical=False),
    )

    def test_non_critical_down_leaves_the_critical_path_up(self) -> None:
        """S7 (opentelemetry-demo#3845): a non-critical dependency is down: what needs it runs degraded, and says so."""
        simulation = simulate(flags=Behaviour(error="no config"))
        end = simulation.run(request(self.FLEET))
        assert end is not None
        assert end.outcome is Outcome.DEGRADED
        assert states(simulation)["web"] == "ready"
        report = profile_of(simulation.engine).report
        assert report is not None
        assert report.degraded == {"checkout": ("flags",), "ads": ("flags",)}
        assert [root.name for root in report.roots] == ["flags"]

    def test_critical_down_stops_what_needs_it_and_nothing_else(self) -> None:
        """S7: a critical service that fails blocks its dependents only."""
        simulation = simulate(checkout=Behaviour(error="no db"))
        end = simulation.run(request(self.FLEET))
        assert end is not None
        assert end.outcome is Outcome.FAILED
        assert states(simulation) == {
            "flags": "ready",
            "collector": "ready",
            "checkout": "failed",
            "web": "blocked",
            "ads": "ready",
        }


class TestS12:
    def test_dependent_waits_again_when_readiness_is_lost_before_it_starts(self) -> None:
        """S12 (process-compose#544): readiness lost after ready makes a queued dependent wait, not skip."""
        fleet = [service("db"), service("slow"), service("api", "db", "slow")]
        simulation = simulate(slow=Behaviour(seconds=10))
        simulation.tell(request(fleet))
        simulation.go_to(5.0)
        simulation.tell(simulation.vote("db", "db#1", HealthStatus.NO, "disk full"))
        simulation.go_to(12.0)
        assert states(simulation) == {"db": "unready", "slow": "ready", "api": "waiting"}
        assert "disk full" in str(explain(simulation.engine, "api"))
        simulation.tell(simulation.vote("db", "db#1"))
        end = simulation.run_on()
        assert end is not None
        assert end.outcome is Outcome.SUCCEEDED

    def test_gate_closes_again_on_a_stale_yes(self) -> None:
        """S12 (nomad#6407): a gate does not hold on to a yes that expired; what is behind it and not started waits."""
        fleet = [service("db"), service("first"), service("second")]
        stages = [stage("core", "db", required=["db"]), stage("rest", "first", "second")]
        simulation = simulate(first=Behaviour(seconds=5))
        simulation.tell(request(fleet, stages, slots=1))
        simulation.go_to(1.0)
        simulation.tell(simulation.vote("db", "db#1", lasts=2.0))
        simulation.go_to(7.0)
        assert states(simulation) == {"db": "unready", "first": "ready", "second": "waiting"}
        assert "gate:core" in str(explain(simulation.engine, "second"))
        simulation.tell(simulation.vote("db", "db#1"))
        end = simulation.run_on()
        assert end is not None
        assert end.outcome is Outcome.SUCCEEDED

    def test_lost_instance_is_started_again(self) -> None:
        """S12: an instance that is lost after it was ready is started again within its attempts; dependents are untouched."""
        simulation = simulate()
        simulation.run(request([service("db", retry_policy=THRICE), service("api", "db")]))
        simulation.tell(InstanceLost(service="db", instance="db#1", reason="no heartbeat", incarnation=0))
        assert states(simulation) == {"db": "retrying", "api": "ready"}
        assert not simulation.commands(CommandKind.STOP)

    def test_readiness_that_does_not_come_back_fails_without_a_restart(self) -> None:
        """S12: a service that lives and keeps saying no has failed after its timeout; starting it again would not help."""
        simulation = simulate()
        simulation.run(request([service("db", retry_policy=THRICE), service("api", "db")]))
        commands = len(simulation.commands())
        simulation.tell(simulation.vote("db", "db#1", HealthStatus.NO, "replica lag"))
        end = simulation.run_on()
        assert end is not None
        assert end.outcome is Outcome.FAILED
        assert len(simulation.commands()) == commands


def test_stuck_run_gives_way_to_a_new_plan() -> None:
    """S14 (argo-cd#17314): a new plan takes over a stuck run: what is up is adopted, what is stuck starts anew."""
    simulation = simulate(db=[Behaviour(silent=True), Behaviour()])
    simulation.tell(request([service("db", timeout=3600.0), service("cache"), service("old"), service("api", "db")]))
    simulation.go_to(100.0)
    fixed = [service("db", timeout=30.0), service("cache"), service("api", "db", "cache")]
    end = simulation.run(request(fixed, run="run-2"))
    assert end is not None
    assert (end.run, end.outcome) == ("run-1", Outcome.SUPERSEDED)
    end = simulation.run_on()
    assert end is not None
    assert (end.run, end.outcome) == ("run-2", Outcome.SUCCEEDED)
    assert [c.service for c in simulation.commands()].count("cache") == 1
    assert [c.service for c in simulation.commands(CommandKind.STOP)] == ["old"]


def test_shutdown_in_the_middle_of_a_start_goes_in_reverse_order() -> None:
    """S15 (process-compose#145): dependents stop before what they need, those still starting and waiting included."""
    simulation = simulate(api=Behaviour(seconds=60, stop_seconds=2.0), store=Behaviour(stop_seconds=1.0))
    simulation.tell(request([*CHAIN, service("web", "api")]))
    simulation.go_to(5.0)
    assert states(simulation)["api"] == "starting"
    simulation.tell(ShutdownRequested())
    end = simulation.run_on()
    assert end is not None
    assert end.outcome is Outcome.STOPPED
    assert set(states(simulation).values()) == {"stopped"}
    order = [c.service for c in simulation.commands(CommandKind.STOP)]
    assert [name for name in order if name != "mail"] == ["api", "store", "db"]
    assert end.at == 8.0


def test_shutdown_does_not_wait_for_ever_for_one_that_ignores_it() -> None:
    """S15: a service that never says that it stopped is passed over after its time."""
    simulation = simulate(store=Behaviour(stop_seconds=1e6))
    simulation.run(request([service("db"), service("store", "db", stop_timeout=4.0)]))
    simulation.tell(ShutdownRequested())
    end = simulation.run_on()
    assert end is not None
    assert end.outcome is Outcome.STOPPED
    assert end.at == pytest.approx(6.0)


def test_cancelled_run_stays_cancelled() -> None:
    """A cancel stops what is starting and keeps what is up; repeating the request does not start it again."""
    simulation = simulate(store=Behaviour(seconds=50))
    asked = request(CHAIN)
    simulation.tell(asked)
    simulation.go_to(3.0)
    simulation.tell(CancelRequested())
    end = simulation.run_on()
    assert end is not None
    assert end.outcome is Outcome.CANCELLED
    assert states(simulation) == {"db": "ready", "store": "stopped", "api": "withdrawn", "mail": "ready"}
    before = len(simulation.commands())
    simulation.tell(asked)
    simulation.tell(simulation.vote("store", "store#1"))
    simulation.go_to(500.0)
    assert len(simulation.commands()) == before


def test_abort_on_failure_ends_the_run_at_the_first_critical_failure() -> None:
    """``abort_on_failure``: nothing new starts, what is starting is stopped, what is ready stays."""
    simulation = simulate(db=Behaviour(seconds=2, error="boom"), slow=Behaviour(seconds=30))
    end = simulation.run(
        request([service("db"), service("slow"), service("fast"), service("later", "fast", "slow")], abort_on_failure=True)
    )
    assert end is not None
    assert (end.outcome, end.at) == (Outcome.FAILED, 2.0)
    assert states(simulation) == {"db": "failed", "slow": "stopped", "fast": "ready", "later": "withdrawn"}


def test_skip_optional_leaves_out_what_nothing_critical_needs() -> None:
    """``skip_optional`` keeps non-critical services that critical ones need and starts no other."""
    fleet = [service("cache", critical=False), service("api", "cache"), service("ads", "api", critical=False)]
    simulation = simulate()
    end = simulation.run(request(fleet, skip_optional=True))
    assert end is not None
    assert end.outcome is Outcome.SUCCEEDED
    assert states(simulation) == {"cache": "ready", "api": "ready", "ads": "skipped"}


def test_stage_is_skipped_when_its_time_is_over() -> None:
    """``skip_on_timeout``: later stages go on, the run does not wait for the rest, and it is degraded."""
    fleet = [service("vectors", critical=False, timeout=100.0), service("web")]
    stages = [stage("extras", "vectors", required=["vectors"], timeout=5.0, skip_on_timeout=True), stage("front", "web")]
    simulation = simulate(vectors=Behaviour(seconds=50))
    end = simulation.run(request(fleet, stages))
    assert end is not None
    assert (end.outcome, end.at) == (Outcome.DEGRADED, 6.0)
    late = simulation.run_on()
    assert late is not None
    assert late.outcome is Outcome.SUCCEEDED


def test_optional_dependency_is_waited_for_only_while_it_is_coming() -> None:
    """An optional dependency delays its dependent at most by its own timeout, and its failure does nothing."""
    mail = ServiceDefinition(name="mail", optional_dependencies=("templates",))
    quick = simulate(templates=Behaviour(seconds=3))
    end = quick.run(request([mail, service("templates", critical=False)]))
    assert end is not None
    assert (end.outcome, end.at) == (Outcome.SUCCEEDED, 4.0)
    broken = simulate(templates=Behaviour(seconds=2, error="x"))
    end = broken.run(request([mail, service("templates", critical=False)]))
    assert end is not None
    assert end.at == 3.0
    slow = simulate(templates=Behaviour(silent=True))
    slow.tell(request([mail, service("templates", critical=False, timeout=20.0, retry_policy=THRICE)]))
    slow.go_to(5.0)
    assert "waits for templates" in str(explain(slow.engine, "mail"))
    slow.go_to(20.0)
    assert states(slow) == {"mail": "starting", "templates": "retrying"}


def test_gate_waits_for_optional_services_no_longer_than_their_time() -> None:
    """A gate opens at once when its optional service is there or has failed, and else when that one's time is over."""
    fleet = [service("db"), service("cache", critical=False, timeout=8.0, retry_policy=THRICE), service("web")]
    stages = [stage("core", "db", "cache", required=["db"], optional=["cache"]), stage("rest", "web")]
    for behaviour, opens in ((Behaviour(seconds=3), 3.0), (Behaviour(silent=True), 8.0)):
        simulation = simulate(cache=behaviour)
        simulation.run(request(fleet, stages))
        assert simulation.engine.services["web"].begun_at == opens
    simulation = simulate(cache=Behaviour(seconds=2, error="x"))
    simulation.run(request([fleet[0], service("cache", critical=False), fleet[2]], stages))
    assert simulation.engine.services["web"].begun_at == 2.0


def test_conditions_started_and_completed() -> None:
    """``started`` does not wait for readiness; ``completed`` waits until a job has ended well."""
    fleet = [
        service("db"),
        ServiceDefinition(name="migrate", critical=True, dependencies=(Dependency(on="db", condition=Condition.STARTED),)),
        ServiceDefinition(name="api", critical=True, dependencies=(Dependency(on="migrate", condition=Condition.COMPLETED),)),
    ]
    simulation = simulate(db=Behaviour(seconds=10, started_after=1.0), migrate=Behaviour(seconds=4, exit_code=0))
    end = simulation.run(request(fleet))
    assert end is not None
    assert end.outcome is Outcome.SUCCEEDED
    assert simulation.engine.services["migrate"].begun_at == 1.0
    assert simulation.engine.services["api"].begun_at == 5.0
    failed = simulate(migrate=Behaviour(exit_code=1))
    end = failed.run(request(fleet))
    assert end is not None
    assert end.outcome is Outcome.FAILED
    assert states(failed)["api"] == "blocked"


def test_budget_is_shared_by_criticality() -> None:
    """A resource is never over its budget, and something optional does not overtake something critical by taking it."""
    fleet = [service(f"c{i}", resources={"cpu": 2.0}) for i in range(3)]
    fleet += [service(f"o{i}", critical=False, resources={"cpu": 1.0}) for i in range(3)]
    simulation = simulate()
    end = simulation.run(request(fleet, budgets={"cpu": 3.0}))
    assert end is not None
    assert started(simulation)[:3] == ["c0", "c1", "c2"]
    assert end.at == 4.0


def test_minimum_healthy_time_and_successes_delay_a_gate() -> None:
    """A gate with ``stable_for`` opens that long after the first yes of an unbroken row; a no in between begins anew."""
    stages = [stage("core", "db", required=["db"], stable_for=5.0), stage("rest", "web")]
    simulation = simulate()
    simulation.tell(request([service("db"), service("web")], stages))
    simulation.go_to(4.0)
    simulation.tell(simulation.vote("db", "db#1", HealthStatus.NO, "hiccup"))
    simulation.tell(simulation.vote("db", "db#1"))
    end = simulation.run_on()
    assert end is not None
    assert end.at == 10.0
    twice = simulate()
    twice.tell(
        request([service("db"), service("web")], [stage("core", "db", required=["db"], successes=2), stage("rest", "web")])
    )
    twice.go_to(3.0)
    assert states(twice)["web"] == "waiting"
    twice.tell(twice.vote("db", "db#1"))
    assert states(twice)["web"] == "starting"


def test_crash_loop_ends_when_the_attempts_are_used_up() -> None:
    """A service that crashes after each start is given up, because being ready for a moment gives it no new attempts."""
    simulation = simulate()
    simulation.run(request([service("db", retry_policy=RetryPolicy(attempts=3, delay=1.0, reset_after=60.0))]))
    for _ in range(10):
        if states(simulation)["db"] == "ready":
            simulation.tell(simulation.exit("db", "db#1", 1))
        simulation.go_to(simulation.now + 10.0)
    assert states(simulation)["db"] == "failed"
    assert len(simulation.commands()) == 3


def test_instance_that_waits_for_its_turn_is_started_when_another_one_comes_up_by_itself() -> None:
    """One instance of a service is due for another attempt and can't have it, for a dependency is down; then the other one
    comes up by itself: the service has left the queue, and the first one is commanded all the same."""
    simulation = simulate(db=Behaviour(error="boom"))
    store = service("store", "db", instances=2, retry_policy=RetryPolicy(attempts=3, delay=1.0), timeout=5.0)
    one = stage("all", "db", "store", required=["store"], instances={"store": 1}, timeout=60.0)
    simulation.tell(request([service("db", retry_policy=RetryPolicy(attempts=1)), store], [one]))
    simulation.tell(ServiceStarted(service="store", instance="store#1", attempt=0, incarnation=0, sequence=1, epoch=0))
    boom = ServiceFailed(service="store", instance="store#1", attempt=0, incarnation=0, sequence=2, epoch=0, reason="boom")
    simulation.tell(boom)
    simulation.go_to(20.0)
    assert states(simulation) == {"db": "failed", "store": "blocked"}
    simulation.tell(simulation.vote("store", "store#2"))
    assert [command.instance for command in simulation.commands() if command.service == "store"] == ["store#1"]
    simulation.run_on(until=30.0)
    assert simulation.engine.services["store"].reason == "2 of 2 ready"


def test_instance_that_failed_in_an_earlier_run_is_commanded_by_a_new_one() -> None:
    """A service that is ready with one of its instances when a new run begins: the other one gets its attempts anew."""
    fleet = [service("store", instances=2, retry_policy=RetryPolicy(attempts=1))]
    stages = [stage("core", "store", required=["store"], instances={"store": 1})]
    broken = True
    simulation = Simulation(lambda name, instance, _: Behaviour(error="boom" if broken and instance == "store#2" else None))
    simulation.run(request(fleet, stages))
    simulation.go_to(10.0)
    assert simulation.engine.services["store"].reason == "1 of 2 ready"
    broken = False
    simulation.run(request(fleet, stages, run="run-2"))
    simulation.go_to(20.0)
    assert simulation.engine.services["store"].reason == "2 of 2 ready"


def test_service_that_was_being_stopped_when_a_run_without_it_came_is_stopped_in_its_time() -> None:
    """A run is cancelled and another one requested, cancelled too: what only the first one had, and hangs, ends by its limit."""
    simulation = simulate(db=Behaviour(seconds=9), mail=Behaviour(silent=True))
    mail = service("mail", timeout=30.0, stop_timeout=10.0)
    simulation.tell(request([service("db"), mail]))
    simulation.go_to(2.0)
    simulation.tell(CancelRequested())
    simulation.tell(request([service("db")], run="run-2"))
    simulation.tell(CancelRequested())
    simulation.go_to(30.0)
    assert simulation.engine.outcome is Outcome.CANCELLED
    assert states(simulation) == {"db": "stopped", "mail": "stopped"}


def test_same_events_give_the_same_state() -> None:
    """Replaying the events of a run gives the same actions and states, which is what a successor relies on."""
    rng = random.Random(7)
    fleet = random_fleet(rng, 60)
    fates = {
        f"s{i}": rng.choice([Behaviour(), Behaviour(error="x"), Behaviour(exit_code=2), Behaviour(ready=False)])
        for i in range(60)
    }
    simulation = Simulation(lambda name, instance, attempt: fates[name] if attempt < 2 else Behaviour())
    simulation.run(RunRequested(run="r", services=tuple(fleet)))
    from fabric.startup.engine import Engine

    again = Engine()
    actions = [action for at, event in simulation.events for action in again.handle(event, at)]
    assert actions == [action for _, action in simulation.actions]
    assert again.services == simulation.engine.services
