"""Texts as vectors, small enough to need no model file."""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import Iterator
from typing import Annotated, Final

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from fabric import Health, Service, rpc
from services.todo.contracts import Embeddings
from services.todo.words import content_words, meanings_of, words_of

Texts = Annotated[tuple[Annotated[str, Field(max_length=8000)], ...], Field(min_length=1, max_length=256)]


class HashedEmbedding:
    """Bags of words, their meanings and their letter trigrams, hashed into a fixed number of dimensions.

    The hashing trick with signs (Weinberger et al., "Feature Hashing for Large Scale Multitask Learning", 2009): no
    vocabulary, no training, the same vector for a text on every machine. It sees shared words, misspellings that share
    trigrams, and synonyms of the table in ``words``. It does not see word order, negation or anything that the table
    lacks; a real model goes behind the same method of the same capability.

    Args:
        dimensions: more means fewer collisions of features and longer vectors.
    """

    WORD: Final = 1.0
    MEANING: Final = 0.9
    TRIGRAM: Final = 0.25

    def __init__(self, dimensions: int = 384) -> None:
        if dimensions < 16:
            raise ValueError(f"dimensions must be at least 16, not {dimensions}")
        self.dimensions = dimensions
        self.model = f"hashed-ngrams-{dimensions}-v1"

    def embed(self, text: str) -> tuple[float, ...]:
        """The unit vector of ``text``; all zero for a text without a letter or digit."""
        values = [0.0] * self.dimensions
        for feature, weight in self._features(text):
            digest = int.from_bytes(hashlib.blake2b(feature.encode(), digest_size=8).digest(), "big")
            values[(digest >> 1) % self.dimensions] += weight if digest & 1 else -weight
        length = math.sqrt(sum(value * value for value in values))
        return tuple(value / length for value in values) if length else tuple(values)

    def _features(self, text: str) -> Iterator[tuple[str, float]]:
        # A text of stop words alone ("to do") is still better found by them than not at all.
        for word in content_words(text) or words_of(text):
            meanings = meanings_of(word)
            yield f"w:{word}", self.WORD
            for meaning in meanings:
                yield f"m:{meaning}", self.MEANING
            padded = f"^{word}$"
            for start in range(len(padded) - 2):
                yield f"t:{padded[start : start + 3]}", self.TRIGRAM


class EmbeddingSettings(BaseSettings):
    """From the environment.

    Attributes:
        startup_warmup_seconds: time that ``start`` spends as if it loaded a model from disk, which this small one need
            not; for measuring how a fleet with a real model comes up.
        embedding_dimensions: see ``HashedEmbedding``.
    """

    model_config = SettingsConfigDict(env_ignore_empty=True)

    startup_warmup_seconds: float = Field(default=0.0, ge=0, le=600)
    embedding_dimensions: int = Field(default=384, ge=16, le=4096)


class EmbeddingService(Service):
    """Capability ``embedding``."""

    name, version = "embedding-service", "1.0.0"
    capabilities = ("embedding",)
    dependencies = ("vector-store",)

    def __init__(self, settings: EmbeddingSettings | None = None) -> None:
        self._settings = settings or EmbeddingSettings()
        self._embedding = HashedEmbedding(self._settings.embedding_dimensions)

    async def start(self) -> None:
        await asyncio.sleep(self._settings.startup_warmup_seconds)

    async def check_health(self) -> Health:
        alike = _cosine(self._embedding.embed("buy milk"), self._embedding.embed("purchase milk"))
        if not 0.5 < alike <= 1.001:
            return Health.bad(f"two synonymous texts have a similarity of {alike:.2f}: the table of meanings is damaged")
        return Health.ok(model=self._embedding.model, dimensions=self._embedding.dimensions)

    @rpc(idempotent=True, timeout=5.0, concurrency=8)
    async def embed(self, texts: Texts) -> Embeddings:
        """One vector per text, in order. Many long texts take a while, so other calls get a turn after each."""
        vectors = []
        for text in texts:
            vectors.append(self._embedding.embed(text))
            await asyncio.sleep(0)
        return Embeddings(model=self._embedding.model, dimensions=self._embedding.dimensions, vectors=tuple(vectors))


def _cosine(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))
