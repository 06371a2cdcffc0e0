"""What a process writes of itself: lines for people, or JSON for machines, each with the service, the instance and the call."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping
from typing import Any, Final, TextIO

import orjson

from fabric.errors import ConfigurationError

LEVELS: Final = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
FORMATS: Final = ("text", "json")

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "context"}


class _Context(logging.Filter):
    """Adds what is the same for the whole process, and what belongs to the call under way."""

    def __init__(self, process: Mapping[str, Any], call: Callable[[], Mapping[str, Any]]) -> None:
        super().__init__()
        self._process, self._call = dict(process), call

    def filter(self, record: logging.LogRecord) -> bool:
        record.context = {**self._process, **self._call()}
        return True


class JsonLines(logging.Formatter):
    """One JSON object a line: at (seconds since 1970), level, logger, message, what the process and the call are, what the
    program passed as ``extra``, and error with its traceback."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "at": record.created,
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "context", {}),
            **{name: value for name, value in vars(record).items() if name not in _STANDARD},
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str, option=orjson.OPT_NON_STR_KEYS).decode()


class TextLines(logging.Formatter):
    """Time, level, logger, message, and the call where there is one."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        text = super().formatMessage(record)
        call = getattr(record, "context", {}).get("call")
        return f"{text} [{call}]" if call else text


def configure_logs(
    *,
    level: str = "INFO",
    format: str = "text",
    process: Mapping[str, Any] | None = None,
    call: Callable[[], Mapping[str, Any]] = dict,
    stream: TextIO | None = None,
) -> None:
    """Send everything that this process logs to one place in one form. What was configured before is replaced.

    Args:
        level: of ``LEVELS``; what is below is dropped.
        format: ``text`` or ``json``.
        process: names what runs here, such as service and instance.
        call: what belongs to the call under way; ``call`` in it is also shown in text.
        stream: standard error by default.

    Raises:
        ConfigurationError: an unknown level or format.
    """
    if level.upper() not in LEVELS:
        raise ConfigurationError(f"no log level {level!r}; there are: {', '.join(LEVELS)}")
    if format not in FORMATS:
        raise ConfigurationError(f"no log format {format!r}; there are: {', '.join(FORMATS)}")
    handler = logging.StreamHandler(stream if stream is not None else sys.stderr)
    handler.setFormatter(JsonLines() if format == "json" else TextLines())
    handler.addFilter(_Context(process or {}, call))
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
