"""The cache on the bus."""

from __future__ import annotations

import asyncio

import pytest

from fabric import Hub
from fabric.errors import RemoteError, ValidationFailed
from fabric.testing import Bench
from services.todo.cache import CacheManager, CacheSettings
from services.todo.contracts import CacheAnswer, CacheEntry


@pytest.fixture
async def cache(bench: Bench, hub: Hub) -> CacheManager:
    await bench.start(CacheManager(CacheSettings(entry_bytes=1000)))
    return hub.proxy(CacheManager)


async def test_what_is_set_is_got(cache: CacheManager) -> None:
    """Plain data come back as they went, a stored None differs from nothing, and the counts tell hits from misses."""
    await cache.set(CacheEntry(namespace="n", key="a", value={"x": [1, 2.5, None, "é"]}))
    await cache.set(CacheEntry(namespace="n", key="none", value=None))
    assert await cache.get("n", "a") == CacheAnswer(found=True, value={"x": [1, 2.5, None, "é"]})
    assert await cache.get("n", "none") == CacheAnswer(found=True, value=None)
    assert await cache.get("n", "b") == CacheAnswer(found=False)
    assert await cache.delete("n", "a")
    facts = await cache.stats()
    assert (facts.entries, facts.hits, facts.misses) == (1, 2, 1)
    assert await cache.clear("n") == 1


async def test_counting_together_loses_nothing(cache: CacheManager) -> None:
    """Fifty increments at once make fifty."""
    counts = await asyncio.gather(*(cache.incr("n", "hits") for _ in range(50)))
    assert sorted(counts) == list(range(1, 51))


async def test_refusals_have_codes(cache: CacheManager) -> None:
    """What is too large, no count, or without an end that counts is refused with a name for it."""
    with pytest.raises(RemoteError) as raised:
        await cache.set(CacheEntry(namespace="n", key="a", value="x" * 2000))
    assert raised.value.code == "cache.too-large"
    await cache.set(CacheEntry(namespace="n", key="text", value="x"))
    with pytest.raises(RemoteError) as raised:
        await cache.incr("n", "text")
    assert raised.value.code == "cache.not-a-count"
    with pytest.raises(ValidationFailed):
        await cache.incr("n", "hits", 1, -5.0)
