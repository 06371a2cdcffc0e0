"""The vector store on the bus."""

from __future__ import annotations

import pytest

from fabric import Hub
from fabric.errors import RemoteError
from fabric.testing import Bench
from services.todo.contracts import VectorBatch, VectorItem, VectorQuery
from services.todo.vectors import VectorStore, VectorStoreSettings


def _batch(namespace: str, **vectors: tuple[float, ...]) -> VectorBatch:
    return VectorBatch(
        namespace=namespace, items=tuple(VectorItem(id=id, vector=vector, metadata={"of": id}) for id, vector in vectors.items())
    )


@pytest.fixture
async def vectors(bench: Bench, hub: Hub) -> VectorStore:
    await bench.start(VectorStore(VectorStoreSettings(capacity=2, namespaces=2)), instance="vectors-1")
    return hub.proxy(VectorStore)


async def test_namespaces_are_apart(vectors: VectorStore) -> None:
    """A query sees its own namespace only, with metadata, the best first; an unknown one is empty."""
    await vectors.upsert(_batch("x", a=(1.0, 0.0), b=(1.0, 1.0)))
    await vectors.upsert(_batch("y", c=(1.0, 0.0)))
    found = await vectors.query(VectorQuery(namespace="x", vector=(1.0, 0.0)))
    assert [(match.id, match.metadata) for match in found] == [("a", {"of": "a"}), ("b", {"of": "b"})]
    assert await vectors.query(VectorQuery(namespace="z", vector=(1.0, 0.0))) == []
    assert await vectors.remove("x", ("a", "nobody")) == 1
    assert (await vectors.describe("x")).vectors == 1


async def test_limits_come_back_as_codes(vectors: VectorStore) -> None:
    """A full namespace, one namespace too many, other dimensions and large metadata are refused by code."""
    await vectors.upsert(_batch("x", a=(1.0, 0.0), b=(1.0, 1.0)))
    await vectors.upsert(_batch("y", c=(1.0,)))
    refused = {
        "vectors.full": (_batch("x", c=(1.0, 0.0)), _batch("z", a=(1.0,))),
        "vectors.dimensions": (_batch("x", a=(1.0,)),),
        "vectors.invalid": (
            VectorBatch(namespace="y", items=(VectorItem(id="c", vector=(1.0,), metadata={"text": "x" * 9000}),)),
        ),
    }
    for code, batches in refused.items():
        for batch in batches:
            with pytest.raises(RemoteError) as raised:
                await vectors.upsert(batch)
            assert raised.value.code == code


async def test_a_new_store_says_that_it_is_one(bench: Bench, vectors: VectorStore) -> None:
    """After a restart the store has another identity, which tells an indexer to begin anew."""
    before = await vectors.describe("x")
    await bench.stop("vectors-1")
    await bench.start(VectorStore())
    after = await vectors.describe("x")
    assert after.store != before.store
