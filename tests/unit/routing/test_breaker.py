"""Breakers, against a model that keeps every call, and at the corners where others fail."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from fabric.errors import ConfigurationError
from fabric.routing.breaker import CLOSED, HALF_OPEN, OPEN, Breaker
from fabric.routing.breaker_policy import BreakerPolicy
from fabric.routing.window import STEPS

POLICY = BreakerPolicy(window=10.0, minimum_calls=4, failure_rate=0.5, open_for=2.0, open_at_most=5.0, probes=2)


def fail(breaker: Breaker, now: float, times: int) -> None:
    for _ in range(times):
        breaker.settle(breaker.acquire(now), now, ok=False, seconds=0.1)


policies = st.builds(
    BreakerPolicy,
    window=st.sampled_from([1.0, 5.0]),
    minimum_calls=st.integers(1, 5),
    failure_rate=st.sampled_from([0.2, 0.5, 1.0]),
    slow_call=st.sampled_from([None, 1.0]),
    slow_rate=st.sampled_from([0.4, 1.0]),
    consecutive_failures=st.sampled_from([0, 2]),
    open_for=st.just(2.0),
    open_at_most=st.just(5.0),
    probes=st.integers(1, 3),
)


class BreakerMachine(RuleBasedStateMachine):
    """The model keeps a list of every call and decides from that, by the words of the policy's documentation."""

    permits: Bundle[tuple[int, int, int]] = Bundle("permits")

    @initialize(policy=policies)
    def begin(self, policy: BreakerPolicy) -> None:
        self.policy = policy
        self.breaker = Breaker(policy)
        self.now = 100.0
        self.state = CLOSED
        self.life = 0
        self.calls: list[tuple[int, bool, bool]] = []
        self.in_a_row = self.streak = 0
        self.until = 0.0
        self.out: set[int] = set()
        self.good = 0
        self.number = 0
        self.isolated = False

    def _enter(self, state: Any) -> None:
        self.state = state
        self.life += 1
        self.out.clear()
        self.good = self.in_a_row = 0
        self.calls.clear()

    def _open(self) -> None:
        self.until = self.now + min(5.0, 2.0 * 2**self.streak)
        self._enter(OPEN)

    @rule(seconds=st.sampled_from([0.01, 0.3, 1.0, 2.0, 7.0]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @rule(target=permits)
    def ask(self) -> tuple[int, int, int]:
        permit = self.breaker.acquire(self.now)
        match self.state:
            case s if s is CLOSED:
                allowed = True
            case s if s is OPEN:
                allowed = self.now >= self.until and not self.isolated
                if allowed:
                    self._enter(HALF_OPEN)
            case _:
                allowed = len(self.out) + self.good < self.policy.probes
        assert bool(permit) is allowed
        self.number += 1
        if allowed and self.state is HALF_OPEN:
            self.out.add(self.number)
        return permit, self.number, self.life

    @rule(held=consumes(permits), ok=st.sampled_from([True, False, None]), seconds=st.sampled_from([0.1, 1.5]))
    def settle(self, held: tuple[int, int, int], ok: bool | None, seconds: float) -> None:
        permit, number, life = held
        self.breaker.settle(permit, self.now, ok=ok, seconds=seconds)
        slow = self.policy.slow_call is not None and seconds >= self.policy.slow_call
        if permit == 0 or life != self.life:
            return  # refused, or of an earlier state: it must change nothing
        if self.state is CLOSED:
            if ok is not None:
                self._closed_call(not ok, slow)
        else:
            assert self.state is HALF_OPEN
            self.out.discard(number)
            if ok is None:
                return
            if not ok or slow:
                self.streak += 1
                self._open()
                return
            self.good += 1
            if self.good == self.policy.probes:
                self.streak = 0
                self._enter(CLOSED)

    def _closed_call(self, failed: bool, slow: bool) -> None:
        step = self.policy.window / STEPS
        self.calls.append((int(self.now / step), failed, slow))
        recent = [call for call in self.calls if call[0] > int(self.now / step) - STEPS]
        self.in_a_row = self.in_a_row + 1 if failed else 0
        if not failed and not slow:
            return
        rates = len(recent) >= self.policy.minimum_calls and (
            sum(f for _, f, _ in recent) >= self.policy.failure_rate * len(recent)
            or (self.policy.slow_call is not None and sum(s for _, _, s in recent) >= self.policy.slow_rate * len(recent))
        )
        if rates or 0 < self.policy.consecutive_failures <= self.in_a_row:
            self._open()

    @rule()
    def isolate(self) -> None:
        self.breaker.isolate()
        self.isolated = True
        self._enter(OPEN)

    @rule()
    def restore(self) -> None:
        self.breaker.restore()
        self.isolated, self.streak = False, 0
        self._enter(CLOSED)

    @invariant()
    def agree(self) -> None:
        if not hasattr(self, "breaker"):
            return
        assert self.breaker.state is self.state
        assert len(self.out) <= self.policy.probes
        wait = self.breaker.retry_after(self.now)
        assert (wait == 0.0) is self.breaker.permits(self.now)
        assert 0.0 <= wait <= 5.5


BreakerMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
TestBreakerAgainstItsModel = BreakerMachine.TestCase


def test_below_the_minimum_volume_nothing_trips_it() -> None:
    """Three failures of three calls say little; the fourth is enough."""
    breaker = Breaker(POLICY)
    fail(breaker, 1.0, 3)
    assert breaker.state is CLOSED
    fail(breaker, 1.0, 1)
    assert breaker.state is OPEN


def test_old_failures_are_forgotten() -> None:
    """What failed before the window does not count with what fails now."""
    breaker = Breaker(POLICY)
    fail(breaker, 1.0, 3)
    fail(breaker, 30.0, 3)
    assert breaker.state is CLOSED


def test_slow_calls_count_like_failed_ones() -> None:
    """A callee that answers, but too slowly, is left alone as well."""
    breaker = Breaker(BreakerPolicy(minimum_calls=4, slow_call=1.0, slow_rate=0.5))
    for seconds in (0.1, 0.1, 1.0, 2.0):
        breaker.settle(breaker.acquire(1.0), 1.0, ok=True, seconds=seconds)
    assert breaker.state is OPEN


def test_a_hundred_callers_get_exactly_the_permitted_probes() -> None:
    """M16 (opossum#276, pyfailsafe#31): half-open, a hundred callers at once: exactly the permitted number goes."""
    breaker = Breaker(POLICY)
    fail(breaker, 1.0, 4)
    assert sum(breaker.acquire(2.9) > 0 for _ in range(100)) == 0
    permits = [permit for _ in range(100) if (permit := breaker.acquire(3.0))]
    assert len(permits) == POLICY.probes
    for permit in permits:
        breaker.settle(permit, 3.1, ok=True, seconds=0.1)
    assert breaker.state is CLOSED


def test_a_cancelled_probe_wedges_nothing() -> None:
    """M16 (opossum#276): probes that are cancelled decide nothing and leave their places to others, any number of times."""
    breaker = Breaker(POLICY)
    fail(breaker, 1.0, 4)
    for _ in range(50):
        permits = [breaker.acquire(3.0) for _ in range(POLICY.probes)]
        assert all(permits)
        assert breaker.acquire(3.0) == 0
        for permit in permits:
            breaker.settle(permit, 3.0, ok=None, seconds=0.1)
    assert breaker.state is HALF_OPEN


def test_a_late_success_from_before_the_trip_does_not_close_it() -> None:
    """M16 (pyfailsafe#31): results of calls that began before the breaker opened change nothing, neither open nor half-open."""
    breaker = Breaker(POLICY)
    early = [breaker.acquire(1.0) for _ in range(10)]
    fail(breaker, 1.0, 4)
    breaker.settle(early[0], 1.5, ok=True, seconds=0.5)
    assert breaker.state is OPEN
    probe = breaker.acquire(3.0)
    for permit in early[1:]:
        breaker.settle(permit, 3.0, ok=True, seconds=2.0)
    assert breaker.state is HALF_OPEN
    assert sum(breaker.acquire(3.0) > 0 for _ in range(10)) == POLICY.probes - 1
    breaker.settle(probe, 3.0, ok=False, seconds=0.1)
    assert breaker.state is OPEN


def test_it_stays_open_longer_each_time_up_to_a_limit() -> None:
    """A callee that fails its probes is tried ever more rarely; once it recovers it starts over."""
    breaker = Breaker(POLICY)
    fail(breaker, 0.0, 4)
    now, periods = 0.0, []
    for _ in range(4):
        wait = breaker.retry_after(now)
        periods.append(wait)
        now += wait
        fail(breaker, now, 1)
    assert periods == [2.0, 4.0, 5.0, 5.0]
    now += 5.0
    for _ in range(POLICY.probes):
        breaker.settle(breaker.acquire(now), now, ok=True, seconds=0.1)
    fail(breaker, now, 4)
    assert breaker.retry_after(now) == 2.0


def test_many_do_not_come_back_in_step() -> None:
    """With chance each stays open a little longer, by up to a tenth, and no two alike."""
    waits = []
    for seed in range(20):
        breaker = Breaker(POLICY, random.Random(seed))
        fail(breaker, 0.0, 4)
        waits.append(breaker.retry_after(0.0))
    assert len(set(waits)) == 20
    assert all(2.0 <= wait <= 2.2 for wait in waits)


def test_isolated_by_hand_it_stays_so() -> None:
    """isolate holds whatever time passes, says when it may be worth asking again, and restore ends it at once."""
    breaker = Breaker(POLICY)
    breaker.isolate()
    assert breaker.isolated
    assert not breaker.permits(1e9)
    assert breaker.retry_after(0.0) == POLICY.open_at_most
    breaker.restore()
    assert breaker.state is CLOSED
    assert breaker.permits(0.0)


def test_tripped_for_slowness_only_a_quick_probe_closes_it() -> None:
    """Its owner may know what is slow for it: such calls open it, and a probe that takes as long again does not close it."""
    breaker = Breaker(POLICY)
    breaker.slow_from = 0.5
    for _ in range(4):
        breaker.settle(breaker.acquire(0.0), 0.0, ok=True, seconds=0.7)
    assert breaker.state is OPEN
    breaker.settle(breaker.acquire(2.0), 2.0, ok=True, seconds=0.6)
    assert breaker.state is OPEN
    now = 2.0 + breaker.retry_after(2.0)
    for _ in range(POLICY.probes):
        breaker.settle(breaker.acquire(now), now, ok=True, seconds=0.1)
    assert breaker.state is CLOSED


def test_another_policy_counts_at_once_and_keeps_the_state() -> None:
    """A live change of policy neither closes an open breaker nor forgets the calls of a window of the same length."""
    breaker = Breaker(POLICY)
    fail(breaker, 1.0, 3)
    breaker.adopt(BreakerPolicy(window=10.0, minimum_calls=3, open_for=1.0))
    fail(breaker, 1.0, 1)
    assert breaker.state is OPEN
    breaker.adopt(BreakerPolicy(window=5.0))
    assert breaker.state is OPEN


@pytest.mark.parametrize(
    "values",
    [
        {"window": 0.0},
        {"window": float("nan")},
        {"minimum_calls": 0},
        {"failure_rate": 0.0},
        {"slow_call": 0.0},
        {"slow_rate": -1.0},
        {"consecutive_failures": -1},
        {"open_for": 0.0},
        {"open_for": 9.0, "open_at_most": 5.0},
        {"open_at_most": float("inf")},
        {"probes": 0},
    ],
)
def test_policies_that_are_none(values: dict[str, Any]) -> None:
    """What can't work is refused when it is made, with what would."""
    with pytest.raises(ConfigurationError, match="not a breaker policy"):
        BreakerPolicy(**values)


@given(
    policy=policies,
    bodies=st.lists(
        st.tuples(st.floats(0, 3), st.lists(st.floats(0, 2), min_size=1, max_size=6), st.booleans()), min_size=1, max_size=20
    ),
)
def test_good_calls_that_end_together_count_like_each_alone(
    policy: BreakerPolicy, bodies: list[tuple[float, list[float], bool]]
) -> None:
    """Settled at once or one after the other, quick or slow, in whatever state: the breaker is the same afterwards."""
    together, apart = Breaker(policy), Breaker(policy)
    now = 100.0
    for pause, seconds, failed in bodies:
        now += pause
        permits = [(together.acquire(now), apart.acquire(now)) for _ in seconds]
        assert all(one == other for one, other in permits)
        given_permits = {one for one, _ in permits if one}
        for permit in given_permits:
            of_it = [each for each, (one, _) in zip(seconds, permits, strict=True) if one == permit]
            together.settle_good(permit, now, of_it)
            for each in of_it:
                apart.settle(permit, now, ok=True, seconds=each)
        if failed:
            for breaker in (together, apart):
                breaker.settle(breaker.acquire(now), now, ok=False, seconds=0.1)
        assert (together.state, together.permits(now)) == (apart.state, apart.permits(now))
        assert together.retry_after(now) == apart.retry_after(now)
