"""The cache: time, size, order of eviction."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.todo.lru import Cache, CacheLimits, TooLarge


class Time:
    """Moved by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time() -> Time:
    return Time()


def _cache(time: Time, entries: int = 3, total_bytes: int = 1000, entry_bytes: int = 100) -> Cache:
    return Cache(CacheLimits(entries=entries, total_bytes=total_bytes, entry_bytes=entry_bytes), time)


def test_an_entry_ends_with_its_time(time: Time) -> None:
    """At the end of its time to live an entry is gone for reading, counted as expired, and its memory is given back."""
    cache = _cache(time)
    cache.set("n", "short", 1, ttl=10)
    cache.set("n", "long", 2)
    time.now = 9.99
    assert cache.get("n", "short") == (True, 1)
    time.now = 10.0
    assert cache.get("n", "short") == (False, None)
    assert cache.get("n", "long") == (True, 2)
    assert (len(cache), cache.counts.expirations) == (1, 1)


def test_unread_entries_are_swept(time: Time) -> None:
    """What nobody asks for again leaves with the next sweep; an entry set anew in the meantime stays."""
    cache = _cache(time)
    cache.set("n", "a", 1, ttl=5)
    cache.set("n", "b", 1, ttl=5)
    cache.set("n", "b", 2, ttl=50)
    time.now = 6.0
    assert cache.expire() == 1
    assert cache.get("n", "b") == (True, 2)


def test_the_least_recently_used_goes_first(time: Time) -> None:
    """A full cache drops what was neither read nor written for longest, by entries and by bytes."""
    cache = _cache(time)
    for key in "abc":
        cache.set("n", key, key)
    cache.get("n", "a")
    cache.set("n", "d", "d")
    assert [key for key in "abcd" if cache.get("n", key)[0]] == ["a", "c", "d"]
    small = _cache(time, entries=100, total_bytes=100, entry_bytes=60)
    small.set("n", "a", "x" * 50)
    small.set("n", "b", "x" * 50)
    assert (len(small), small.counts.evictions) == (1, 1)
    assert small.bytes <= 100


def test_an_entry_that_is_too_large_changes_nothing(time: Time) -> None:
    """It is refused, and what was there stays."""
    cache = _cache(time)
    cache.set("n", "a", 1)
    with pytest.raises(TooLarge):
        cache.set("n", "a", "x" * 200)
    assert cache.get("n", "a") == (True, 1)


def test_counting_keeps_its_first_end(time: Time) -> None:
    """Increments add up, the time to live counts from the first, and what is no count is refused."""
    cache = _cache(time)
    assert [cache.increment("n", "hits", 1, ttl=10) for _ in range(3)] == [1, 2, 3]
    time.now = 10.0
    assert cache.increment("n", "hits", 5, ttl=10) == 5
    cache.set("n", "text", "x")
    with pytest.raises(TypeError, match="holds a str"):
        cache.increment("n", "text", 1)


def test_only_new_leaves_what_is_there(time: Time) -> None:
    """Of two that set only_new the first wins, until its entry has ended."""
    cache = _cache(time)
    assert cache.set("n", "lock", "one", ttl=10, only_new=True)
    assert not cache.set("n", "lock", "two", ttl=10, only_new=True)
    time.now = 10.0
    assert cache.set("n", "lock", "two", only_new=True)


def test_values_are_not_shared(time: Time) -> None:
    """Changing a value after it was set, or one that was got, changes nothing in the cache; namespaces are apart."""
    cache = _cache(time)
    value = {"list": [1]}
    cache.set("n", "a", value)
    value["list"].append(2)
    cache.get("n", "a")[1]["list"].append(3)
    assert cache.get("n", "a") == (True, {"list": [1]})
    assert cache.get("other", "a") == (False, None)
    assert cache.clear("n") == 1
    assert not cache.delete("n", "a")


_STEPS = st.lists(st.tuples(st.sampled_from("sgdie"), st.sampled_from("abcdef"), st.integers(1, 40)), max_size=200)


@given(steps=_STEPS)
def test_the_books_balance_after_any_history(steps: list[tuple[str, str, int]]) -> None:
    """Whatever is done in whatever order, entries and bytes are what is really held, and within the limits."""
    time = Time()
    cache = _cache(time, entries=3, total_bytes=60, entry_bytes=45)
    for kind, key, number in steps:
        match kind:
            case "s":
                cache.set("n", key, "x" * number, ttl=number)
            case "g":
                cache.get("n", key)
            case "d":
                cache.delete("n", key)
            case "i":
                cache.increment("counts", key, number, ttl=number)
            case _:
                time.now += number / 10
                cache.expire()
        assert len(cache) <= 3
        assert 0 <= cache.bytes <= 60
    time.now += 100
    cache.expire()
    assert (len(cache), cache.bytes) == (0, 0)
