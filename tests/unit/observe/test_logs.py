"""Logs in both forms."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from fabric.errors import ConfigurationError
from fabric.observe.logs import configure_logs


@pytest.fixture(autouse=True)
def _root_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def lines(stream: io.StringIO) -> list[str]:
    return stream.getvalue().splitlines()


def test_json_lines_say_who_and_in_which_call() -> None:
    """Each line is one object that a machine reads: message with its arguments, level, process, call and extras."""
    stream = io.StringIO()
    configure_logs(format="json", process={"service": "mail", "instance": "mail-1"}, call=lambda: {"call": "c-7"}, stream=stream)
    logging.getLogger("mail").warning("sent %d", 3, extra={"to": "somebody"})
    (line,) = map(json.loads, lines(stream))
    assert line.pop("at") > 1.6e9
    assert line == {
        "level": "warning",
        "logger": "mail",
        "message": "sent 3",
        "service": "mail",
        "instance": "mail-1",
        "call": "c-7",
        "to": "somebody",
    }


def test_an_exception_stays_on_one_line_of_json() -> None:
    """The traceback is a field, so that a log collector does not tear it apart."""
    stream = io.StringIO()
    configure_logs(format="json", stream=stream)
    try:
        raise RuntimeError("broken\nin two")
    except RuntimeError:
        logging.getLogger("mail").exception("failed")
    (line,) = map(json.loads, lines(stream))
    assert "RuntimeError: broken" in line["error"]


def test_text_lines_end_with_the_call() -> None:
    """For people: time, level, logger, message, and the call where there is one."""
    stream = io.StringIO()
    calls = iter([{"call": "c-7"}, {}])
    configure_logs(call=lambda: next(calls), stream=stream)
    logging.getLogger("mail").info("in a call")
    logging.getLogger("mail").info("outside")
    first, second = lines(stream)
    assert first.endswith("INFO mail in a call [c-7]")
    assert second.endswith("INFO mail outside")


def test_what_is_below_the_level_is_dropped_and_nothing_is_written_twice() -> None:
    """Configuring again replaces what was there."""
    stream = io.StringIO()
    configure_logs(stream=io.StringIO())
    configure_logs(level="warning", stream=stream)
    logging.getLogger("mail").info("not this")
    logging.getLogger("mail").warning("this")
    assert len(lines(stream)) == 1


@pytest.mark.parametrize("wrong", [{"level": "LOUD"}, {"format": "xml"}])
def test_a_wrong_setting_is_refused(wrong: dict[str, str]) -> None:
    """The error names what there is."""
    with pytest.raises(ConfigurationError, match="there are"):
        configure_logs(**wrong)  # type: ignore[arg-type]
