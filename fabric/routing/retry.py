"""When a failed attempt is followed by another."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from fabric.errors import (
    CallError,
    CallNotSent,
    CircuitOpen,
    ConfigurationError,
    InstanceLost,
    LinkLost,
    NoInstance,
    Overloaded,
    RemoteError,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Exponential back-off with full jitter (M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015).

    Attributes:
        attempts: instances tried for one call, the first included.
        base: seconds; the first pause is between nothing and this. Larger spares a struggling service, smaller saves time.
        factor: by which the bound grows with each attempt.
        ceiling: seconds that the bound never passes.
        budget_ratio: retries allowed for each call, on average over the target; 0.1 bounds the extra load to a tenth.
        budget_burst: retries allowed on top before that bound counts.
    """

    attempts: int = 4
    base: float = 0.05
    factor: float = 2.0
    ceiling: float = 2.0
    budget_ratio: float = 0.1
    budget_burst: float = 10.0

    def __post_init__(self) -> None:
        sound = (
            self.attempts >= 1
            and 0 <= self.base <= self.ceiling < math.inf
            and 1 <= self.factor < math.inf
            and 0 <= self.budget_ratio < math.inf
            and 0 <= self.budget_burst < math.inf
        )
        if not sound:
            raise ConfigurationError(
                f"not a retry policy: {self}; attempts and factor are at least 1, base is at most ceiling, nothing is negative"
            )

    def allows(self, error: CallError, *, idempotent: bool) -> bool:
        """Whether another attempt is right after this outcome: it did not run, or may run twice.

        An instance that turned out to be gone was never tried, so a few more of them are allowed.
        """
        limit = 4 * self.attempts if isinstance(error, NoInstance) else self.attempts
        if error.attempt >= limit or isinstance(error, CircuitOpen):
            return False
        if isinstance(error, (InstanceLost, LinkLost)):
            return idempotent
        if isinstance(error, RemoteError) and error.retried_below:
            return False
        return error.retryable

    def pause(self, error: CallError, source: random.Random) -> float:
        """Seconds before the next attempt: none when it goes elsewhere anyway, at least what an overloaded one asked for."""
        if goes_elsewhere(error):
            return 0.0
        try:
            bound = min(self.ceiling, self.base * self.factor ** (error.attempt - 1))
        except OverflowError:
            bound = self.ceiling
        asked = error.retry_after if isinstance(error, Overloaded) else 0.0
        return asked + source.random() * bound


def goes_elsewhere(error: CallError) -> bool:
    """Whether what failed is out of the running: the next attempt is for others, so it needs no pause."""
    return isinstance(error, (NoInstance, InstanceLost)) or (isinstance(error, Overloaded) and error.draining)


def adds_load(error: CallError) -> bool:
    """Whether another attempt asks more of those that were asked already, which a budget has to pay for. Going elsewhere does
    not, nor does what never reached anybody: the broker refuses a whole body of calls for an inbox that just died."""
    return not (goes_elsewhere(error) or isinstance(error, CallNotSent))
