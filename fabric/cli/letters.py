"""Dead letters as facts and as lines of text: whatever a stranger put into one, what is shown of it is short and harmless."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from fabric.errors import InvalidMessage
from fabric.transports.base import DeadLetter
from fabric.wire import codec

_REASON_WIDTH = 100
_HEAD_BYTES = 48


def printable(text: str) -> str:
    """``text`` on one line and without anything that a terminal would obey."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def facts(letter: DeadLetter, *, most: int) -> dict[str, Any]:
    """One letter as plain data for JSON.

    Args:
        most: characters of its payload's JSON; of a longer one only the beginning is shown, as ``payload_cut``.
    """
    return {
        "id": letter.id,
        "queue": letter.queue,
        "topic": letter.key,
        "died_at": _time(letter.died_at),
        "reason": letter.reason,
        "attempts": letter.attempts,
        "history": [_failure(entry) for entry in letter.history],
        "bytes": len(letter.body),
        "content_type": letter.content_type,
        "headers": _readable(dict(letter.headers)),
        **_content(letter, most),
    }


def _failure(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "at": _time(entry.get("at")),
        "reason": str(entry.get("reason", "")),
        "instance": str(entry.get("instance", "")),
    }


def _content(letter: DeadLetter, most: int) -> dict[str, Any]:
    try:
        message = codec.decode(letter.body, letter.content_type)
    except InvalidMessage as error:
        return {"problem": error.reason, "begins_with": letter.body[:_HEAD_BYTES].hex(" ")}
    payload = _readable(message.payload)
    text = json.dumps(payload, ensure_ascii=False)
    shown = {"payload": payload} if len(text) <= most else {"payload_cut": text[:most], "payload_characters": len(text)}
    return {
        "message": {
            "id": message.id,
            "from": message.source,
            "instance": message.instance,
            "priority": message.priority.name.lower(),
            "headers": _readable(message.headers or {}),
        },
        **shown,
    }


def _readable(value: Any) -> Any:
    """What JSON has no word for, in words."""
    match value:
        case dict():
            return {str(key): _readable(item) for key, item in value.items()}
        case list() | tuple():
            return [_readable(item) for item in value]
        case bytes():
            return f"{len(value)} bytes: {value[:_HEAD_BYTES].hex(' ')}"
        case float() if not math.isfinite(value):
            return str(value)
        case None | bool() | int() | float() | str():
            return value
        case _:
            return str(value)


def _time(seconds: object) -> str | None:
    """UTC, or None for what is no time."""
    if not isinstance(seconds, int | float):
        return None
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
    except (OverflowError, ValueError, OSError):
        return None


def table(letters: Iterable[DeadLetter]) -> list[str]:
    """One line each under a line of headings."""
    rows = [("ID", "DIED", "ATTEMPTS", "TOPIC", "REASON")]
    for letter in letters:
        reason = printable(letter.reason)
        cut = reason if len(reason) <= _REASON_WIDTH else reason[: _REASON_WIDTH - 1] + "…"
        died = (_time(letter.died_at) or "?")[:19]
        rows.append((printable(letter.id), died, str(letter.attempts), printable(letter.key), cut))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return ["  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[4]]) for row in rows]


def page(letter: DeadLetter, *, most: int) -> list[str]:
    """All that is known of one letter, in lines."""
    known = facts(letter, most=most)
    lines = [
        f"dead letter {printable(letter.id)}",
        f"  topic     {printable(letter.key)}",
        f"  queue     {printable(letter.queue)}",
        f"  died      {known['died_at'] or 'unknown'}",
        f"  attempts  {letter.attempts}",
        f"  reason    {printable(letter.reason)}",
    ]
    for number, entry in enumerate(known["history"], start=1):
        heading = "history " if number == 1 else "        "
        lines.append(f"  {heading}  {entry['at'] or '?'}  {printable(entry['instance'])}: {printable(entry['reason'])}")
    if known["headers"]:
        lines.append(f"  headers   {_text(known['headers'])}")
    if "problem" in known:
        lines.append(f"  body      {len(letter.body)} bytes of {printable(letter.content_type) or 'no type'}: {known['problem']}")
        return [*lines, f"            {known['begins_with']}"]
    message = known["message"]
    sender = f"{printable(message['from'])} ({printable(message['instance'])})"
    lines.append(f"  message   {printable(message['id'])} from {sender}, {message['priority']}, {len(letter.body)} bytes")
    if "payload" in known:
        return [*lines, f"  payload   {_text(known['payload'])}"]
    rest = known["payload_characters"] - most
    return [*lines, f"  payload   {printable(known['payload_cut'])}… and {rest} more characters"]


def _text(value: Any) -> str:
    return printable(json.dumps(value, ensure_ascii=False))
