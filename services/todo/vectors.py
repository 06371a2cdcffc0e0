"""The store of vectors: namespaces, each an index in memory."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, TypeVar

import orjson
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from fabric import Health, Service, ServiceError, rpc
from services.todo.contracts import Identifier, VectorBatch, VectorMatch, VectorNamespace, VectorQuery
from services.todo.vector_index import IndexFull, VectorIndex, WrongDimensions

T = TypeVar("T")

MAX_METADATA_BYTES = 8 * 1024


class VectorStoreSettings(BaseSettings):
    """From the environment, prefix ``VECTORS_``.

    Attributes:
        capacity: vectors of one namespace. A search looks at each, so ten times more take ten times as long.
        namespaces: how many there may be.
    """

    model_config = SettingsConfigDict(env_prefix="VECTORS_", env_ignore_empty=True)

    capacity: int = Field(default=20_000, ge=1, le=1_000_000)
    namespaces: int = Field(default=32, ge=1, le=10_000)


class VectorStore(Service):
    """Nearest neighbours by cosine. In memory and of one instance: a restart begins empty, and ``describe`` shows it.

    All work on the indexes runs in one thread of its own, in the order it came, so that a long search blocks nobody's
    heartbeat.
    """

    name, version = "vector-store", "1.0.0"
    capabilities = ("vector-search",)

    def __init__(self, settings: VectorStoreSettings | None = None) -> None:
        self._settings = settings or VectorStoreSettings()

    async def start(self) -> None:
        self._indexes: dict[str, VectorIndex] = {}
        self._born = uuid.uuid4().hex
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="vectors")

    async def stop(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def check_health(self) -> Health:
        vectors = await self._run(lambda: {name: len(index) for name, index in self._indexes.items()})
        return Health.ok(namespaces=len(vectors), vectors=sum(vectors.values()))

    @rpc(idempotent=True, timeout=10.0)
    async def upsert(self, batch: VectorBatch) -> VectorNamespace:
        """Add or replace; all of the batch before the first that does not fit.

        Raises:
            ServiceError: ``vectors.full``, ``vectors.dimensions`` or ``vectors.invalid``.
        """
        for item in batch.items:
            if len(orjson.dumps(item.metadata)) > MAX_METADATA_BYTES:
                raise ServiceError(
                    f"the metadata of {item.id} is over {MAX_METADATA_BYTES} bytes; keep large data elsewhere, by id",
                    code="vectors.invalid",
                )
        return await self._run(lambda: self._upsert(batch))

    @rpc(idempotent=True, timeout=5.0)
    async def query(self, query: VectorQuery) -> list[VectorMatch]:
        """The most similar, the best first; none when the namespace is empty or unknown."""

        def search() -> list[VectorMatch]:
            index = self._indexes.get(query.namespace)
            found = index.search(query.vector, limit=query.limit, min_score=query.min_score) if index else []
            return [VectorMatch(id=near.id, score=near.score, metadata=dict(near.metadata)) for near in found]

        return await self._run(search)

    @rpc(idempotent=True, timeout=5.0)
    async def remove(self, namespace: Identifier, ids: Annotated[tuple[Identifier, ...], Field(max_length=1000)]) -> int:
        """How many of ``ids`` were there."""
        return await self._run(lambda: self._remove(namespace, ids))

    @rpc(idempotent=True, timeout=5.0)
    async def describe(self, namespace: Identifier) -> VectorNamespace:
        return await self._run(lambda: self._describe(namespace))

    async def _run(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except IndexFull as error:
            raise ServiceError(
                f"{error}; remove some or raise VECTORS_CAPACITY", code="vectors.full", details={"limit": error.limit}
            ) from error
        except WrongDimensions as error:
            raise ServiceError(
                f"{error}; one namespace holds the vectors of one model",
                code="vectors.dimensions",
                details={"given": error.given, "expected": error.expected},
            ) from error
        except ValueError as error:
            raise ServiceError(str(error), code="vectors.invalid") from error

    def _upsert(self, batch: VectorBatch) -> VectorNamespace:
        index = self._indexes.get(batch.namespace)
        if index is None:
            if len(self._indexes) >= self._settings.namespaces:
                raise ServiceError(
                    f"there are {self._settings.namespaces} namespaces; empty one or raise VECTORS_NAMESPACES",
                    code="vectors.full",
                )
            index = self._indexes.setdefault(batch.namespace, VectorIndex(self._settings.capacity))
        for item in batch.items:
            index.put(item.id, item.vector, item.metadata)
        return self._describe(batch.namespace)

    def _remove(self, namespace: str, ids: Sequence[str]) -> int:
        index = self._indexes.get(namespace)
        if index is None:
            return 0
        removed = sum(index.remove(id) for id in ids)
        if not len(index):
            del self._indexes[namespace]
        return removed

    def _describe(self, namespace: str) -> VectorNamespace:
        index = self._indexes.get(namespace)
        return VectorNamespace(
            namespace=namespace,
            store=self._born,
            vectors=len(index) if index else 0,
            dimensions=index.dimensions if index else None,
        )
