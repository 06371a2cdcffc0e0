"""The records of a journal as bytes, and what they come to when they are read in order."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

import orjson

from fabric.coordination.journal import Claim, Entry
from fabric.errors import FabricError, StartupError
from fabric.startup.codec import dump_event, load_event


def claim_record(instance: str, incarnation: int, base: int) -> bytes:
    """``base``: where the epochs begin if this is the first record: higher than those of any journal before, so that agents
    which outlived a lost journal obey. Microseconds since 1970 are, for no journal grows by a record in each."""
    return orjson.dumps({"claim": {"instance": instance, "incarnation": incarnation, "base": base, "id": uuid.uuid4().hex}})


def entries_record(epoch: int, entries: Sequence[Entry], *, first: bool) -> bytes:
    plain = [[at, dump_event(event)] for event, at in entries]
    return orjson.dumps({"epoch": epoch, "first": first, "id": uuid.uuid4().hex, "entries": plain})


class Ledger:
    """What the records say, taken one after the other.

    Args:
        base: where epochs begin; None takes it from the first claim.
        keep: also keep the entries, to be replayed.

    Attributes:
        leader: who made the newest claim.
    """

    def __init__(self, *, base: int | None = None, keep: bool = True) -> None:
        self.base, self.keep = base, keep
        self.leader: Claim | None = None
        self._kept: list[Any] = []

    def take(self, offset: int, body: bytes) -> bool:
        """Whether the record counts: entries of one who no longer led don't.

        Raises:
            StartupError: it is no record of ours.
        """
        try:
            record = orjson.loads(body)
            if claim := record.get("claim"):
                self.base = int(claim["base"]) if self.base is None else self.base
                self.leader = Claim(
                    epoch=self.base + offset, instance=str(claim["instance"]), incarnation=int(claim["incarnation"])
                )
                return True
            entries = list(record["entries"])
            if self.leader is None or record["epoch"] != self.leader.epoch:
                return False
            if record["first"]:
                self._kept.clear()
            if self.keep:
                self._kept.extend(entries)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise _unreadable(offset, error) from error
        return True

    def forget(self) -> None:
        """Keep no entries any more, neither those so far nor later ones."""
        self.keep = False
        self._kept.clear()

    def entries(self) -> tuple[Entry, ...]:
        """Raises StartupError: one is no event of this version."""
        try:
            return tuple((load_event(event), float(at)) for at, event in self._kept)
        except (ValueError, TypeError, FabricError) as error:
            raise _unreadable(-1, error) from error


def _unreadable(offset: int, error: Exception) -> StartupError:
    where = f"record {offset}" if offset >= 0 else "an entry"
    return StartupError(f"{where} of the journal can't be read: {error!r}; delete the journal to begin a new one")
