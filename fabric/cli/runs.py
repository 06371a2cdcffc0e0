"""Which past run a command is meant for."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fabric.cli.record import FleetDirectory
from fabric.errors import ConfigurationError, UnknownName
from fabric.startup.history import ProfileHistory
from fabric.startup.profile import StartupProfile

_BACK = re.compile(r"last(?:~(\d+))?")
_MOST = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Runs:
    """The recorded runs of one fleet. ``history`` is open for as long as ``recorded_runs`` lasts."""

    fleet: str
    history: ProfileHistory

    def latest(self, count: int) -> tuple[StartupProfile, ...]:
        """The latest first.

        Raises:
            ConfigurationError: there is none.
        """
        found = self.history.recent(self.fleet, count)
        if not found:
            raise ConfigurationError(f"no run of {self.fleet} is recorded here; `fabric up` records each")
        return found

    def chosen(self, name: str) -> StartupProfile:
        """``last``, ``last~2`` (the one two before it), or the id of a run or the beginning of one.

        Raises:
            UnknownName, ConfigurationError: there is no such run, or several.
        """
        if back := _BACK.fullmatch(name):
            number = int(back[1] or 0)
            found = self.latest(min(number + 1, _MOST))
            if number < len(found):
                return found[number]
            raise ConfigurationError(f"{name}: only {len(found)} runs of {self.fleet} are recorded")
        runs = self.latest(_MOST)
        matching = [profile for profile in runs if profile.run == name] or [p for p in runs if p.run.startswith(name)]
        if len(matching) == 1:
            return matching[0]
        if matching:
            raise ConfigurationError(f"{name} is the beginning of {len(matching)} runs; name more of it")
        raise UnknownName("run", name, used_by="the command", known=[profile.run for profile in runs[:20]])


@contextlib.contextmanager
def recorded_runs(fleet: str | None, directory: Path) -> Iterator[Runs]:
    """The runs of ``fleet``, else of the only fleet that has any in ``directory`` or in the nearest one above it.

    Raises:
        ConfigurationError: there are none, or of several fleets.
    """
    place = _place(fleet, directory)
    with ProfileHistory(place.history) as history:
        yield Runs(fleet=place.fleet, history=history)


def profile_in(path: Path) -> StartupProfile:
    """A profile that ``fabric up --profile-out`` wrote.

    Raises:
        ConfigurationError: it can't be read, or is none.
    """
    try:
        return StartupProfile.from_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"can't read the profile: {error.strerror}", source=str(path)) from error
    except (ValueError, ConfigurationError) as error:
        raise ConfigurationError(f"can't read the profile: {error}", source=str(path)) from error


def _place(fleet: str | None, start: Path) -> FleetDirectory:
    for directory in (start, *start.parents):
        found = []
        with contextlib.suppress(OSError):
            for path in sorted((directory / ".fabric").iterdir()):
                place = FleetDirectory(directory, path.name)
                if place.history.exists() and fleet in (None, path.name):
                    found.append(place)
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(place.fleet for place in found)
            raise ConfigurationError(f"runs of several fleets are recorded here: {names}; choose one with --fleet")
    what = f"of {fleet} " if fleet else ""
    raise ConfigurationError(f"no run {what}is recorded here; `fabric up FLEET` records each, --from takes a profile from a file")
