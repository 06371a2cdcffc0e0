"""Dead letters as text: everything that helps, and nothing that harms."""

from __future__ import annotations

import json
from typing import Any

from fabric.cli.letters import facts, page, printable, table
from fabric.transports.base import DeadLetter
from fabric.wire import codec
from fabric.wire.message import MessageType, Priority, ServiceMessage
from tests.unit.cli.conftest import Cli


def event(payload: Any) -> bytes:
    return codec.encode(
        ServiceMessage("e1", MessageType.EVENT, "shop", "shop-1", "todo.made", "todo.made", payload, Priority.HIGH)
    )


def letter(body: bytes = b"", **changes: Any) -> DeadLetter:
    known: dict[str, Any] = {
        "id": "d1",
        "queue": "fabric.events.mailer.default",
        "exchange": "fabric.events",
        "key": "todo.made",
        "body": body,
        "content_type": codec.MSGPACK,
        "reason": "ValueError: no",
        "attempts": 3,
        "died_at": 0.5,
        "history": ({"at": 0.25, "reason": "ValueError: no", "instance": "mailer-1"},),
    }
    return DeadLetter(**(known | changes))


def test_the_facts_of_a_letter() -> None:
    """Programs get reason, attempts, history, who sent it and what it holds, and values that JSON has no word for in words."""
    known = facts(letter(event({"raw": b"\x00\xff", "odd": float("nan"), "text": "hi"})), most=1000)
    assert (known["topic"], known["attempts"], known["reason"]) == ("todo.made", 3, "ValueError: no")
    assert known["died_at"] == "1970-01-01T00:00:00.500+00:00"
    assert known["history"] == [{"at": "1970-01-01T00:00:00.250+00:00", "reason": "ValueError: no", "instance": "mailer-1"}]
    assert known["message"] == {"id": "e1", "from": "shop", "instance": "shop-1", "priority": "high", "headers": {}}
    assert known["payload"] == {"raw": "2 bytes: 00 ff", "odd": "nan", "text": "hi"}
    json.dumps(known, allow_nan=False)


def test_a_long_payload_is_cut() -> None:
    """Of a large payload only the beginning is shown, and how much there is."""
    known = facts(letter(event("x" * 5000)), most=10)
    assert known["payload_cut"] == '"' + "x" * 9
    assert known["payload_characters"] == 5002
    assert "payload" not in known
    assert page(letter(event("x" * 5000)), most=10)[-1].endswith('"xxxxxxxxx… and 4992 more characters')


def test_what_is_no_message() -> None:
    """M31: a body that is no message of ours is told as such, with its first bytes and nothing more of it."""
    known = facts(letter(b"\x80\x04\x95" + b"R" * 100_000), most=1000)
    assert known["problem"].startswith("not msgpack")
    assert known["begins_with"].startswith("80 04 95 52")
    assert len(json.dumps(known)) < 1500
    assert any("100003 bytes" in line for line in page(letter(b"\x80\x04\x95" + b"R" * 100_000), most=1000))


def test_nothing_that_a_terminal_would_obey() -> None:
    """Reasons, topics and payloads of strangers can't move the cursor, hide text or add lines."""
    hostile = "\x1b[2J\x9b31mred\u202egnp\r\nforged line"
    bad = letter(
        event({"a": hostile}), key=hostile, reason=hostile, id=hostile, history=({"reason": hostile, "instance": hostile},)
    )
    for line in [*table([bad]), *page(bad, most=1000)]:
        assert line.isprintable()
    assert printable("grün ✓ [bold]") == "grün ✓ [bold]"


def test_what_strangers_noted_as_history() -> None:
    """A history with values of any kind is shown as far as it makes sense."""
    odd = letter(died_at=1e300, history=({"at": "yesterday", "reason": None, "instance": 7}, {}))
    known = facts(odd, most=10)
    assert known["died_at"] is None
    assert known["history"][0] == {"at": None, "reason": "None", "instance": "7"}
    assert len(page(odd, most=10)) > 5


def test_a_table_has_one_line_for_each() -> None:
    """The list shows one line a letter, long reasons cut."""
    heading, first, second = table([letter(), letter(id="d2", reason="r" * 300, attempts=12)])
    assert heading.split() == ["ID", "DIED", "ATTEMPTS", "TOPIC", "REASON"]
    assert first.split()[:4] == ["d1", "1970-01-01T00:00:00", "3", "todo.made"]
    assert second.endswith("r…")
    assert len(second) < 160


def test_one_or_all_has_to_be_said(cli: Cli) -> None:
    """Replay and discard act on one letter or on all, and never on a guess."""
    for arguments in (
        ("replay", "mailer"),
        ("discard", "mailer"),
        ("show", "mailer"),
        ("discard", "mailer", "--id", "x", "--all"),
    ):
        ran = cli("dead-letters", *arguments, "--broker-url", "unix:///nowhere")
        assert ran.code == 2
        assert "--all" in ran.err


def test_a_name_that_can_be_none(cli: Cli) -> None:
    """A service or group that can't exist is refused before anything is connected."""
    ran = cli("dead-letters", "list", "no.such", "--broker-url", "unix:///nowhere")
    assert ran.code == 2
    assert "use 1 to 100 letters" in " ".join(ran.err.replace("│", " ").split())
