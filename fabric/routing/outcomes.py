"""How a call ended, on the wire and as the error that a caller sees."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fabric.errors import (
    CallError,
    Cancelled,
    DeadlineExceeded,
    ExpiredInQueue,
    InstanceLost,
    NotAllowed,
    Overloaded,
    RemoteError,
    ServiceError,
    ValidationFailed,
)


@dataclass(slots=True)
class Facts:
    """What is known of a call while it is under way; every error of it carries them."""

    service: str
    method: str
    started: float
    deadline: float
    instance: str | None = None
    attempt: int = 1

    def at(self, now: float) -> dict[str, Any]:
        return {
            "service": self.service,
            "method": self.method,
            "instance": self.instance,
            "attempt": self.attempt,
            "elapsed": now - self.started,
            "remaining": max(0.0, self.deadline - now),
        }


def overloaded(reason: str, retry_after: float = 0.0) -> dict[str, Any]:
    return {"kind": "overloaded", "message": reason, "retry_after": retry_after}


def draining(reason: str) -> dict[str, Any]:
    """It takes no calls at all: another instance may be asked at once."""
    return {"kind": "draining", "message": reason}


def expired() -> dict[str, Any]:
    """The deadline passed before it ran."""
    return {"kind": "expired", "message": ""}


def late() -> dict[str, Any]:
    """The deadline passed while it ran."""
    return {"kind": "late", "message": "the handler was stopped at the deadline"}


def stopped() -> dict[str, Any]:
    """The instance went away while it ran."""
    return {"kind": "stopped", "message": "it shut down before the handler had ended"}


def cancelled(reason: str) -> dict[str, Any]:
    return {"kind": "cancelled", "message": reason}


def not_allowed(reason: str) -> dict[str, Any]:
    return {"kind": "not-allowed", "message": reason}


def invalid(reason: str, errors: list[dict[str, Any]]) -> dict[str, Any]:
    """The arguments do not fit."""
    return {"kind": "invalid", "message": reason, "errors": errors}


def invalid_result(reason: str, errors: list[dict[str, Any]]) -> dict[str, Any]:
    """It ran, and what it returned does not fit."""
    return {"kind": "invalid-result", "message": reason, "errors": errors}


def no_method(reason: str) -> dict[str, Any]:
    return {"kind": "no-method", "message": reason}


def failed(error: BaseException) -> dict[str, Any]:
    """The wire form of what a handler raised. Of our own call errors the outcome of the nested call is kept as details."""
    if isinstance(error, ServiceError):
        return {
            "kind": "failed",
            "type": type(error).__name__,
            "message": error.message,
            "code": error.code,
            "retryable": error.retryable,
            "expected": not error.retryable,
            "retried_below": error.retryable and _was_retried(error),
            "details": error.details,
        }
    details: dict[str, Any] = {}
    code: str | None = None
    if isinstance(error, CallError):
        code = f"nested.{type(error).__name__}"
        details = {"service": error.service, "method": error.method, "instance": error.instance}
    return {"kind": "failed", "type": type(error).__name__, "message": _said(error), "code": code, "details": details}


def _was_retried(error: BaseException) -> bool:
    """Whether it comes of a call of the handler's own that was tried again, or could not be any more."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        if isinstance(cause, RemoteError) and cause.retried_below:
            return True
        if isinstance(cause, CallError) and cause.retryable:
            return True
        seen.add(id(cause))
        cause = cause.__cause__ or cause.__context__
    return False


def _said(error: BaseException) -> str:
    try:
        return str(error)[:2000]
    except Exception:  # its __str__ is code of a handler's, and this is the last place that can still answer
        return "(its text can't be read)"


def outcome(error: Mapping[str, Any], facts: Mapping[str, Any]) -> CallError:
    """The error that the caller sees for the wire form. An unknown kind counts as a failure of the handler."""
    message = str(error.get("message", ""))
    match error.get("kind"):
        case "overloaded":
            return Overloaded(message, retry_after=_seconds(error.get("retry_after")), **facts)
        case "draining":
            return Overloaded(message, draining=True, **facts)
        case "expired":
            return ExpiredInQueue(message, **facts)
        case "late":
            return DeadlineExceeded(message, **facts)
        case "stopped":
            return InstanceLost(message, **facts)
        case "cancelled":
            return Cancelled(message, **facts)
        case "not-allowed":
            return NotAllowed(message, **facts)
        case "invalid" | "invalid-result" as kind:
            errors = error.get("errors")
            known = [item for item in errors if isinstance(item, dict)] if isinstance(errors, list) else []
            return ValidationFailed(message, errors=known, executed=kind == "invalid-result", **facts)
        case "no-method":
            return ValidationFailed(message, **facts)
        case _:
            code, details = error.get("code"), error.get("details")
            return RemoteError(
                message,
                type=str(error.get("type", "Exception")),
                code=code if isinstance(code, str) else None,
                retryable=error.get("retryable") is True,
                details=details if isinstance(details, dict) else {},
                expected=error.get("expected") is True,
                retried_below=error.get("retried_below") is True,
                **facts,
            )


def speaks_well(error: CallError) -> bool | None:
    """What an outcome says of the service that was called: that it works, that it does not, or (None) nothing at all.

    A refusal on purpose comes from a service that works. One instance that is gone says nothing of the others.
    """
    match error:
        case RemoteError():
            return error.expected
        case ValidationFailed() | NotAllowed():
            return error.executed is False
        case DeadlineExceeded() | ExpiredInQueue():
            return False
        case Overloaded():
            return None if error.draining else False
        case _:
            return None


def _seconds(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) and 0 <= value < 3600 else 0.0
