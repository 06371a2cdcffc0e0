"""Texts as vectors: to-dos are found by what they mean, as far as the table of meanings goes."""

from __future__ import annotations

import pytest

from fabric import Hub
from fabric.errors import ValidationFailed
from fabric.testing import Bench
from services.todo.contracts import Embeddings
from services.todo.embedding import EmbeddingService, EmbeddingSettings, HashedEmbedding
from services.todo.rag import MIN_SCORE
from services.todo.vector_index import VectorIndex

TODOS = (
    "Buy milk",
    "Call mom",
    "Pay the electricity bill",
    "Book a dentist appointment",
    "Fix the bike",
    "Clean the kitchen",
    "Write the quarterly report",
    "Reserve a table at the restaurant",
    "Renew passport",
    "Send a birthday card to Anna",
    "Take the car to the garage",
    "Walk the dog",
    "Water the plants",
    "Pick up the kids from school",
)

PARAPHRASES = (
    ("get some milk at the supermarket", "Buy milk"),
    ("purchase dairy", "Buy milk"),
    ("phone my mother", "Call mom"),
    ("settle the power invoice", "Pay the electricity bill"),
    ("schedule a checkup for my teeth", "Book a dentist appointment"),
    ("repair bicycle", "Fix the bike"),
    ("tidy up the cooking area", "Clean the kitchen"),
    ("draft the document for Q3", "Write the quarterly report"),
    ("dinner reservation", "Reserve a table at the restaurant"),
    ("extend travel papers", "Renew passport"),
    ("present for Anna's party", "Send a birthday card to Anna"),
    ("vehicle to the mechanic", "Take the car to the garage"),
    ("go out with the puppy", "Walk the dog"),
    ("flowers in the garden", "Water the plants"),
    ("collect the children", "Pick up the kids from school"),
)


@pytest.fixture(scope="module")
def index() -> VectorIndex:
    embedding, index = HashedEmbedding(), VectorIndex(100)
    for todo in TODOS:
        index.put(todo, embedding.embed(todo), {})
    return index


@pytest.mark.parametrize(("query", "meant"), PARAPHRASES)
def test_a_paraphrase_finds_what_it_means(index: VectorIndex, query: str, meant: str) -> None:
    """Of fourteen to-dos the one that is meant comes first, above the score under which nothing counts as found."""
    (best,) = index.search(HashedEmbedding().embed(query), limit=1)
    assert best.id == meant
    assert best.score >= MIN_SCORE


@pytest.mark.parametrize("query", ["quantum physics lecture", "the weather in Oslo", "how many moons has Jupiter", "xyzzy"])
def test_what_nobody_noted_is_not_found(index: VectorIndex, query: str) -> None:
    """A text that has nothing to do with any to-do stays below that score."""
    assert index.search(HashedEmbedding().embed(query), limit=1, min_score=MIN_SCORE) == []


def test_the_vector_is_a_function_of_the_text() -> None:
    """The same text has the same unit vector in every process; without a letter it is zero; case and endings don't matter."""
    embedding = HashedEmbedding()
    vector = embedding.embed("Buy milk")
    assert sum(value * value for value in vector) == pytest.approx(1.0)
    assert vector == HashedEmbedding().embed("BUY milk!")
    assert [round(value, 6) for value in vector if value][:2] == [0.118947, -0.118947]
    assert set(embedding.embed("?!")) == {0.0}


def test_too_few_dimensions_are_refused() -> None:
    """Under sixteen dimensions everything collides."""
    with pytest.raises(ValueError, match="at least 16"):
        HashedEmbedding(15)


async def test_the_service_embeds_by_capability(bench: Bench, hub: Hub) -> None:
    """A caller that knows only the capability gets one vector per text, in order, and no texts is an error."""
    await bench.start(EmbeddingService(EmbeddingSettings(embedding_dimensions=64)))
    answer = await hub.call_by_capability("embedding", "embed", {"texts": ["buy milk", "call mom"]}, returns=Embeddings)
    assert answer.dimensions == 64
    assert answer.vectors == (HashedEmbedding(64).embed("buy milk"), HashedEmbedding(64).embed("call mom"))
    with pytest.raises(ValidationFailed):
        await hub.call_by_capability("embedding", "embed", {"texts": []})
