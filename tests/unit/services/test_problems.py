"""Errors as HTTP answers: each has its status, names who failed, and says what to do."""

from __future__ import annotations

from typing import Any

import pytest

from fabric.errors import (
    CallError,
    CallNotSent,
    Cancelled,
    CircuitOpen,
    DeadlineExceeded,
    ExpiredInQueue,
    InstanceLost,
    LinkLost,
    NoInstance,
    NotSent,
    Overloaded,
    PayloadTooLarge,
    RemoteError,
    ServiceError,
    ValidationFailed,
)
from services.todo.operations import TodoPatch
from services.todo.problems import Refused, problem_of

FACTS: dict[str, Any] = {"service": "cqrs-coordinator", "method": "create_todo", "instance": "cqrs-1", "elapsed": 0.25}


def _remote(code: str | None, *, retryable: bool = False, details: dict[str, Any] | None = None) -> RemoteError:
    return RemoteError("because", type="ServiceError", code=code, retryable=retryable, details=details, **FACTS)


@pytest.mark.parametrize(
    ("error", "status", "retry_after"),
    [
        (_remote("todo.not-found"), 404, None),
        (_remote("todo.conflict"), 409, None),
        (_remote("events.command-reused"), 409, None),
        (_remote("todo.bad-cursor"), 422, None),
        (_remote("todo.busy", retryable=True), 503, "1"),
        (_remote("nested.NoInstance"), 503, "1"),
        (_remote("nested.DeadlineExceeded"), 504, None),
        (_remote(None), 502, None),
        (NoInstance(**FACTS), 503, "1"),
        (CallNotSent(**FACTS), 503, "1"),
        (InstanceLost(**FACTS), 503, "1"),
        (LinkLost(**FACTS), 503, "1"),
        (Cancelled(**FACTS), 503, "1"),
        (Overloaded(retry_after=2.2, **FACTS), 503, "3"),
        (CircuitOpen(retry_after=7.0, **FACTS), 503, "7"),
        (ExpiredInQueue(**FACTS), 504, None),
        (DeadlineExceeded(**FACTS), 504, None),
        (ValidationFailed(**FACTS), 502, None),
        (PayloadTooLarge(10, 5), 413, None),
        (NotSent("the link is down"), 503, "1"),
        (ServiceError("no", code="todo.not-found"), 404, None),
        (TimeoutError(), 504, None),
        (Refused(429, "too many", retry_after=12.0), 429, "12"),
        (RuntimeError("a secret"), 500, None),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
def test_each_error_has_its_status(error: Exception, status: int, retry_after: str | None) -> None:
    """The status says whose fault it is; where trying again helps there is a Retry-After; every body says what to do."""
    problem = problem_of(error)
    assert (problem.status, problem.headers.get("Retry-After")) == (status, retry_after)
    assert problem.body["title"]
    if status != 500:
        assert problem.body["advice"]


def test_every_outcome_of_a_call_is_mapped() -> None:
    """No class of call error falls through to a fault of the gateway itself."""

    def classes(root: type[CallError]) -> list[type[CallError]]:
        return [root, *(found for child in root.__subclasses__() for found in classes(child))]

    assert {problem_of(kind("", **FACTS)).status for kind in classes(CallError)} <= {502, 503, 504}


def test_the_body_names_who_failed() -> None:
    """Service, instance, method, attempt and time of the call; of a call further down the one that failed there."""
    body = problem_of(DeadlineExceeded(**FACTS)).body
    assert (body["service"], body["instance"], body["method"], body["elapsed_ms"]) == (
        "cqrs-coordinator", "cqrs-1", "create_todo", 250.0
    )  # fmt: skip
    nested = _remote("nested.NoInstance", details={"service": "prisma-service", "method": "append_events", "instance": None})
    body = problem_of(nested).body
    assert (body["service"], body["method"], body["asked"]) == ("prisma-service", "append_events", "cqrs-coordinator")


def test_nothing_of_what_was_not_foreseen_is_told() -> None:
    """The text of an error of our own code may hold anything; the client gets none of it."""
    assert "secret" not in str(problem_of(RuntimeError("a secret")).body)


def test_what_does_not_fit_is_named_without_its_value() -> None:
    """The fields and the rules they break, never what was in them."""
    with pytest.raises(ValueError) as raised:
        TodoPatch.model_validate({"title": "x" * 300, "password": "hunter2"})
    problem = problem_of(raised.value)
    assert problem.status == 422
    assert {error["loc"][0] for error in problem.body["errors"]} == {"title", "password"}
    assert "hunter2" not in str(problem.body)
