"""How a call ended crosses the bus and is the same error on the other side."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabric import errors
from fabric.errors import (
    CallError,
    Cancelled,
    DeadlineExceeded,
    ExpiredInQueue,
    FabricError,
    InstanceLost,
    NotAllowed,
    Overloaded,
    PayloadTooLarge,
    RemoteError,
    ServiceError,
    ValidationFailed,
)
from fabric.routing import outcomes
from fabric.routing.outcomes import Facts, outcome
from fabric.wire.codec import JSON, decode, encode, encode_json
from fabric.wire.message import MessageType
from tests.unit.wire.messages import TEXT, plain, request, unhurried

FACTS = Facts("email-service", "send_email", started=100.0, deadline=110.0, instance="email-1", attempt=3)


def arrived(error: dict[str, Any]) -> CallError:
    """What the caller sees, with both codecs in between."""
    message = request(type=MessageType.RESPONSE, error=error)
    by_msgpack = decode(encode(message)).error
    by_json = decode(encode_json(message), JSON).error
    assert by_msgpack == by_json
    assert by_msgpack is not None
    return outcome(by_msgpack, FACTS.at(102.5))


PROBLEM = {"loc": ["to"], "msg": "Field required", "type": "missing"}
KINDS: list[tuple[dict[str, Any], type[CallError], dict[str, Any]]] = [
    (outcomes.overloaded("queue full", 1.5), Overloaded, {"retry_after": 1.5, "draining": False, "executed": False}),
    (outcomes.draining("it is going away"), Overloaded, {"retry_after": 0.0, "draining": True, "executed": False}),
    (outcomes.expired(), ExpiredInQueue, {"executed": False}),
    (outcomes.late(), DeadlineExceeded, {"executed": None}),
    (outcomes.stopped(), InstanceLost, {"executed": None}),
    (outcomes.cancelled("told to"), Cancelled, {"executed": None, "retryable": False}),
    (outcomes.not_allowed("not for 'x'"), NotAllowed, {"executed": False, "retryable": False}),
    (outcomes.invalid("no", [PROBLEM]), ValidationFailed, {"errors": (PROBLEM,), "executed": False, "retryable": False}),
    (outcomes.invalid_result("no", [PROBLEM]), ValidationFailed, {"errors": (PROBLEM,), "executed": True, "retryable": False}),
    (outcomes.no_method("no method 'x'"), ValidationFailed, {"errors": (), "executed": False, "retryable": False}),
    (
        outcomes.failed(ServiceError("no such todo", code="todo.not-found", retryable=True, details={"id": 7})),
        RemoteError,
        {"type": "ServiceError", "code": "todo.not-found", "retryable": True, "details": {"id": 7}, "executed": True},
    ),
    (
        outcomes.failed(KeyError("x")),
        RemoteError,
        {"type": "KeyError", "code": None, "retryable": False, "details": {}, "remote_reason": "'x'"},
    ),
    (
        outcomes.failed(PayloadTooLarge(10, 5)),
        RemoteError,
        {"type": "PayloadTooLarge", "code": None, "retryable": False, "executed": True},
    ),
]


@pytest.mark.parametrize(("wire", "kind", "attributes"), KINDS)
def test_each_kind_arrives(wire: dict[str, Any], kind: type[CallError], attributes: dict[str, Any]) -> None:
    """Every kind of end comes out as its class, with its own attributes and the facts of the call."""
    error = arrived(wire)
    assert type(error) is kind
    assert {name: getattr(error, name) for name in attributes} == attributes
    assert (error.service, error.method, error.instance, error.attempt) == ("email-service", "send_email", "email-1", 3)
    assert (error.elapsed, error.remaining) == (2.5, 7.5)
    assert "email-service.send_email on email-1" in str(error)
    assert "[attempt 3, 2500 ms]" in str(error)
    if wire["message"]:
        assert wire["message"] in str(error)


def test_every_function_of_the_module_is_tried_above() -> None:
    """A kind that is added here has to be added to the list."""
    made = {wire["kind"] for wire, _, _ in KINDS}
    assert made == {"overloaded", "draining", "expired", "late", "stopped", "cancelled", "not-allowed", "invalid", "invalid-result", "no-method", "failed"}  # noqa: E501  # fmt: skip


def test_the_outcome_of_a_nested_call_is_kept() -> None:
    """M20 (MassTransit#6158): a handler whose own call failed tells which, and the caller can tell it from its own call."""
    nested = DeadlineExceeded("slow", service="database", method="read", instance="db-1")
    error = arrived(outcomes.failed(nested))
    assert isinstance(error, RemoteError)
    assert (error.type, error.code) == ("DeadlineExceeded", "nested.DeadlineExceeded")
    assert error.details == {"service": "database", "method": "read", "instance": "db-1"}
    assert (error.service, error.method) == ("email-service", "send_email")
    assert not error.retryable, "what the nested call allows says nothing about this one"


def test_a_subclass_of_service_error_keeps_its_name() -> None:
    """Teams may make their own classes; the name is what the caller sees."""

    class TodoNotFound(ServiceError):
        pass

    error = arrived(outcomes.failed(TodoNotFound("7")))
    assert isinstance(error, RemoteError)
    assert error.type == "TodoNotFound"
    assert "TodoNotFound: 7" in str(error)


class BadText(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class NoText(Exception):
    def __str__(self) -> str:
        return None  # type: ignore[return-value]


@pytest.mark.parametrize("error", [BadText(), NoText(), Exception(), Exception("x" * 100_000), Exception("\n\x00\x1b[2J")])
def test_errors_of_any_sort_can_be_told(error: Exception) -> None:
    """M31 (dramatiq#848): an exception without a readable text, or with an endless one, is still an answer."""
    wire = outcomes.failed(error)
    assert len(wire["message"]) <= 2000
    assert isinstance(arrived(wire), RemoteError)


@unhurried
@given(
    st.dictionaries(
        st.sampled_from(["kind", "message", "type", "code", "details", "errors", "retry_after", "retryable", "x"]),
        plain(binary=True)
        | st.floats()
        | st.sampled_from(["overloaded", "draining", "expired", "late", "stopped", "cancelled", "not-allowed", "invalid", "invalid-result", "no-method", "failed"]),  # noqa: E501
    )
)  # fmt: skip
def test_any_answer_is_an_outcome(wire: dict[str, Any]) -> None:
    """M31 (dramatiq#848): whatever a hostile or newer callee answers, the caller gets a CallError that can be read."""
    error = outcome(wire, FACTS.at(101.0))
    assert isinstance(error, CallError)
    assert str(error)
    assert error.retryable in (True, False)
    if isinstance(error, Overloaded):
        assert 0 <= error.retry_after < 3600
    if isinstance(error, ValidationFailed):
        assert all(isinstance(item, dict) for item in error.errors)
    if isinstance(error, RemoteError):
        assert error.code is None or isinstance(error.code, str)
        assert isinstance(error.details, dict)


def test_an_unknown_kind_is_a_failure_of_the_handler() -> None:
    """What a newer Fabric may answer counts as having run, so that nothing is repeated by mistake."""
    error = arrived({"kind": "sublimated", "message": "gone"})
    assert type(error) is RemoteError
    assert error.executed is True
    assert not error.retryable


@given(TEXT, st.none() | TEXT, st.booleans(), st.dictionaries(TEXT, plain(binary=False), max_size=3))
def test_a_service_error_arrives_whole(message: str, code: str | None, retryable: bool, details: dict[str, Any]) -> None:
    """Text, code, details and the permission to retry arrive as they were raised."""
    error = arrived(outcomes.failed(ServiceError(message, code=code, retryable=retryable, details=details)))
    assert isinstance(error, RemoteError)
    assert (error.remote_reason, error.code, error.retryable, error.details) == (message, code, retryable, details)


def test_facts_never_go_below_nothing() -> None:
    """After the deadline nothing is left; elapsed time goes on."""
    assert FACTS.at(250.0) == {
        "service": "email-service",
        "method": "send_email",
        "instance": "email-1",
        "attempt": 3,
        "elapsed": 150.0,
        "remaining": 0.0,
    }


def test_the_wire_form_is_plain() -> None:
    """Each form can be written by a service in another language."""
    for wire, _, _ in KINDS:
        assert json.loads(json.dumps(wire)) == wire


def test_every_call_error_is_reachable_or_local() -> None:
    """Outcomes that only the caller's own side can know are never made from an answer."""
    from_wire = {kind for _, kind, _ in KINDS}
    local = {errors.NoInstance, errors.CallNotSent, errors.CircuitOpen, errors.LinkLost}
    assert from_wire | local == set(CallError.__subclasses__())
    assert issubclass(CallError, FabricError)
