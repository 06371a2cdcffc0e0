"""Python services that talk over RabbitMQ and come up together."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what type checkers see; at run time each name is imported when it is first used
    from fabric.config import Settings
    from fabric.context import current_call
    from fabric.contract import on_broadcast, on_event, rpc
    from fabric.errors import CallError, ConfigurationError, FabricError, ServiceError
    from fabric.health import Health
    from fabric.hub import Hub
    from fabric.inflow import Stream
    from fabric.loop import run
    from fabric.options import CallOptions
    from fabric.routing.breaker_policy import BreakerPolicy
    from fabric.routing.ejection_policy import EjectionPolicy
    from fabric.routing.policies import Policies, RoutePolicy
    from fabric.routing.registry import ServiceRegistry
    from fabric.routing.retry import RetryPolicy
    from fabric.service import Service
    from fabric.startup.default_fleet import DEFAULT_STARTUP_STAGES, SERVICE_DEPENDENCIES
    from fabric.startup.definition import ServiceDefinition
    from fabric.startup.graph import ServiceDependencyGraph
    from fabric.startup.orchestrator import StartupOrchestrator
    from fabric.startup.profile import StartupProfile
    from fabric.startup.stages import StartupStage
    from fabric.wire.message import Priority, ServiceMessage

__version__ = "0.1.0"

_HOMES = {
    "BreakerPolicy": "fabric.routing.breaker_policy",
    "CallError": "fabric.errors",
    "CallOptions": "fabric.options",
    "ConfigurationError": "fabric.errors",
    "DEFAULT_STARTUP_STAGES": "fabric.startup.default_fleet",
    "EjectionPolicy": "fabric.routing.ejection_policy",
    "FabricError": "fabric.errors",
    "Health": "fabric.health",
    "Hub": "fabric.hub",
    "Policies": "fabric.routing.policies",
    "Priority": "fabric.wire.message",
    "RetryPolicy": "fabric.routing.retry",
    "RoutePolicy": "fabric.routing.policies",
    "SERVICE_DEPENDENCIES": "fabric.startup.default_fleet",
    "Service": "fabric.service",
    "ServiceDefinition": "fabric.startup.definition",
    "ServiceDependencyGraph": "fabric.startup.graph",
    "ServiceError": "fabric.errors",
    "ServiceMessage": "fabric.wire.message",
    "ServiceRegistry": "fabric.routing.registry",
    "Settings": "fabric.config",
    "StartupOrchestrator": "fabric.startup.orchestrator",
    "StartupProfile": "fabric.startup.profile",
    "StartupStage": "fabric.startup.stages",
    "Stream": "fabric.inflow",
    "current_call": "fabric.context",
    "on_broadcast": "fabric.contract",
    "on_event": "fabric.contract",
    "rpc": "fabric.contract",
    "run": "fabric.loop",
}

__all__ = [
    "BreakerPolicy",
    "CallError",
    "CallOptions",
    "ConfigurationError",
    "DEFAULT_STARTUP_STAGES",
    "EjectionPolicy",
    "FabricError",
    "Health",
    "Hub",
    "Policies",
    "Priority",
    "RetryPolicy",
    "RoutePolicy",
    "SERVICE_DEPENDENCIES",
    "Service",
    "ServiceDefinition",
    "ServiceDependencyGraph",
    "ServiceError",
    "ServiceMessage",
    "ServiceRegistry",
    "Settings",
    "StartupOrchestrator",
    "StartupProfile",
    "StartupStage",
    "Stream",
    "__version__",
    "current_call",
    "on_broadcast",
    "on_event",
    "rpc",
    "run",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'fabric' has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)
