"""What an examination of a broker finds."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass

from fabric.errors import ConnectionLost, FabricError


class Level(enum.StrEnum):
    """``WARN``: works, with a limit or a risk that somebody should know. ``FAIL``: a fleet can't work here as it is."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        check: a stable name for programs, such as ``permissions`` or ``queue``.
        level: how bad it is.
        message: what was found.
        advice: what to do about it; "" where there is nothing to do.
    """

    check: str
    level: Level
    message: str
    advice: str = ""


def ok(check: str, message: str) -> Finding:
    return Finding(check=check, level=Level.OK, message=message)


def warn(check: str, message: str, advice: str) -> Finding:
    return Finding(check=check, level=Level.WARN, message=message, advice=advice)


def fail(check: str, message: str, advice: str) -> Finding:
    return Finding(check=check, level=Level.FAIL, message=message, advice=advice)


def worst(findings: Iterable[Finding]) -> Level:
    order = list(Level)
    return max((finding.level for finding in findings), key=order.index, default=Level.OK)


def not_connected(error: FabricError) -> Finding:
    """``error`` is what connecting raised. The check is ``reach`` when nobody answered, ``connect`` when we were refused."""
    if isinstance(error, ConnectionLost):
        return fail("reach", error.text, "is the broker running, are host and port right, does no firewall drop the link?")
    return fail("connect", error.text, error.advice or _advice(error.text))


def _advice(said: str) -> str:
    if "ACCESS_REFUSED" in said or "authentication" in said.lower():
        return (
            "check user and password; `rabbitmqctl authenticate_user USER` asks the broker itself. The user guest is let in"
            " from the broker's own machine only"
        )
    if "vhost" in said:
        return (
            "check the virtual host, which is the path of the URL: `rabbitmqctl list_vhosts` names those that exist,"
            " `rabbitmqctl list_permissions -p VHOST` who may use one"
        )
    return ""
