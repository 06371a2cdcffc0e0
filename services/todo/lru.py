"""A bounded cache: least recently used goes first, and nothing is given out after its time."""

from __future__ import annotations

import heapq
import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgpack

Key = tuple[str, str]


class TooLarge(Exception):
    """An entry of ``size`` bytes, where one may have ``limit``."""

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(f"an entry of {size} bytes is over the limit of {limit}")
        self.size, self.limit = size, limit


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheLimits:
    """``entries`` and ``total_bytes`` of all namespaces together, ``entry_bytes`` of one; whichever is reached first."""

    entries: int = 10_000
    total_bytes: int = 64 * 1024 * 1024
    entry_bytes: int = 1024 * 1024

    def __post_init__(self) -> None:
        if min(self.entries, self.total_bytes, self.entry_bytes) < 1 or self.entry_bytes > self.total_bytes:
            raise ValueError("cache limits must be positive, and entry_bytes at most total_bytes")


@dataclass(slots=True)
class CacheCounts:
    hits: int = 0
    misses: int = 0
    evictions: int = 0
    expirations: int = 0


@dataclass(frozen=True, slots=True)
class _Entry:
    packed: bytes
    expires: float

    @property
    def size(self) -> int:
        return len(self.packed)


class Cache:
    """Plain data by (namespace, key). Values are kept packed, so nobody shares one with the cache by accident.

    Args:
        limits: when to evict.
        now: seconds from a clock that never goes back.
    """

    def __init__(self, limits: CacheLimits, now: Callable[[], float]) -> None:
        self._limits, self._now = limits, now
        self._entries: OrderedDict[Key, _Entry] = OrderedDict()
        self._expiries: list[tuple[float, Key]] = []
        self.bytes = 0
        self.counts = CacheCounts()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, namespace: str, key: str) -> tuple[bool, Any]:
        """Whether it is there, and its value."""
        entry = self._live((namespace, key))
        if entry is None:
            self.counts.misses += 1
            return False, None
        self.counts.hits += 1
        self._entries.move_to_end((namespace, key))
        return True, msgpack.unpackb(entry.packed)

    def set(self, namespace: str, key: str, value: Any, *, ttl: float | None = None, only_new: bool = False) -> bool:
        """False: ``only_new`` and it is there.

        Raises:
            TooLarge: nothing was changed.
        """
        if only_new and self._live((namespace, key)) is not None:
            return False
        self._put((namespace, key), value, math.inf if ttl is None else self._now() + ttl)
        return True

    def increment(self, namespace: str, key: str, by: int, *, ttl: float | None = None) -> int:
        """The new count, from 0; ``ttl`` counts from the first increment and is not extended by later ones.

        Raises:
            TypeError: it is there and not an integer.
        """
        entry = self._live((namespace, key))
        value = msgpack.unpackb(entry.packed) if entry else 0
        if not isinstance(value, int) or isinstance(value, bool):
            raise TypeError(f"{namespace}/{key} holds a {type(value).__name__}, not a count")
        expires = entry.expires if entry else math.inf if ttl is None else self._now() + ttl
        self._put((namespace, key), value + by, expires)
        return value + by

    def delete(self, namespace: str, key: str) -> bool:
        """False: it was not there."""
        if self._live((namespace, key)) is None:
            return False
        self._drop((namespace, key))
        return True

    def clear(self, namespace: str) -> int:
        """How many entries the namespace had."""
        keys = [key for key in self._entries if key[0] == namespace]
        for key in keys:
            self._drop(key)
        return len(keys)

    def expire(self) -> int:
        """Drop what is over its time, and say how many; it is invisible already, this frees the memory."""
        now, dropped = self._now(), 0
        while self._expiries and self._expiries[0][0] <= now:
            expires, key = heapq.heappop(self._expiries)
            entry = self._entries.get(key)
            if entry is not None and entry.expires == expires:
                self._drop(key)
                self.counts.expirations += 1
                dropped += 1
        return dropped

    def _live(self, key: Key) -> _Entry | None:
        entry = self._entries.get(key)
        if entry is not None and entry.expires <= self._now():
            self._drop(key)
            self.counts.expirations += 1
            return None
        return entry

    def _put(self, key: Key, value: Any, expires: float) -> None:
        entry = _Entry(msgpack.packb(value), expires)
        if entry.size > self._limits.entry_bytes:
            raise TooLarge(entry.size, self._limits.entry_bytes)
        if key in self._entries:
            self._drop(key)
        self.expire()
        while self._entries and (
            len(self._entries) >= self._limits.entries or self.bytes + entry.size > self._limits.total_bytes
        ):
            self._drop(next(iter(self._entries)))
            self.counts.evictions += 1
        self._entries[key] = entry
        self.bytes += entry.size
        if expires != math.inf:
            heapq.heappush(self._expiries, (expires, key))
            self._compact()

    def _drop(self, key: Key) -> None:
        self.bytes -= self._entries.pop(key).size

    def _compact(self) -> None:
        # Overwritten entries leave their old expiry in the heap; a key set again and again must not grow it for ever.
        if len(self._expiries) > 64 + 2 * len(self._entries):
            self._expiries = [(entry.expires, key) for key, entry in self._entries.items() if entry.expires != math.inf]
            heapq.heapify(self._expiries)
