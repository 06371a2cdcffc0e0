"""Topic matching against a model that is slow and plain, and what an exchange remembers."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabric.transports.base import ExchangeKind
from fabric.transports.exchange import Exchange, matches, words

WORDS = st.sampled_from(["a", "b", ""])
KEYS = st.lists(WORDS, max_size=6)
PATTERNS = st.lists(st.one_of(WORDS, st.sampled_from(["*", "#"])), max_size=6)


def model(pattern: list[str], key: list[str]) -> bool:
    if not pattern:
        return not key
    first, rest = pattern[0], pattern[1:]
    if first == "#":
        return any(model(rest, key[taken:]) for taken in range(len(key) + 1))
    return bool(key) and first in ("*", key[0]) and model(rest, key[1:])


@given(PATTERNS, KEYS)
def test_matches_as_the_model(pattern: list[str], key: list[str]) -> None:
    """Any pattern takes just the keys that its definition says."""
    assert matches(pattern, key) == model(pattern, key)


@given(st.lists(PATTERNS, max_size=8), KEYS)
def test_exchange_as_the_model(patterns: list[list[str]], key: list[str]) -> None:
    """A topic exchange gives a message once to each target with a binding that takes it, also after half were unbound."""
    exchange: Exchange[int] = Exchange("e", ExchangeKind.TOPIC)
    for target, pattern in enumerate(patterns):
        exchange.bind(target, ".".join(pattern))
    joined = ".".join(key)
    taking = {target for target, pattern in enumerate(patterns) if model(words(".".join(pattern)), words(joined))}
    assert sorted(exchange.route(joined)) == sorted(taking)
    for target, pattern in enumerate(patterns[: len(patterns) // 2]):
        exchange.unbind(target, ".".join(pattern))
    assert sorted(exchange.route(joined)) == sorted(target for target in taking if target >= len(patterns) // 2)


@pytest.mark.parametrize(
    ("pattern", "key", "taken"),
    [
        ("#", "", True),
        ("*", "", False),
        ("", "", True),
        ("a.#", "a", True),
        ("#.#", "", True),
        ("*.#.*", "a", False),
        ("a..b", "a..b", True),
    ],
)
def test_edges(pattern: str, key: str, taken: bool) -> None:
    """The empty key has no words, and an empty word is one, as in RabbitMQ."""
    assert matches(words(pattern), words(key)) == taken


def test_hostile_pattern() -> None:
    """A pattern made to be slow takes a time in proportion to its length, not to its power set."""
    began = time.process_time()
    assert not matches(["#", "a"] * 60 + ["b"], ["a"] * 120)
    assert time.process_time() - began < 1


def test_keys_from_outside() -> None:
    """Routing any number of different keys does not remember them all."""
    exchange: Exchange[int] = Exchange("e", ExchangeKind.TOPIC)
    exchange.bind(1, "#")
    for number in range(30_000):
        assert list(exchange.route(f"key.{number}")) == [1]
    assert len(exchange._routes) <= 10_000


def test_fanout_ignores_keys() -> None:
    """A fanout exchange has each target once, whatever and however often it was bound with."""
    exchange: Exchange[int] = Exchange("e", ExchangeKind.FANOUT)
    for key in ("a", "b"):
        exchange.bind(1, key)
        exchange.bind(2, key)
    assert sorted(exchange.route("c")) == [1, 2]
    exchange.unbind(1, "a")
    assert sorted(exchange.route("c")) == [1, 2]
    exchange.unbind(1, "b")
    assert sorted(exchange.route("c")) == [2]
