"""The default fleet: fifteen services and the four stages they come up in. Times in seconds."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from fabric.startup.definition import ServiceDefinition
from fabric.startup.stages import HealthGate, StartupStage

_SERVICES = (
    ServiceDefinition(name="prisma-service", critical=True, timeout=30.0),
    ServiceDefinition(name="cache-manager", timeout=10.0),
    ServiceDefinition(name="message-broker", critical=True, timeout=20.0),
    ServiceDefinition(name="event-store", critical=True, dependencies=("prisma-service",), timeout=20.0),
    ServiceDefinition(
        name="cqrs-coordinator", critical=True, dependencies=("prisma-service", "event-store", "message-broker"), timeout=30.0
    ),
    ServiceDefinition(name="read-model-manager", dependencies=("event-store",), timeout=20.0),
    ServiceDefinition(name="service-registry", critical=True, timeout=15.0),
    ServiceDefinition(name="service-mesh", critical=True, dependencies=("service-registry",), timeout=20.0),
    ServiceDefinition(name="api-gateway", critical=True, dependencies=("service-mesh", "cache-manager"), timeout=30.0),
    ServiceDefinition(name="vector-store", timeout=15.0),
    ServiceDefinition(name="embedding-service", dependencies=("vector-store",), timeout=25.0),
    ServiceDefinition(name="nlp-service", timeout=25.0, capabilities=("text-analysis",)),
    ServiceDefinition(name="rag-service", dependencies=("embedding-service", "vector-store"), timeout=35.0),
    ServiceDefinition(
        name="email-service",
        dependencies=("cache-manager",),
        optional_dependencies=("template-service",),
        timeout=20.0,
        capabilities=("email-sending", "templating"),
    ),
    ServiceDefinition(name="template-service", timeout=15.0),
)

SERVICE_DEPENDENCIES: Mapping[str, ServiceDefinition] = MappingProxyType({service.name: service for service in _SERVICES})
"""Every service of the default fleet by its name."""

DEFAULT_STARTUP_STAGES: tuple[StartupStage, ...] = (
    StartupStage(
        name="core-infrastructure",
        services=("prisma-service", "cache-manager", "message-broker"),
        health_gate=HealthGate(required=("prisma-service",), optional=("cache-manager",)),
        timeout=60.0,
    ),
    StartupStage(
        name="event-system",
        services=("event-store", "cqrs-coordinator", "read-model-manager"),
        health_gate=HealthGate(required=("event-store", "cqrs-coordinator")),
        timeout=45.0,
    ),
    StartupStage(
        name="microservices-infrastructure",
        services=("service-registry", "service-mesh", "api-gateway"),
        health_gate=HealthGate(required=("service-registry", "service-mesh")),
        timeout=30.0,
    ),
    StartupStage(
        name="optional-features",
        services=("vector-store", "embedding-service", "nlp-service", "rag-service", "email-service", "template-service"),
        health_gate=HealthGate(optional=("vector-store", "embedding-service")),
        timeout=60.0,
        skip_on_timeout=True,
    ),
)
"""The stages of the default fleet, in order."""
