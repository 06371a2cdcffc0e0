"""systemd units: ``*.service`` files with their drop-ins, ordered by ``After=`` and ``Before=``, targets taken as their members.

See systemd.unit(5), systemd.service(5) and systemd.time(7).
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from fabric.coordination.importers.draft import Draft, DraftEdge, DraftService, checked
from fabric.errors import ConfigurationError
from fabric.startup.definition import Condition, RetryPolicy

_HARD: Final = ("Requires", "BindsTo", "Requisite")
_SPAN = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*)")
_UNITS: Final[Mapping[str, float]] = {
    **dict.fromkeys(("", "s", "sec", "second", "seconds"), 1.0),
    **dict.fromkeys(("ms", "msec"), 0.001),
    **dict.fromkeys(("us", "usec"), 0.000_001),
    **dict.fromkeys(("m", "min", "minute", "minutes"), 60.0),
    **dict.fromkeys(("h", "hr", "hour", "hours"), 3600.0),
}
_READY_WHEN_RUNNING: Final = frozenset({"simple", "exec", "idle"})


@dataclass(slots=True)
class _Unit:
    """Settings by name; of those that may be given more than once, all. ``sources`` is where each value stands."""

    name: str
    source: str
    values: dict[str, list[str]] = field(default_factory=dict)
    sources: dict[tuple[str, str], str] = field(default_factory=dict)

    def words(self, *keys: str) -> Iterator[tuple[str, str]]:
        """The names in these settings, and where they stand."""
        for key in keys:
            for value in self.values.get(key, ()):
                for word in value.split():
                    yield word, self.sources[key, value]

    def last(self, key: str, default: str = "") -> str:
        return (self.values.get(key) or [default])[-1]


def read_systemd(paths: Sequence[Path | str], *, name: str = "") -> Draft:
    """The fleet of the units in ``paths``: files, or directories of them.

    What is ordered after another unit and requires it depends on it; what is only ordered after it waits while it is coming.
    Units that are not given (``network.target``) are taken to be there.

    Raises:
        ConfigurationError: something can't be read, or there is no service.
    """
    units = _units(paths)
    services = {unit.name: unit for unit in units.values() if unit.name.endswith(".service")}
    if not services:
        raise ConfigurationError("there are no *.service files", source=str(paths[0]) if paths else None)
    wants = _Wants(units)
    after = {unit: dict(wants.expanded(_ordered_after(unit, units))) for unit in services}
    names = {unit: unit.removesuffix(".service") for unit in services}
    notes = []
    outside = sorted({word for unit in services for word, _ in _ordered_after(unit, units)} - units.keys())
    if outside:
        notes.append(f"Not given, and taken to be there: {', '.join(outside)}.")
    found = {}
    for unit, body in services.items():
        edges = []
        for other, source in after[unit].items():
            if other in services and other != unit:
                hard = other in wants.required(unit)
                edges.append(DraftEdge(on=names[other], condition=_condition(services[other]), optional=not hard, source=source))
        unordered = sorted(other for other in wants.required(unit) if other in services and other not in after[unit])
        if unordered:
            notes.append(f"{names[unit]} requires {', '.join(unordered)} without an order: they start beside each other.")
        found[names[unit]] = _service(names[unit], body, tuple(edges), wanted_only=wants.is_only_wanted(unit))
        if odd := {"%", "$"} & set(body.last("ExecStart")):
            notes.append(f"{names[unit]}: {' and '.join(sorted(odd))} in its command is for systemd to replace; look it over.")
    directory = Path(paths[0])
    title = name or (directory if directory.is_dir() else directory.parent).resolve().name
    return checked(Draft(name=title, services=found, origin=tuple(str(path) for path in paths), notes=tuple(notes)))


class _Wants:
    """Who requires and wants whom, ``[Install]`` sections and targets included."""

    def __init__(self, units: Mapping[str, _Unit]) -> None:
        self._required: dict[str, set[str]] = {name: {word for word, _ in unit.words(*_HARD)} for name, unit in units.items()}
        self._wanted: dict[str, set[str]] = {name: {word for word, _ in unit.words("Wants")} for name, unit in units.items()}
        for name, unit in units.items():
            for word, _ in unit.words("RequiredBy"):
                self._required.setdefault(word, set()).add(name)
            for word, _ in unit.words("WantedBy"):
                self._wanted.setdefault(word, set()).add(name)

    def required(self, unit: str) -> set[str]:
        """Those that it can't do without, members of targets that it requires included."""
        return {other for word in self._required.get(unit, ()) for other in self._members(word, frozenset(), hard=True)}

    def expanded(self, ordered: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
        """Every unit that is meant: for a target its members."""
        for word, source in ordered:
            for other in sorted(self._members(word, frozenset(), hard=False)):
                yield other, source

    def is_only_wanted(self, unit: str) -> bool:
        """Somebody wants it, and nobody requires it."""
        required = any(unit in others for others in self._required.values())
        return not required and any(unit in others for others in self._wanted.values())

    def _members(self, unit: str, above: frozenset[str], *, hard: bool) -> set[str]:
        if not unit.endswith(".target") or unit in above:
            return {unit}
        members = self._required.get(unit, set()) | (set() if hard else self._wanted.get(unit, set()))
        return {other for member in members for other in self._members(member, above | {unit}, hard=hard)}


def _ordered_after(unit: str, units: Mapping[str, _Unit]) -> list[tuple[str, str]]:
    found = list(units[unit].words("After"))
    for name, other in units.items():
        found += [(name, source) for word, source in other.words("Before") if word == unit]
    return found


def _condition(unit: _Unit) -> Condition:
    kind = unit.last("Type", "simple")
    if kind == "oneshot":
        return Condition.COMPLETED
    return Condition.STARTED if kind in _READY_WHEN_RUNNING else Condition.HEALTHY


def _service(name: str, unit: _Unit, edges: tuple[DraftEdge, ...], *, wanted_only: bool) -> DraftService:
    restart = unit.last("Restart", "no")
    burst, pause = unit.last("StartLimitBurst"), unit.last("RestartSec")
    retry = None
    if restart != "no" and (burst or pause):
        delay = _seconds(pause, unit.source) if pause else 0.1
        attempts = int(burst) if burst.isdigit() and int(burst) else 5
        retry = RetryPolicy(attempts=attempts, delay=delay, factor=1.0, max_delay=max(delay, 30.0))
    return DraftService(
        name=name,
        edges=edges,
        command=tuple(shlex.split(re.sub(r"^[-@:+!|]+", "", unit.last("ExecStart")))),
        criticality="low" if wanted_only else "",
        timeout=_limit(unit, "TimeoutStartSec") or _limit(unit, "TimeoutSec"),
        stop_timeout=_limit(unit, "TimeoutStopSec") or _limit(unit, "TimeoutSec"),
        restarts=restart != "no",
        retry=retry,
        source=unit.source,
    )


def _limit(unit: _Unit, key: str) -> float | None:
    value = unit.last(key)
    return None if value in ("", "0", "infinity") else _seconds(value, unit.source)


def _seconds(value: str, source: str) -> float:
    parts = _SPAN.findall(value.lower())
    if not parts or _SPAN.sub("", value.lower()).strip() or any(unit not in _UNITS for _, unit in parts):
        raise ConfigurationError(f"{value!r} is not a time span such as 1min 30s", source=source)
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


def _units(paths: Sequence[Path | str]) -> dict[str, _Unit]:
    files: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            files += [file for kind in ("service", "target") for file in sorted(path.glob(f"*.{kind}"))]
        else:
            files.append(path)
    units = {}
    for file in files:
        if "@." in file.name:
            continue  # a template starts nothing by itself
        unit = units[file.name] = _Unit(file.name, f"{file}:1")
        for part in (file, *sorted((file.parent / f"{file.name}.d").glob("*.conf"))):
            _read_into(unit, part)
    return units


def _read_into(unit: _Unit, file: Path) -> None:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ConfigurationError(f"can't be read: {error.strerror}", source=str(file)) from error
    begun, text = 0, ""
    for number, line in enumerate(lines, 1):
        stripped = line.strip()
        if not text and (not stripped or stripped[0] in "#;["):
            continue
        if text and stripped[:1] in ("#", ";"):
            continue  # a comment between the lines of one value
        begun = begun if text else number
        text = f"{text} {stripped}".strip()
        if text.endswith("\\"):
            text = text[:-1].rstrip()
            continue
        key, equals, value = (part.strip() for part in text.partition("="))
        if not equals:
            raise ConfigurationError(f"{text!r} is not a setting", source=f"{file}:{begun}")
        if value:
            unit.values.setdefault(key, []).append(value)
            unit.sources[key, value] = f"{file}:{begun}"
        else:
            unit.values.pop(key, None)  # an empty one takes back all before it
        text = ""
