"""The profiles of a fleet's runs on disk, as far as that is possible: a fleet must not stay down because of them."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Mapping
from pathlib import Path

from fabric.errors import ConfigurationError
from fabric.startup.history import ProfileHistory
from fabric.startup.profile import StartupProfile

_log = logging.getLogger("fabric.coordinator")


class Archive:
    """The runs of ``fleet`` in the file at ``path``; None keeps nothing.

    Attributes:
        durations: seconds that services took before.
    """

    def __init__(self, fleet: str, path: Path | None) -> None:
        self._fleet, self._path = fleet, path
        self._history: ProfileHistory | None = None
        self.durations: Mapping[str, float] = {}

    async def open(self) -> None:
        await asyncio.to_thread(self._open)

    async def keep(self, profile: StartupProfile) -> None:
        """Never raises for what is wrong with the file."""
        if self._history is not None:
            await asyncio.to_thread(self._keep, self._history, profile)

    async def find(self, run: str) -> StartupProfile | None:
        """The profile of an earlier run; None where it is not kept, or can't be read."""
        if self._history is None:
            return None
        return await asyncio.to_thread(self._find, self._history, run)

    def close(self) -> None:
        """Idempotent."""
        if self._history is not None:
            self._history.close()
            self._history = None

    def _open(self) -> None:
        if self._path is None:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._history = ProfileHistory(self._path)
            self.durations = self._history.durations(self._fleet)
        except (ConfigurationError, OSError) as error:
            _log.warning("this run is not recorded: %s", error)

    def _find(self, history: ProfileHistory, run: str) -> StartupProfile | None:
        try:
            return history.find(self._fleet, run)
        except (sqlite3.Error, ValueError) as error:
            _log.warning("the profile of run %s can't be read: %s", run, error)
            return None

    def _keep(self, history: ProfileHistory, profile: StartupProfile) -> None:
        try:
            history.add(self._fleet, profile)
        except sqlite3.Error as error:
            _log.warning("run %s is not recorded: %s", profile.run, error)
