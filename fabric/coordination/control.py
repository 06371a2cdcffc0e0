"""What travels on the control lane: commands down, reports up, as plain data in one message each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any, Final

from fabric.errors import InvalidMessage
from fabric.health import HealthStatus
from fabric.startup.events import (
    Command,
    CommandAccepted,
    CommandKind,
    InstanceJoined,
    ServiceFailed,
    ServiceStarted,
    ServiceStopped,
    Vote,
)
from fabric.wire import codec
from fabric.wire.message import MessageType, Priority, ServiceMessage

COMMAND: Final = "fabric.command"
REPORT: Final = "fabric.report"

Report = InstanceJoined | CommandAccepted | ServiceStarted | ServiceFailed | ServiceStopped | Vote

_KINDS: Final[dict[str, Callable[..., Report]]] = {
    "joined": InstanceJoined,
    "accepted": CommandAccepted,
    "started": ServiceStarted,
    "failed": ServiceFailed,
    "stopped": ServiceStopped,
    "vote": Vote,
}
_NAMES: Final = {kind: name for name, kind in _KINDS.items()}


def command_message(command: Command, *, id: str, source: str, instance: str) -> bytes:
    payload = {field.name: getattr(command, field.name) for field in fields(command)}
    payload["kind"] = str(command.kind)
    return codec.encode(
        ServiceMessage(id, MessageType.BROADCAST, source, instance, command.service, COMMAND, payload, Priority.CRITICAL)
    )


def read_command(message: ServiceMessage) -> Command:
    """Raises InvalidMessage: it is not a command."""
    try:
        data = message.payload
        return Command(
            kind=CommandKind(data["kind"]),
            run=str(data["run"]),
            epoch=int(data["epoch"]),
            service=str(data["service"]),
            instance=None if data["instance"] is None else str(data["instance"]),
            attempt=int(data["attempt"]),
            timeout=float(data["timeout"]),
            version=str(data.get("version", "")),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidMessage(f"not a command: {error!r}") from error


def report_message(report: Report, valid_for: float, *, id: str) -> bytes:
    """``valid_for``: seconds that a vote counts. It travels in place of the time of expiry, which another clock would
    misread."""
    payload: dict[str, Any] = {field.name: getattr(report, field.name) for field in fields(report)}
    payload["kind"] = _NAMES[type(report)]
    if isinstance(report, Vote):
        payload["status"] = str(report.status)
        payload["expires_at"] = None
        payload["valid_for"] = valid_for
    return codec.encode(
        ServiceMessage(
            id, MessageType.BROADCAST, report.service, report.instance, "coordinator", REPORT, payload, Priority.CRITICAL
        )
    )


def read_report(message: ServiceMessage, now: float) -> Report:
    """Raises InvalidMessage: it is not a report."""
    try:
        data = dict(message.payload)
        kind = _KINDS[data.pop("kind")]
        if kind is Vote:
            data["status"] = HealthStatus(data["status"])
            data["expires_at"] = now + float(data.pop("valid_for"))
        for name in ("incarnation", "sequence", "epoch"):
            data[name] = int(data[name])
        data["service"], data["instance"] = str(data["service"]), str(data["instance"])
        return kind(**data)
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidMessage(f"not a report: {error!r}") from error
