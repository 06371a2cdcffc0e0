"""Where the memory broker puts a message: exchanges, binding keys and their wildcards."""

from __future__ import annotations

from collections.abc import Collection
from typing import Generic, TypeVar

from fabric.transports.base import ExchangeKind

Q = TypeVar("Q")
_MOST_REMEMBERED = 10_000


def words(key: str) -> list[str]:
    """The words of a key. The empty key has none, as in RabbitMQ."""
    return key.split(".") if key else []


def matches(pattern: list[str], key: list[str]) -> bool:
    """Whether a topic pattern takes a key; ``*`` is one word, ``#`` any number, none included.

    Only the last ``#`` is ever tried again, as in glob matching, so the time is at most the product of both lengths
    whatever a hostile pattern holds.
    """
    at = word = 0
    after_hash = retried_from = -1
    while word < len(key):
        if at < len(pattern) and pattern[at] == "#":
            after_hash, retried_from = at + 1, word
            at += 1
        elif at < len(pattern) and (pattern[at] == "*" or pattern[at] == key[word]):
            at += 1
            word += 1
        elif after_hash >= 0:
            retried_from += 1
            at, word = after_hash, retried_from
        else:
            return False
    return all(rest == "#" for rest in pattern[at:])


class Exchange(Generic[Q]):
    """One exchange and what is bound to it. A target gets a message once, however many of its bindings match."""

    def __init__(self, name: str, kind: ExchangeKind) -> None:
        self.name, self.kind = name, kind
        self._bound: dict[str, dict[Q, None]] = {}
        self._patterns: dict[str, list[str]] = {}
        self._routes: dict[str, Collection[Q]] = {}

    def bind(self, target: Q, key: str) -> None:
        """Idempotent."""
        self._bound.setdefault(key, {})[target] = None
        if self.kind is ExchangeKind.TOPIC and ("*" in key or "#" in key):
            self._patterns[key] = words(key)
        self._routes.clear()

    def unbind(self, target: Q, key: str) -> None:
        """Idempotent."""
        targets = self._bound.get(key, {})
        targets.pop(target, None)
        if not targets:
            self._bound.pop(key, None)
            self._patterns.pop(key, None)
        self._routes.clear()

    def route(self, key: str) -> Collection[Q]:
        """Everything that takes a message sent with ``key``."""
        found = self._routes.get(key)
        if found is None:
            # Keys come from outside: what is remembered of them has a bound.
            if len(self._routes) >= _MOST_REMEMBERED:
                self._routes.clear()
            found = self._routes[key] = self._match(key)
        return found

    def _match(self, key: str) -> Collection[Q]:
        if self.kind is ExchangeKind.FANOUT:
            return tuple({target: None for targets in self._bound.values() for target in targets})
        found = dict(self._bound.get(key, {}))
        if self._patterns:
            key_words = words(key)
            for pattern, pattern_words in self._patterns.items():
                if matches(pattern_words, key_words):
                    found |= self._bound[pattern]
        return tuple(found)
