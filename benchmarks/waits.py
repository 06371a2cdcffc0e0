"""The reference fleet with waits as its real counterparts have them.

The services here are small and start with milliseconds of computing. Databases, brokers and models keep their callers waiting:
they load files, replay logs, elect leaders. Such a start takes time and no processor of this machine's, which is what
orchestration is about.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

FLEET = Path(__file__).resolve().parents[1] / "services/todo/fleet.yaml"

WAITS = {
    "prisma-service": 3.0,
    "cache-manager": 1.0,
    "message-broker": 5.0,
    "event-store": 2.0,
    "cqrs-coordinator": 1.0,
    "read-model-manager": 2.0,
    "service-registry": 1.5,
    "service-mesh": 2.0,
    "api-gateway": 1.5,
    "vector-store": 4.0,
    "embedding-service": 8.0,
    "nlp-service": 5.0,
    "rag-service": 3.0,
    "email-service": 1.0,
    "template-service": 0.5,
}
"""Seconds, of the order that PostgreSQL with a migration, Redis, RabbitMQ, a log that is replayed, Consul, Envoy, a vector
database, a sentence-embedding model, a language model of spaCy and small programs take; assumed, not measured."""


def with_waits(path: Path, scale: float) -> Path:
    """Writes the fleet file with the waits, times ``scale``, to ``path``."""
    content: dict[str, Any] = yaml.safe_load(FLEET.read_text(encoding="utf-8"))
    for name, body in content["services"].items():
        body["run"] = f"benchmarks.waiting:{body['run'].rpartition(':')[2]}"
        body["env"] = {**body.get("env", {}), "BENCH_WAIT_SECONDS": str(scale * WAITS[name])}
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return path
