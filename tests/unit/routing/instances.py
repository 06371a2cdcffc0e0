"""Instances and endpoints as tests need them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fabric.health import Health
from fabric.routing.instance import Instance, InstanceState
from fabric.routing.registry import Endpoint


def instance(id: str = "a-1", **given: Any) -> Instance:
    """A healthy instance that takes calls, unless ``given`` says otherwise."""
    whole: dict[str, Any] = {
        "service": "a",
        "incarnation": 1,
        "state": InstanceState.RUNNING,
        "health": Health.ok(),
        **given,
    }
    return Instance(id=id, **whole)


def endpoints(weights: Iterable[int]) -> list[Endpoint]:
    """Endpoints in order of their ids, with these weights."""
    return [Endpoint(instance(f"i-{n:03}", weight=weight), 0.0) for n, weight in enumerate(weights)]
