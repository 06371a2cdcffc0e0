"""When a failed attempt is followed by another, and what that may cost."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabric import errors
from fabric.errors import CallError, ConfigurationError
from fabric.routing.retry import RetryPolicy, adds_load, goes_elsewhere
from fabric.routing.retry_budget import RetryBudget
from tests.unit.wire.messages import unhurried


def failed(kind: str, attempt: int = 1, **facts: Any) -> CallError:
    """The error of that class name at that attempt."""
    made = getattr(errors, kind)("", service="a", method="m", instance="a-1", attempt=attempt, **facts)
    assert isinstance(made, CallError)
    return made


ALWAYS = ("NoInstance", "CallNotSent", "ExpiredInQueue", "Overloaded")
IF_IDEMPOTENT = ("InstanceLost", "LinkLost")
NEVER = ("CircuitOpen", "NotAllowed", "ValidationFailed", "Cancelled", "DeadlineExceeded", "RemoteError")


@pytest.mark.parametrize("kind", ALWAYS)
def test_what_did_not_run_is_tried_again(kind: str) -> None:
    """M7 (celery#4671): what provably did not run is repeated, whatever the method says of itself."""
    for idempotent in (True, False):
        assert RetryPolicy().allows(failed(kind), idempotent=idempotent)


@pytest.mark.parametrize("kind", IF_IDEMPOTENT)
def test_what_may_have_run_is_tried_again_if_it_may_run_twice(kind: str) -> None:
    """M7 (celery#4671): what may have run is repeated only for idempotent methods."""
    assert RetryPolicy().allows(failed(kind), idempotent=True)
    assert not RetryPolicy().allows(failed(kind), idempotent=False)


@pytest.mark.parametrize("kind", NEVER)
def test_what_would_fail_again_is_not_tried(kind: str) -> None:
    """A broken contract, a cancelled call, an open circuit and the handler's own error are final, idempotent or not."""
    for idempotent in (True, False):
        assert not RetryPolicy().allows(failed(kind), idempotent=idempotent)


def test_every_outcome_has_its_rule() -> None:
    """No class of outcome is left to chance when one is added."""
    assert {*ALWAYS, *IF_IDEMPOTENT, *NEVER} == {kind.__name__ for kind in CallError.__subclasses__()}


def test_a_handler_may_ask_for_another_attempt() -> None:
    """A service that says that its error is passing is asked again."""
    assert RetryPolicy().allows(failed("RemoteError", retryable=True), idempotent=False)


@given(st.integers(1, 20), st.integers(1, 100))
def test_attempts_are_bounded(attempts: int, attempt: int) -> None:
    """There are never more attempts than the policy says; instances that were gone do not count fully."""
    policy = RetryPolicy(attempts=attempts)
    assert policy.allows(failed("Overloaded", attempt), idempotent=True) == (attempt < attempts)
    assert policy.allows(failed("NoInstance", attempt), idempotent=True) == (attempt < 4 * attempts)


@unhurried
@given(
    st.floats(0, 10), st.floats(1, 10), st.floats(0, 100), st.integers(1, 10_000), st.integers(0, 2**32),
)  # fmt: skip
def test_pauses_stay_below_the_bound(base: float, factor: float, above: float, attempt: int, seed: int) -> None:
    """A pause is between nothing and the bound of its attempt, never over the ceiling, however many attempts there were."""
    policy = RetryPolicy(attempts=20_000, base=base, factor=factor, ceiling=base + above)
    pause = policy.pause(failed("CallNotSent", attempt), random.Random(seed))
    assert 0 <= pause <= policy.ceiling
    if attempt == 1:
        assert pause <= base


def test_pauses_are_spread_over_all_of_it() -> None:
    """Full jitter: the pauses of many callers lie anywhere below the bound, so that they do not come back together."""
    policy, chance = RetryPolicy(base=1.0, ceiling=8.0), random.Random(1)
    for attempt, bound in ((1, 1.0), (2, 2.0), (3, 4.0), (4, 8.0), (5, 8.0)):
        pauses = [policy.pause(failed("CallNotSent", attempt), chance) for _ in range(4000)]
        assert 0.48 * bound < sum(pauses) / len(pauses) < 0.52 * bound
        assert min(pauses) < 0.01 * bound
        assert max(pauses) > 0.99 * bound


def test_an_overloaded_instance_gets_the_time_it_asked_for() -> None:
    """The pause is at least what the refusal named, and spread behind it."""
    policy, chance = RetryPolicy(base=0.1), random.Random(1)
    pauses = [policy.pause(failed("Overloaded", retry_after=3.0), chance) for _ in range(100)]
    assert min(pauses) >= 3.0
    assert max(pauses) <= 3.1
    assert len(set(pauses)) == 100


@pytest.mark.parametrize(
    ("error", "elsewhere", "costs"),
    [
        (failed("NoInstance"), True, False),
        (failed("InstanceLost"), True, False),
        (failed("Overloaded", draining=True), True, False),
        (failed("Overloaded"), False, True),
        (failed("CallNotSent"), False, False),
        (failed("LinkLost"), False, True),
        (failed("ExpiredInQueue"), False, True),
        (failed("RemoteError", retryable=True), False, True),
    ],
)
def test_no_pause_for_those_that_are_gone(error: CallError, elsewhere: bool, costs: bool) -> None:
    """M7 (moleculer#399): an instance that is gone or going is left at once; one that is there gets its pause. The budget pays
    for what was asked of somebody, not for what never reached anybody."""
    assert goes_elsewhere(error) == elsewhere
    assert (RetryPolicy(base=1.0).pause(error, random.Random(1)) == 0.0) == elsewhere
    assert adds_load(error) == costs


@pytest.mark.parametrize(
    "values",
    [
        {"attempts": 0}, {"base": -0.1}, {"factor": 0.9}, {"ceiling": 0.01}, {"base": 3.0}, {"budget_ratio": -0.1},
        {"budget_burst": -1.0}, {"base": float("nan")}, {"factor": float("nan")}, {"ceiling": float("inf")},
        {"budget_ratio": float("nan")}, {"budget_burst": float("inf")}, {"factor": float("inf")},
    ],
)  # fmt: skip
def test_policies_that_are_none(values: dict[str, Any]) -> None:
    """Negative, infinite and contradictory values are a mistake of configuration."""
    with pytest.raises(ConfigurationError, match="not a retry policy"):
        RetryPolicy(**values)


@unhurried
@given(
    st.sampled_from([0.0, 0.125, 0.25, 0.5, 1.0]),
    st.integers(0, 20),
    st.lists(st.booleans(), max_size=300),
)
def test_the_budget_against_a_model(ratio: float, burst: int, steps: list[bool]) -> None:
    """A call deposits a part of a retry, a retry takes one, and no more than the burst is ever saved up."""
    budget = RetryBudget(RetryPolicy(budget_ratio=ratio, budget_burst=burst))
    tokens = float(burst)
    for is_retry in steps:
        if is_retry:
            assert budget.withdraw() == (tokens >= 1)
            tokens -= tokens >= 1
        else:
            budget.deposit()
            tokens = min(max(burst, 1), tokens + ratio)


@given(st.integers(0, 30), st.sampled_from([0.1, 0.2, 0.5]), st.integers(1, 2000))
def test_the_load_of_retries_is_bounded(burst: int, ratio: float, calls: int) -> None:
    """M18 (moleculer#495): when every call fails and wants many retries, they are no more than burst and ratio allow."""
    budget = RetryBudget(RetryPolicy(budget_ratio=ratio, budget_burst=burst))
    retries = 0
    for _ in range(calls):
        budget.deposit()
        while budget.withdraw():
            retries += 1
    assert retries <= burst + calls * ratio + 1e-6
    assert retries >= int(calls * ratio + 1e-6), "and the part that is allowed is not withheld"


def test_a_budget_without_burst_is_still_a_budget() -> None:
    """Without a burst a retry has to be saved up first, and then is to be had."""
    budget = RetryBudget(RetryPolicy(budget_ratio=0.25, budget_burst=0))
    assert not budget.withdraw()
    for _ in range(100):
        budget.deposit()
    assert budget.withdraw()
    assert not budget.withdraw()
