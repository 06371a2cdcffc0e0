"""What a team writes: a class with methods that others call, events that it takes, and a health check."""

from __future__ import annotations

from typing import Any, ClassVar, Self

from fabric.contract import contract_of
from fabric.errors import ConfigurationError
from fabric.health import Health
from fabric.hub import Hub
from fabric.transports.topology import check_name


class Service:
    """One role in the fleet. Subclass it; each running process of it is an instance.

    Attributes:
        name: what callers use; letters, digits, ``-`` and ``_``.
        version: semantic version; callers may ask for a range.
        capabilities: named abilities that callers can route by instead of the name.
        dependencies: services that must be ready before ``start`` runs.
        optional_dependencies: services that it uses when they are there.
        metadata: plain data that travels with the announcement; may be set in ``start``.
        hub: set before ``start``; calls, publishes and broadcasts as this service.
    """

    name: ClassVar[str] = ""
    version: ClassVar[str] = "0.1.0"
    capabilities: ClassVar[tuple[str, ...]] = ()
    dependencies: ClassVar[tuple[str, ...]] = ()
    optional_dependencies: ClassVar[tuple[str, ...]] = ()

    hub: Hub
    metadata: dict[str, Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        try:
            check_name("service", cls.name)
            for capability in cls.capabilities:
                check_name("capability", capability)
        except ValueError as error:
            raise ConfigurationError(f"{cls.__qualname__}: {error}") from error
        contract_of(cls)
        service = super().__new__(cls)
        service.metadata = {}
        return service

    async def start(self) -> None:
        """The real initialisation. Runs when the service's turn in the start-up has come; raise to fail it."""

    async def stop(self) -> None:
        """Release what ``start`` took. Runs after the last handler has ended, also when ``start`` failed half-way."""

    async def check_health(self) -> Health:
        """Whether it can do its work now. Becomes the vote for the gate, so it must be quick and honest."""
        return Health.ok()
