"""A journal that lasts as long as its process: for tests, and for a coordinator without a broker that outlives it."""

from __future__ import annotations

from collections.abc import Sequence

from fabric.clock import Clock, SystemClock
from fabric.coordination.journal import Claim, Entry, History
from fabric.coordination.journal_records import Ledger, claim_record, entries_record
from fabric.errors import StaleCommand


class MemoryJournal:
    """Access to the records in ``log``, which several coordinators may share."""

    def __init__(self, log: list[bytes] | None = None, *, clock: Clock | None = None) -> None:
        self._log: list[bytes] = [] if log is None else log
        self._clock: Clock = clock or SystemClock()
        self._seen, self._read = Ledger(keep=False), 0
        self._mine: Claim | None = None

    async def open(self) -> None:
        pass

    async def leader(self) -> Claim | None:
        return self._leader()

    def _leader(self) -> Claim | None:
        while self._read < len(self._log):
            self._seen.take(self._read, self._log[self._read])
            self._read += 1
        return self._seen.leader

    async def claim(self, instance: str, incarnation: int) -> History:
        self._log.append(claim_record(instance, incarnation, int(self._clock.time() * 1e6)))
        ledger = Ledger()
        for offset, body in enumerate(self._log):
            ledger.take(offset, body)
        assert ledger.leader is not None
        self._mine = ledger.leader
        return History(claim=ledger.leader, entries=ledger.entries())

    async def append(self, entries: Sequence[Entry], *, first: bool = False) -> None:
        leader, mine = self._leader(), self._mine
        assert leader is not None, "claim first"
        assert mine is not None, "claim first"
        if leader != mine:
            raise StaleCommand(mine.epoch, leader.epoch)
        self._log.append(entries_record(mine.epoch, entries, first=first))

    async def aclose(self) -> None:
        pass
