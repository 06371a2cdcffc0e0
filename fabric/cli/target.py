"""Which fleet a command is meant for."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from fabric.cli.record import Record, running_fleets
from fabric.errors import ConfigurationError, UnknownName

if TYPE_CHECKING:  # so that commands that talk to nobody do not pay for it
    from fabric.hub import Hub


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A broker and the namespace on it; ``record`` of a fleet that runs on this machine."""

    broker_url: str = field(repr=False)
    namespace: str
    record: Record | None = None


def find_target(
    *,
    broker_url: str | None = None,
    namespace: str | None = None,
    fleet: str | None = None,
    environment: Mapping[str, str] | None = None,
    directory: Path | None = None,
) -> Target:
    """What was said on the command line, else in the environment, else the fleet that runs in this directory or above.

    Raises:
        ConfigurationError: nothing says it, or several fleets run here.
        UnknownName: no fleet of this name runs here.
    """
    environment = os.environ if environment is None else environment
    running = running_fleets(directory or Path.cwd())
    record = _chosen(running, fleet)
    url = broker_url or (record.broker_url if fleet and record else None) or environment.get("FABRIC_BROKER_URL")
    if url is None and record is None:
        if running:
            names = ", ".join(record.fleet for record in running)
            raise ConfigurationError(f"several fleets run here: {names}; choose one with --fleet")
        raise ConfigurationError("no fleet runs here; start one with `fabric up FLEET`, or name its broker with --broker-url")
    if record is None or (url is not None and url != record.broker_url):
        record = next((candidate for candidate in running if candidate.broker_url == url), None)
    there = record.namespace if record else "fabric"
    return Target(
        broker_url=url or (record.broker_url if record else ""),
        namespace=namespace or environment.get("FABRIC_NAMESPACE") or there,
        record=record,
    )


def _chosen(running: list[Record], fleet: str | None) -> Record | None:
    if fleet is None:
        return running[0] if len(running) == 1 else None
    for record in running:
        if record.fleet == fleet:
            return record
    raise UnknownName("running fleet", fleet, used_by="--fleet", known=[record.fleet for record in running])


@asynccontextmanager
async def connected(target: Target, *, timeout: float, name: str = "fabric-cli") -> AsyncIterator[Hub]:
    """A hub on the fleet, under the name of the command line.

    Args:
        timeout: seconds to reach the broker.
    """
    from fabric.config import Settings
    from fabric.hub import Hub

    settings = Settings(namespace=target.namespace, connect_timeout=timeout, instance="")
    async with Hub.connect(name, url=target.broker_url, settings=settings) as hub:
        yield hub
