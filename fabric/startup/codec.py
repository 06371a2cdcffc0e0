"""Start-up values as plain data and back, for journals, profiles and fleet files."""

from __future__ import annotations

import functools
import math
from collections.abc import Hashable, Mapping
from typing import Any, TypeVar, cast

from fabric.errors import ConfigurationError
from fabric.startup import events

T = TypeVar("T")

_EVENTS: dict[str, type] = {cls.__name__: cls for cls in events.Event.__args__}


@functools.cache
def _adapter(cls: Any) -> Any:
    # pydantic is only paid for by those who write or read.
    from pydantic import TypeAdapter

    return TypeAdapter(cls)


def dump(value: object) -> Any:
    """Any dataclass of start-up as JSON values. JSON has no infinity, so that becomes the string ``Infinity``."""
    return _finite(_adapter(cast(Hashable, type(value))).dump_python(value, mode="json"))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return "Infinity" if value == math.inf else value


def load(cls: type[T], data: object) -> T:
    """What ``dump`` made, checked.

    Raises:
        ConfigurationError: the data does not fit.
    """
    from pydantic import ValidationError

    try:
        value: T = _adapter(cast(Hashable, cls)).validate_python(data)
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigurationError(f"not a {cls.__name__}: {where}: {first['msg']}") from error
    return value


def dump_event(event: events.Event) -> dict[str, Any]:
    """An event with its type: ``{"type": "Vote", ...}``."""
    return {"type": type(event).__name__, **dump(event)}


def load_event(data: Mapping[str, Any]) -> events.Event:
    """What ``dump_event`` made.

    Raises:
        ConfigurationError: the type is unknown or the data does not fit.
    """
    rest = dict(data)
    cls = _EVENTS.get(str(rest.pop("type", None)))
    if cls is None:
        raise ConfigurationError(f"not a start-up event: {data.get('type')!r}")
    return load(cls, rest)
