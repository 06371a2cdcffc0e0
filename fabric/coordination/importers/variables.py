"""Variables in compose files: ``$NAME``, ``${NAME:-default}`` and the rest of the family, and ``.env`` files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from fabric.errors import ConfigurationError

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LINE = re.compile(r"\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_.-]*)\s*(?:[=:]\s*(.*))?", re.S)
_ESCAPES: Final = {"n": "\n", "r": "\r", "t": "\t", '"': '"', "\\": "\\", "$": "$$"}
_MAX_DEPTH: Final = 20


class Variables:
    """What names stand for.

    Attributes:
        unset: names that were asked for, are not set and have no default; they stand for nothing.
    """

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = values
        self.unset: dict[str, None] = {}

    def fill(self, text: str, source: str, depth: int = 0) -> str:
        """``text`` with every variable replaced; ``$$`` is a dollar sign.

        Raises:
            ConfigurationError: it can't be read, or a variable that must be set (``${NAME:?why}``) is not.
        """
        if "$" not in text:
            return text
        if depth > _MAX_DEPTH:
            raise ConfigurationError("variables in variables, too deep", source=source)
        pieces, at = [], 0
        while (dollar := text.find("$", at)) >= 0:
            pieces.append(text[at:dollar])
            after = text[dollar + 1 : dollar + 2]
            if after == "$":
                pieces.append("$")
                at = dollar + 2
            elif after == "{":
                end = _closing(text, dollar + 2, source)
                pieces.append(self._value(text[dollar + 2 : end], source, depth))
                at = end + 1
            elif match := _NAME.match(text, dollar + 1):
                pieces.append(self._plain(match[0]))
                at = match.end()
            else:
                raise ConfigurationError(f"{text!r}: a dollar sign alone; write $$ for one", source=source)
        return "".join([*pieces, text[at:]])

    def _plain(self, name: str) -> str:
        if name not in self._values:
            self.unset[name] = None
        return self._values.get(name, "")

    def _value(self, inside: str, source: str, depth: int) -> str:
        match = _NAME.match(inside)
        if match is None:
            raise ConfigurationError(f"${{{inside}}} does not begin with the name of a variable", source=source)
        name, rest = match[0], inside[match.end() :]
        if not rest:
            return self._plain(name)
        empty_is_unset = rest.startswith(":")
        operator, other = (rest[1:2], rest[2:]) if empty_is_unset else (rest[:1], rest[1:])
        value = self._values.get(name)
        there = bool(value) if empty_is_unset else value is not None
        match operator:
            case "-":
                return (value or "") if there else self.fill(other, source, depth + 1)
            case "+":
                return self.fill(other, source, depth + 1) if there else ""
            case "?":
                if not there:
                    why = self.fill(other, source, depth + 1) or "it must be set"
                    raise ConfigurationError(f"the variable {name} is not set: {why}", source=source)
                return value or ""
            case _:
                raise ConfigurationError(f"${{{inside}}}: write ${{NAME}}, or :- - :+ + :? ? behind the name", source=source)


def _closing(text: str, start: int, source: str) -> int:
    depth = 1
    for index in range(start, len(text)):
        if text[index] == "}":
            depth -= 1
            if not depth:
                return index
        elif text.startswith("${", index):
            depth += 1
    raise ConfigurationError(f"{text!r}: ${{ is not closed", source=source)


def read_env(text: str, file: str, given: Mapping[str, str], earlier: Mapping[str, str]) -> dict[str, str]:
    """The variables of a ``.env`` file.

    Args:
        given: win over it, also inside of values.
        earlier: may be used in it.

    Raises:
        ConfigurationError: a line of it is none.
    """
    found: dict[str, str] = dict(earlier)
    lines = iter(enumerate(text.splitlines(), 1))
    for number, line in lines:
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        source = f"{file}:{number}"
        match = _LINE.fullmatch(line)
        if match is None:
            raise ConfigurationError(f"{line!r} is not NAME=VALUE", source=source)
        name, raw = match[1], (match[2] or "").strip()
        if raw[:1] in ("'", '"'):
            while not _is_closed(raw):  # a value in quotes may have several lines
                following = next(lines, None)
                if following is None:
                    raise ConfigurationError(f"the value of {name} has no closing quote", source=source)
                raw += "\n" + following[1]
            value = _unquoted(raw)
            if raw[0] == '"':
                value = Variables({**found, **given}).fill(value, source)
        else:
            value = Variables({**found, **given}).fill(re.split(r"\s+#", raw, maxsplit=1)[0], source)
        found[name] = given.get(name, value)
    return found


def _is_closed(raw: str) -> bool:
    return _end_of_quote(raw) is not None


def _end_of_quote(raw: str) -> int | None:
    index = 1
    while index < len(raw):
        if raw[index] == "\\" and raw[0] == '"':
            index += 2
            continue
        if raw[index] == raw[0]:
            return index
        index += 1
    return None


def _unquoted(raw: str) -> str:
    end = _end_of_quote(raw)
    inside = raw[1:end]
    if raw[0] == "'":
        return inside
    return re.sub(r"\\(.)", lambda match: _ESCAPES.get(match[1], match[0]), inside)
