"""A cache that the services share."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from fabric import Health, Service, ServiceError, rpc
from fabric.clock import Clock, SystemClock
from services.todo.contracts import CacheAnswer, CacheEntry, CacheFacts, CacheName, Seconds
from services.todo.lru import Cache, CacheLimits, TooLarge

Step = Annotated[int, Field(ge=-1_000_000_000, le=1_000_000_000)]


class CacheSettings(BaseSettings):
    """From the environment, prefix ``CACHE_``; see ``CacheLimits``. More entries cost memory, fewer cost hits."""

    model_config = SettingsConfigDict(env_prefix="CACHE_", env_ignore_empty=True)

    entries: int = Field(default=10_000, ge=1)
    total_bytes: int = Field(default=64 * 1024 * 1024, ge=1)
    entry_bytes: int = Field(default=1024 * 1024, ge=1)


class CacheManager(Service):
    """Values with a time to live, by namespace and key. In memory: a restart begins empty, which a cache may.

    Two instances are two caches; whoever counts or locks with it needs one.
    """

    name, version = "cache-manager", "1.0.0"
    capabilities = ("caching",)

    def __init__(self, settings: CacheSettings | None = None, clock: Clock | None = None) -> None:
        settings = settings or CacheSettings()
        limits = CacheLimits(entries=settings.entries, total_bytes=settings.total_bytes, entry_bytes=settings.entry_bytes)
        self._cache = Cache(limits, (clock or SystemClock()).monotonic)

    async def check_health(self) -> Health:
        self._cache.expire()
        return Health.ok(entries=len(self._cache), bytes=self._cache.bytes)

    @rpc(idempotent=True, timeout=2.0)
    async def get(self, namespace: CacheName, key: CacheName) -> CacheAnswer:
        found, value = self._cache.get(namespace, key)
        return CacheAnswer(found=found, value=value)

    @rpc(timeout=2.0)
    async def set(self, entry: CacheEntry) -> bool:
        """False: ``only_new`` and it is there, so that of several callers one gets True.

        Raises:
            ServiceError: ``cache.too-large``.
        """
        try:
            return self._cache.set(entry.namespace, entry.key, entry.value, ttl=entry.ttl, only_new=entry.only_new)
        except TooLarge as error:
            raise ServiceError(
                f"{error}; keep it elsewhere or raise CACHE_ENTRY_BYTES",
                code="cache.too-large",
                details={"size": error.size, "limit": error.limit},
            ) from error

    @rpc(timeout=2.0)
    async def incr(self, namespace: CacheName, key: CacheName, by: Step = 1, ttl: Seconds | None = None) -> int:
        """The new count; ``ttl`` in seconds from the first increment.

        Raises:
            ServiceError: ``cache.not-a-count``.
        """
        try:
            return self._cache.increment(namespace, key, by, ttl=ttl)
        except TypeError as error:
            raise ServiceError(f"{error}; delete it first", code="cache.not-a-count") from error

    @rpc(idempotent=True, timeout=2.0)
    async def delete(self, namespace: CacheName, key: CacheName) -> bool:
        """Whether it was there."""
        return self._cache.delete(namespace, key)

    @rpc(idempotent=True, timeout=2.0)
    async def clear(self, namespace: CacheName) -> int:
        """How many entries it had."""
        return self._cache.clear(namespace)

    @rpc(idempotent=True, timeout=2.0)
    async def stats(self) -> CacheFacts:
        counts = self._cache.counts
        return CacheFacts(
            entries=len(self._cache),
            bytes=self._cache.bytes,
            hits=counts.hits,
            misses=counts.misses,
            evictions=counts.evictions,
            expirations=counts.expirations,
        )
