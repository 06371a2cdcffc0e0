"""A journal in a RabbitMQ stream: durable, replicated in a cluster, and read by every coordinator as it grows."""

from __future__ import annotations

from collections.abc import Sequence

from fabric.clock import Clock, SystemClock
from fabric.coordination.journal import Claim, Entry, History
from fabric.coordination.journal_records import Ledger, claim_record, entries_record
from fabric.errors import StaleCommand
from fabric.transports.amqp_settings import AmqpSettings
from fabric.transports.amqp_stream import AmqpStream

_WRITE_SECONDS = 30.0
"""A leader that can write nothing for so long leads no longer: whoever takes over may reach the broker."""


class StreamJournal:
    """The records in the stream ``name``.

    The epoch of a claim is its offset. A leader reads its own records back before it acts on them, so that it knows of every
    claim that came before them.

    Args:
        exchange, key: see ``AmqpStream``.
    """

    def __init__(
        self, settings: AmqpSettings, name: str, *, exchange: str = "", key: str = "", clock: Clock | None = None
    ) -> None:
        self._settings, self._name, self._exchange, self._key = settings, name, exchange, key
        self._clock: Clock = clock or SystemClock()
        self._stream: AmqpStream[bool] | None = None
        self._ledger = Ledger()
        self._claiming = b""
        self._history: History | None = None
        self._mine: Claim | None = None

    async def open(self) -> None:
        await self._reread()

    async def leader(self) -> Claim | None:
        return self._ledger.leader

    async def claim(self, instance: str, incarnation: int) -> History:
        if self._stream is None or not self._ledger.keep:
            await self._reread()
        assert self._stream is not None
        self._claiming, self._history = claim_record(instance, incarnation, int(self._clock.time() * 1e6)), None
        await self._stream.append(self._claiming, timeout=_WRITE_SECONDS)
        assert self._history is not None, "the history is complete when the claim has been read back"
        history, self._history = self._history, None
        self._mine = history.claim
        return history

    async def append(self, entries: Sequence[Entry], *, first: bool = False) -> None:
        mine = self._mine
        assert self._stream is not None, "open first"
        assert mine is not None, "claim first"
        if not await self._stream.append(entries_record(mine.epoch, entries, first=first), timeout=_WRITE_SECONDS):
            leader = self._ledger.leader
            raise StaleCommand(mine.epoch, leader.epoch if leader else mine.epoch)

    async def aclose(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            await stream.aclose()

    async def _reread(self) -> None:
        """From the first record on: what a leader has no use for, a candidate needs."""
        await self.aclose()
        ledger = self._ledger = Ledger()
        self._stream = AmqpStream(
            self._settings,
            self._name,
            lambda offset, body: self._take(ledger, offset, body),
            exchange=self._exchange,
            key=self._key,
        )
        await self._stream.open()
        # An empty record that is read back: then all that was there before has been read.
        await self._stream.append(entries_record(-1, (), first=False), timeout=_WRITE_SECONDS)

    def _take(self, ledger: Ledger, offset: int, body: bytes) -> bool:
        counts = ledger.take(offset, body)
        if body == self._claiming:
            assert ledger.leader is not None
            self._claiming = b""
            self._history = History(claim=ledger.leader, entries=ledger.entries())
            ledger.forget()
        return counts
