"""Errors as HTTP answers: problem details (RFC 9457) that say who failed, how, and what to do."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final

from pydantic import ValidationError

from fabric.errors import (
    CallError,
    Cancelled,
    CircuitOpen,
    DeadlineExceeded,
    ExpiredInQueue,
    FabricError,
    Overloaded,
    PayloadTooLarge,
    RemoteError,
    ServiceError,
)
from fabric.values import problems

_STATUS: Final = {
    "todo.not-found": 404,
    "todo.conflict": 409,
    "events.version-conflict": 409,
    "events.command-reused": 409,
    "todo.bad-cursor": 422,
    "todo.no-words": 422,
    "nested.DeadlineExceeded": 504,
    "nested.ExpiredInQueue": 504,
    "nested.NoInstance": 503,
    "nested.CallNotSent": 503,
    "nested.Overloaded": 503,
    "nested.CircuitOpen": 503,
    "nested.InstanceLost": 503,
    "nested.LinkLost": 503,
}

_ADVICE: Final = {
    400: "send a JSON document that fits the description of this path",
    401: "send the header Authorization: Bearer TOKEN with the token that the gateway was started with",
    404: "check the id; it may have been deleted",
    409: "read it again and decide anew, or use a new Idempotency-Key for a new intention",
    413: "send less",
    415: "send application/json",
    422: "correct the fields named in errors",
    429: "wait for Retry-After seconds",
    502: "the log of the service named here has the cause",
    503: "try again after Retry-After seconds; fabric status shows which services run",
    504: "try again with the same Idempotency-Key, or allow more time with X-Request-Timeout",
}


class Refused(Exception):
    """Refused by the gateway itself. ``retry_after`` in seconds."""

    def __init__(self, status: int, detail: str, *, retry_after: float | None = None) -> None:
        super().__init__(detail)
        self.status, self.detail, self.retry_after = status, detail, retry_after


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """An answer that is not what was asked for.

    Attributes:
        status: of HTTP.
        detail: for people.
        code: for programs.
        facts: service, instance, method, attempt, elapsed_ms, errors, as far as there are any.
        retry_after: seconds.
    """

    status: int
    detail: str
    code: str
    facts: dict[str, Any] = field(default_factory=dict)
    retry_after: float | None = None

    @property
    def headers(self) -> dict[str, str]:
        headers = {} if self.retry_after is None else {"Retry-After": str(max(1, math.ceil(self.retry_after)))}
        return {**headers, "WWW-Authenticate": "Bearer"} if self.status == 401 else headers

    @property
    def body(self) -> dict[str, Any]:
        title = HTTPStatus(self.status).phrase
        advice = _ADVICE.get(self.status, "")
        return {"title": title, "status": self.status, "detail": self.detail, "code": self.code, "advice": advice, **self.facts}


def problem_of(error: Exception) -> Problem:
    """What a client is told of ``error``. Of what we did not foresee only that it happened."""
    match error:
        case Refused():
            return Problem(status=error.status, detail=error.detail, code="gateway.refused", retry_after=error.retry_after)
        case ValidationError():
            return Problem(
                status=422, detail="the request does not fit", code="gateway.invalid", facts={"errors": problems(error)}
            )
        case TimeoutError():
            return Problem(status=504, detail="not finished in the time allowed", code="gateway.timeout")
        case CallError():
            return _of_call(error)
        case PayloadTooLarge():
            return Problem(status=413, detail=str(error), code="gateway.too-large")
        case ServiceError():
            status = _STATUS.get(error.code or "", 503 if error.retryable else 502)
            return Problem(status=status, detail=error.message, code=error.code or "gateway.failed", facts=error.details)
        case FabricError():
            return Problem(status=503, detail=str(error), code=f"gateway.{type(error).__name__}", retry_after=1.0)
        case _:
            return Problem(status=500, detail="the gateway itself failed; its log has the cause", code="gateway.bug")


def _of_call(error: CallError) -> Problem:
    facts: dict[str, Any] = {
        "service": error.service,
        "instance": error.instance,
        "method": error.method,
        "attempt": error.attempt,
        "elapsed_ms": round(error.elapsed * 1000, 1),
    }
    match error:
        case RemoteError():
            return _of_handler(error, facts)
        case DeadlineExceeded() | ExpiredInQueue():
            status, retry_after = 504, None
        case Overloaded() | CircuitOpen():
            status, retry_after = 503, error.retry_after or 1.0
        case _ if error.executed is None or error.retryable or isinstance(error, Cancelled):
            status, retry_after = 503, 1.0
        case _:
            # What we sent was checked by the same models: the two sides are of different releases.
            status, retry_after = 502, None
    return Problem(status=status, detail=str(error), code=type(error).__name__, facts=facts, retry_after=retry_after)


def _of_handler(error: RemoteError, facts: dict[str, Any]) -> Problem:
    code = error.code or f"remote.{error.type}"
    status = _STATUS.get(code, 503 if error.retryable else 502)
    if code.startswith("nested."):
        # It was not the one we asked that failed, but one that it asked in turn: that is whom to look at.
        facts = {**facts, "asked": error.service} | {key: error.details.get(key) for key in ("service", "instance", "method")}
    elif status < 500:
        facts["details"] = error.details
    return Problem(status=status, detail=error.remote_reason, code=code, facts=facts, retry_after=1.0 if status == 503 else None)
