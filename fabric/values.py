"""Values on their way across the bus: models, dataclasses and dates as plain data, and back as what a hint asks for."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

from pydantic import BaseModel, SecretBytes, SecretStr, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError
from pydantic_core import ErrorDetails, to_jsonable_python

from fabric.errors import InvalidMessage
from fabric.wire.codec import DEFAULT_LIMITS, plain_value

_MOST_PROBLEMS: Final = 100
_MOST_INPUTS: Final = 1000
LEAVES: Final = frozenset({type(None), bool, int, float, str, bytes})
"""The types of plain data that holds no other."""


def plain(value: Any, depth: int = DEFAULT_LIMITS.depth) -> Any:
    """Models, dataclasses and whatever else pydantic reads back from text as plain data: what can be sent.

    A secret travels as itself. Keys become text, as in JSON.

    Raises:
        InvalidMessage: there is no such form, or it is nested deeper than ``depth``.
    """
    kind = type(value)
    if kind in LEAVES:
        return value
    if kind is dict and depth > 0:
        for key, item in value.items():
            if type(key) is not str or type(item) not in LEAVES:
                return _plain_map(value, depth)
        return value.copy()
    if isinstance(value, (list, tuple, set, frozenset, deque)):
        _check_depth(depth)
        return [item if type(item) in LEAVES else plain(item, depth - 1) for item in value]
    if isinstance(value, BaseModel) or (dataclasses.is_dataclass(value) and not isinstance(value, type)):
        return plain(_dumped(value), depth)
    if isinstance(value, Mapping):
        return _plain_map(value, depth)
    if isinstance(value, (SecretStr, SecretBytes)):
        return value.get_secret_value()
    if isinstance(value, (bytearray, memoryview)):
        return bytes(value)  # what is sent again later must not have changed meanwhile
    if isinstance(value, (str, int, float, bytes)):
        return value
    return _jsonable(value)


def _plain_map(value: Mapping[Any, Any], depth: int) -> dict[str, Any]:
    _check_depth(depth)
    made = {
        key if type(key) is str else _key(key): item if type(item) in LEAVES else plain(item, depth - 1)
        for key, item in value.items()
    }
    if len(made) < len(value):
        raise InvalidMessage("two keys of a map are the same text")
    return made


def _check_depth(depth: int) -> None:
    if depth < 1:
        raise InvalidMessage(f"nested deeper than {DEFAULT_LIMITS.depth}, or it holds itself")


def _key(key: Any) -> str:
    if key is None or isinstance(key, (tuple, frozenset)):
        raise InvalidMessage(f"a {type(key).__name__} can't be the key of a map")
    text: str = next(iter(_jsonable({key: None})))
    return text


def _jsonable(value: Any) -> Any:
    try:
        return to_jsonable_python(value, by_alias=True, fallback=plain_value)
    except (TypeError, ValueError):
        raise InvalidMessage(f"a {type(value).__name__} can't be sent; use plain data, a pydantic model or a dataclass") from None


def _dumped(value: Any) -> Any:
    kind: Any = type(value)
    try:
        if isinstance(value, BaseModel):
            model: Any = value  # what is dumped is a map by pydantic's own hint, but a root model's is whatever its root is
            return model.model_dump(by_alias=True)
        return _adapter(kind).dump_python(value, by_alias=True)
    except (PydanticUserError, ValueError) as error:  # no schema for a field; a value that holds itself
        raise InvalidMessage(f"a {kind.__name__} can't be sent: {first_line(error)}") from None


@lru_cache(maxsize=1024)
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def checked(kind: Any, value: Any) -> Any:
    """``value`` as a ``kind``.

    Raises:
        pydantic.ValidationError: it does not fit.
    """
    if kind is Any or kind is None:
        return value
    return adapter_of(kind).validate_python(value)


def adapter_of(kind: Any) -> TypeAdapter[Any]:
    """What checks against ``kind``; made once."""
    try:
        return _adapter(kind)
    except TypeError:  # an annotation that can't be hashed
        return TypeAdapter(kind)


def problems(error: ValidationError) -> list[dict[str, Any]]:
    """What does not fit, the first hundred of it, without the input values, which may be secret."""
    return [
        {"loc": [str(part) for part in item["loc"]], "msg": _without_input(item), "type": item["type"]}
        for item in error.errors(include_url=False)[:_MOST_PROBLEMS]
    ]


def _without_input(item: ErrorDetails) -> str:
    """Validators that a team wrote, and pydantic for the tag of a union, put input into their messages."""
    message = item["msg"]
    given: list[Any] = [item.get("ctx", {}).get("tag")]
    if item["type"] in ("value_error", "assertion_error"):
        given.append(item["input"])
    for _ in range(_MOST_INPUTS):
        if not given:
            return message
        value = given.pop()
        if isinstance(value, str) and len(value) > 2:
            message = message.replace(value, "...")
        elif isinstance(value, dict):
            given.extend(value.values())
        elif isinstance(value, (list, tuple, set)):
            given.extend(value)
    return "does not fit"


def first_line(error: Exception) -> str:
    """What it says, without the links and the advice for other users of pydantic."""
    return str(error).partition("\n")[0] or type(error).__name__
