"""Where the coordinator keeps what happened before it does anything about it, so that a successor goes on from there.

A journal is one sequence of records. A coordinator leads from its *claim* on, which is a record too: its place in the
sequence is the epoch, so that each claim has a higher one than all before. What an earlier leader wrote after a newer claim
does not count, and it is told so before it could act on it. So the order of the records alone decides who leads: no clock,
no lease and no lock does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from fabric.startup.events import Event

Entry = tuple[Event, float]
"""An event, and when it was handled in seconds since 1970."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """Somebody's word that it leads from here on.

    Attributes:
        epoch: the fencing number of all that it commands.
        instance, incarnation: who.
    """

    epoch: int
    instance: str
    incarnation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What a new leader begins with: its own claim and all that was recorded before, oldest first."""

    claim: Claim
    entries: tuple[Entry, ...]


class Journal(Protocol):
    """One coordinator's access to the journal of its fleet."""

    async def open(self) -> None:
        """Raises ConnectionLost, ConfigurationError: it can't be used."""
        ...

    async def leader(self) -> Claim | None:
        """The newest claim; None when nobody ever led.

        Raises:
            FabricError: the journal can't be read now.
        """
        ...

    async def claim(self, instance: str, incarnation: int) -> History:
        """Lead from now on, whoever led before.

        Raises:
            FabricError: it can't be read or written now; perhaps the claim counts all the same.
        """
        ...

    async def append(self, entries: Sequence[Entry], *, first: bool = False) -> None:
        """Returns when the entries are safe, and then nobody else led when they were written.

        Args:
            first: what was recorded before is of no use any more; it is not replayed, and may be deleted.

        Raises:
            StaleCommand: somebody else leads; the entries don't count.
            FabricError: it is unknown whether they are safe.
        """
        ...

    async def aclose(self) -> None:
        """Idempotent."""
        ...
