"""How many retries a hub may afford."""

from __future__ import annotations

from fabric.routing.retry import RetryPolicy

_CRUMBS = 1e-9
"""What ten times a tenth lacks of one."""


class RetryBudget:
    """Each call adds a fraction of a retry, each retry takes one (as Finagle's RetryBudget, without its time window)."""

    __slots__ = ("_ceiling", "_ratio", "_tokens")

    def __init__(self, policy: RetryPolicy) -> None:
        self._ratio = policy.budget_ratio
        self._tokens = policy.budget_burst
        self._ceiling = max(policy.budget_burst, 1.0)  # below 1 no retry could ever be saved up for

    def deposit(self) -> None:
        if self._tokens < self._ceiling:
            self._tokens = min(self._ceiling, self._tokens + self._ratio)

    def withdraw(self) -> bool:
        if self._tokens < 1.0 - _CRUMBS:
            return False
        self._tokens -= 1.0
        return True
