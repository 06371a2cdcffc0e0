"""Semantic versions (semver.org 2.0.0) and ranges of them, written as npm writes them.

``^1.2`` is any that does not break 1.2, ``~1.2`` any 1.2.x, ``>=1.2 <3`` both of these, ``1.x`` and ``1`` any 1.x.y, ``*`` any,
``^1 || ^3`` either. A pre-release such as ``2.0.0-rc.1`` fits only a range that names one of the same 2.0.0.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from fabric.errors import ConfigurationError

_VERSION = re.compile(r"v?(\d{1,9})\.(\d{1,9})\.(\d{1,9})(?:-([0-9A-Za-z.-]+))?(?:\+[0-9A-Za-z.-]+)?")
_SHORT = re.compile(r"v?\d{1,9}(?:\.\d{1,9})?")
_PARTIAL = re.compile(
    r"(\^|~|>=|<=|>|<|=)?\s*v?(\d{1,9}|[xX*])(?:\.(\d{1,9}|[xX*]))?(?:\.(\d{1,9}|[xX*]))?(?:-([0-9A-Za-z.-]+))?(?:\+[0-9A-Za-z.-]+)?"
)

_LAST: tuple[tuple[int, int, str], ...] = ((2, 0, ""),)
"""Sorts after every pre-release: what has none."""


class Version(NamedTuple):
    """Compares as semver says."""

    major: int
    minor: int
    patch: int
    pre: tuple[tuple[int, int, str], ...] = _LAST

    @property
    def is_pre(self) -> bool:
        return self.pre != _LAST


def _pre(text: str | None) -> tuple[tuple[int, int, str], ...]:
    if text is None:
        return _LAST
    return tuple((0, int(part), "") if part.isdigit() else (1, 0, part) for part in text.split("."))


@lru_cache(maxsize=4096)
def version(text: str) -> Version | None:
    """What an instance announces; None if it is not a semantic version. ``1.2`` counts as ``1.2.0``."""
    found = _VERSION.fullmatch(text + ".0" * (2 - text.count(".")) if _SHORT.fullmatch(text) else text)
    if found is None:
        return None
    return Version(int(found[1]), int(found[2]), int(found[3]), _pre(found[4]))


Test = Callable[[Version], bool]


@dataclass(frozen=True, slots=True, eq=False)
class Range:
    """A parsed range; ``version_range`` gives the same one for the same text, which is what it is compared by."""

    text: str
    _either: tuple[tuple[Test, ...], ...]
    _pres: tuple[tuple[tuple[int, int, int], ...], ...]

    def holds(self, text: str) -> bool:
        """Whether the version ``text`` is in it. What is not a version is only in ``*``."""
        candidate = version(text)
        if candidate is None:
            return any(not tests for tests in self._either)
        for tests, pres in zip(self._either, self._pres, strict=True):
            if candidate.is_pre and candidate[:3] not in pres:
                continue
            if all(test(candidate) for test in tests):
                return True
        return False


@lru_cache(maxsize=1024)
def version_range(text: str) -> Range:
    """
    Raises:
        ConfigurationError: it is not a range.
    """
    either, pres = [], []
    for part in text.split("||"):
        tests: list[Test] = []
        named: list[tuple[int, int, int]] = []
        rest = part.strip()
        if not rest:
            raise _wrong(text)
        while rest:
            found = _PARTIAL.match(rest)
            if found is None or (found.end() < len(rest) and not rest[found.end()].isspace()):
                raise _wrong(text)
            rest = rest[found.end() :].strip()
            operator, *numbers, pre = found.groups()
            known = _numbers(numbers, text)
            if pre is not None:
                if len(known) < 3:
                    raise _wrong(text)
                named.append((known[0], known[1], known[2]))
            tests += _tests(operator or "", known, pre)
        either.append(tuple(tests))
        pres.append(tuple(named))
    return Range(text, tuple(either), tuple(pres))


def _wrong(text: str) -> ConfigurationError:
    return ConfigurationError(f"{text!r} is not a range of versions; write it as ^1.2, ~1.2, >=1.2 <3, 1.x, 1.2.3 or ^1 || ^3")


def _numbers(parts: list[str | None], text: str) -> tuple[int, ...]:
    """What is given of major, minor and patch; ``x`` ends it."""
    known: list[int] = []
    ended = False
    for part in parts:
        if part is None or part in "xX*":
            ended = True
        elif ended:
            raise _wrong(text)
        else:
            known.append(int(part))
    return tuple(known)


def _tests(operator: str, known: tuple[int, ...], pre: str | None) -> list[Test]:
    if not known:
        return [lambda _: False] if operator in ("<", ">") else []
    low, after = _at(known, _pre(pre)), _after(known, len(known))
    match operator:
        case ">=":
            return [lambda v: v >= low]
        case "<":
            return [lambda v: v < low]
        case ">":
            return [lambda v: v > low] if len(known) == 3 else [lambda v: v >= after]
        case "<=":
            return [lambda v: v <= low] if len(known) == 3 else [lambda v: v < after]
        case "^":
            place = next((n for n, number in enumerate(known, 1) if number), len(known))
            return _between(low, _after(known, place))
        case "~":
            return _between(low, _after(known, min(len(known), 2)))
        case _:
            return [lambda v: v == low] if len(known) == 3 else _between(low, after)


def _between(low: Version, end: Version) -> list[Test]:
    return [lambda v: low <= v < end]


def _at(known: tuple[int, ...], pre: tuple[tuple[int, int, str], ...]) -> Version:
    major, minor, patch = (*known, 0, 0)[:3]
    return Version(major, minor, patch, pre)


def _after(known: tuple[int, ...], place: int) -> Version:
    """The first version beyond all that share the first ``place`` numbers, its own pre-releases included."""
    return _at((*known[: place - 1], known[place - 1] + 1), ())
