"""What the services of a fleet offer and subscribe to, read from their classes without starting them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fabric.contract import ServiceContract, contract_of
from fabric.coordination.fleet import Fleet, RunSpec
from fabric.coordination.host import load_service
from fabric.errors import ConfigurationError
from fabric.transports.base import QueueSpec
from fabric.transports.topology import Topology


def contracts_of(fleet: Fleet) -> dict[str, ServiceContract | None]:
    """By service, in the order of the file; None for one that is started by a command, or by somebody else: nothing is known.

    Imports the modules of the services, as starting them would.

    Raises:
        ConfigurationError: one of them can't be imported.
    """
    return {name: _contract(run) if run.target else None for name, run in fleet.runs.items()}


def _contract(run: RunSpec) -> ServiceContract:
    assert run.target is not None
    with _importing_from(run.cwd or Path.cwd()):
        try:
            return contract_of(load_service(run.target))
        except ConfigurationError:
            raise
        except Exception as error:
            raise ConfigurationError(f"{run.target!r} can't be imported: {type(error).__name__}: {error}") from error


@contextmanager
def _importing_from(folder: Path) -> Iterator[None]:
    """As ``fabric run`` does when it is started there."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def event_queues(contract: ServiceContract, topology: Topology) -> tuple[QueueSpec, ...]:
    """The durable queues of a service, as its subscriber declares them."""
    queues = []
    for group, handlers in contract.groups.items():
        options = handlers[0].options
        assert options is not None
        queues.append(
            topology.event_group(
                contract.name,
                tuple(dict.fromkeys(pattern for handler in handlers for pattern in handler.patterns)),
                group=group,
                prefetch=options.prefetch(
                    max(handler.options.concurrency for handler in handlers if handler.options is not None)
                ),
                max_attempts=options.deliveries,
                retry_delays=options.retry_delays,
                ordered=options.ordered,
            )
        )
    return tuple(queues)
