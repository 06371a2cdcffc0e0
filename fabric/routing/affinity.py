"""The same key to the same instance, as long as it is there.

Weighted rendezvous hashing (Thaler and Ravishankar, "A Name-Based Mapping Scheme for Rendezvous", 1996; weights after
J. Resch, "New Hashing Algorithms for Data Storage", 2015): every hub comes to the same choice without talking to others, and
when an instance joins or leaves only the keys that it takes or had move.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b
from math import log

from fabric.routing.registry import Endpoint

_SCALE = 2.0**64


@lru_cache(maxsize=16_384)
def _draw(id: str, key: str) -> float:
    """A number above 0 and below 1 that all processes agree on; its logarithm."""
    digest = blake2b(f"{len(id)}:{id}{key}".encode(), digest_size=8).digest()
    return log((int.from_bytes(digest, "big") + 0.5) / _SCALE)


def by_key(candidates: Sequence[Endpoint], key: str) -> Endpoint:
    """The one of ``candidates``, which is not empty, that ``key`` belongs to."""
    return max(candidates, key=lambda endpoint: endpoint.instance.weight / -_draw(endpoint.id, key))
