"""The profiles of past runs, kept in SQLite."""

from __future__ import annotations

import sqlite3
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from fabric.errors import ConfigurationError
from fabric.startup.profile import StartupProfile

_SCHEMA = """
CREATE TABLE IF NOT EXISTS runs (
    id INTEGER PRIMARY KEY, fleet TEXT NOT NULL, run TEXT NOT NULL, started_at REAL NOT NULL, outcome TEXT NOT NULL,
    makespan REAL NOT NULL, profile TEXT NOT NULL, UNIQUE (fleet, run)
);
CREATE TABLE IF NOT EXISTS durations (
    run INTEGER NOT NULL REFERENCES runs (id) ON DELETE CASCADE, service TEXT NOT NULL, own REAL NOT NULL,
    retry REAL NOT NULL, PRIMARY KEY (run, service)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS runs_by_time ON runs (fleet, started_at);
"""
_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Regression:
    """A service, or the whole run (``service`` empty), that took longer than it used to.

    Attributes:
        seconds: now.
        usual: the median before.
        spread: the median distance from it (MAD) before.
        runs: how many runs that comes from.
    """

    service: str
    seconds: float
    usual: float
    spread: float
    runs: int


class ProfileHistory:
    """Profiles by fleet. Its calls block for as long as SQLite takes, milliseconds; call them in a thread where that matters.

    Args:
        path: the file; made if it is not there. ``":memory:"`` keeps nothing.
        keep: runs kept for each fleet; the oldest go first.

    Raises:
        ConfigurationError: the file is not a history, or of a later version.
    """

    def __init__(self, path: Path | str, *, keep: int = 500) -> None:
        if keep < 1:
            raise ConfigurationError(f"a history keeps at least 1 run, not {keep}")
        self._keep = keep
        # One writer at a time is SQLite's own business; a thread may use what another one opened.
        self._db = sqlite3.connect(path, timeout=5.0, check_same_thread=False)
        try:
            version = int(self._db.execute("PRAGMA user_version").fetchone()[0])
            if version > _VERSION:
                raise ConfigurationError(f"{path} was written by a later version of Fabric (format {version}); upgrade")
            with self._db:
                self._db.execute("PRAGMA foreign_keys = ON")
                self._db.executescript(_SCHEMA)
                self._db.execute(f"PRAGMA user_version = {_VERSION}")
        except sqlite3.DatabaseError as error:
            self._db.close()
            raise ConfigurationError(f"{path} is not a profile history: {error}") from error
        except ConfigurationError:
            self._db.close()
            raise

    def __enter__(self) -> ProfileHistory:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Lets go of the file. May be called twice."""
        self._db.close()

    def add(self, fleet: str, profile: StartupProfile) -> None:
        """Keeps a profile; one of the same fleet and run is replaced."""
        with self._db:
            self._db.execute("DELETE FROM runs WHERE fleet = ? AND run = ?", (fleet, profile.run))
            row = self._db.execute(
                "INSERT INTO runs (fleet, run, started_at, outcome, makespan, profile) VALUES (?, ?, ?, ?, ?, ?)",
                (fleet, profile.run, profile.started_at, profile.outcome, profile.makespan, profile.to_json()),
            ).lastrowid
            self._db.executemany(
                "INSERT INTO durations (run, service, own, retry) VALUES (?, ?, ?, ?)",
                [(row, service.name, service.own, service.retry) for service in profile.services if service.up and service.own],
            )
            self._db.execute(
                "DELETE FROM runs WHERE fleet = ? AND id NOT IN "
                "(SELECT id FROM runs WHERE fleet = ? ORDER BY started_at DESC, id DESC LIMIT ?)",
                (fleet, fleet, self._keep),
            )

    def recent(self, fleet: str, count: int = 20) -> tuple[StartupProfile, ...]:
        """The latest profiles, the latest first."""
        rows = self._db.execute(
            "SELECT profile FROM runs WHERE fleet = ? ORDER BY started_at DESC, id DESC LIMIT ?", (fleet, count)
        )
        return tuple(StartupProfile.from_json(row[0]) for row in rows)

    def find(self, fleet: str, run: str) -> StartupProfile | None:
        """The profile of one run."""
        row = self._db.execute("SELECT profile FROM runs WHERE fleet = ? AND run = ?", (fleet, run)).fetchone()
        return StartupProfile.from_json(row[0]) if row else None

    def durations(self, fleet: str, count: int = 20) -> dict[str, float]:
        """The median own time of each service over its latest runs, for the order of the queue."""
        return {service: statistics.median(times) for service, times in self._times(fleet, count).items()}

    def regressions(self, fleet: str, profile: StartupProfile, *, count: int = 20, times: float = 4.0) -> tuple[Regression, ...]:
        """What took longer in ``profile`` than in the runs before it.

        A time counts as longer when it is over the median by ``times`` median distances (MAD), by a tenth of the median,
        and by a tenth of a second: noise of fast services is none.

        Args:
            count: how many runs before it are looked at; with fewer than three nothing is said.
        """
        earlier = self._times(fleet, count, before=profile.started_at)
        makespans = [
            row[0]
            for row in self._db.execute(
                "SELECT makespan FROM runs WHERE fleet = ? AND started_at < ? AND outcome IN ('succeeded', 'degraded') "
                "ORDER BY started_at DESC LIMIT ?",
                (fleet, profile.started_at, count),
            )
        ]
        now: Mapping[str, float] = {"": profile.makespan, **profile.durations} if profile.ok else profile.durations
        found = []
        for service, seconds in now.items():
            past: Sequence[float] = makespans if service == "" else earlier.get(service, [])
            if len(past) < 3:
                continue
            usual = statistics.median(past)
            spread = statistics.median(abs(value - usual) for value in past)
            if seconds > usual + max(times * spread, 0.1 * usual, 0.1):
                found.append(Regression(service=service, seconds=seconds, usual=usual, spread=spread, runs=len(past)))
        return tuple(sorted(found, key=lambda one: (one.service != "", one.usual - one.seconds, one.service)))

    def _times(self, fleet: str, count: int, before: float | None = None) -> dict[str, list[float]]:
        rows = self._db.execute(
            "SELECT service, own FROM durations JOIN (SELECT id FROM runs WHERE fleet = ? AND started_at < ? "
            "ORDER BY started_at DESC, id DESC LIMIT ?) AS latest ON durations.run = latest.id",
            (fleet, float("inf") if before is None else before, count),
        )
        times: dict[str, list[float]] = {}
        for service, own in rows:
            times.setdefault(service, []).append(own)
        return times
