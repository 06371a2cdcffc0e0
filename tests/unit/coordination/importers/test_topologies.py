"""S9: compose files of real systems, with exact counts. They are read from where they lie, see FABRIC_TOPOLOGIES."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import pytest

from fabric.coordination.fleet import parse_fleet
from fabric.coordination.importers.compose import read_compose
from fabric.coordination.importers.draft import Draft
from fabric.coordination.importers.kubernetes import read_kubernetes
from fabric.errors import ConfigurationError

BESIDE = Path(__file__).resolve().parents[4].parent / "shared" / "topologies"
ROOT = Path(os.environ.get("FABRIC_TOPOLOGIES", BESIDE))
OTEL = ROOT / "opentelemetry-demo"
ALL = ("compose.yaml", "compose.full.yaml", "compose.observability.yaml", "compose.agent.yaml")

pytestmark = pytest.mark.skipif(not ROOT.is_dir(), reason=f"no topologies at {ROOT}; set FABRIC_TOPOLOGIES")


def read(*files: Path) -> Draft:
    return read_compose(files, environment={})


def conditions(draft: Draft) -> Counter[str]:
    return Counter(str(edge.condition) for _, edge in draft.edges)


@pytest.mark.parametrize(
    ("files", "services", "edges"),
    [
        ("sock-shop/docker-compose.yml", 15, 0),
        ("sock-shop/docker-compose.monitoring.yml", 5, 3),
        ("sock-shop/docker-compose.logging.yml", 18, 17),
        ("sock-shop/docker-compose.yml sock-shop/docker-compose.logging.yml", 18, 17),
        ("deathstarbench/socialNetwork/docker-compose.yml", 27, 19),
        ("deathstarbench/socialNetwork/docker-compose-sharding.yml", 30, 25),
        ("deathstarbench/hotelReservation/docker-compose.yml", 24, 22),
        ("deathstarbench/mediaMicroservices/docker-compose.yml", 33, 0),
    ],
)
def test_services_and_edges(files: str, services: int, edges: int) -> None:
    """S9: lists, legacy links and conditions of Sock Shop and DeathStarBench come out with the exact counts, as a valid fleet."""
    draft = read(*(ROOT / file for file in files.split()))
    assert (len(draft.services), len(draft.edges)) == (services, edges)
    fleet = parse_fleet(draft.text(), "fleet.yaml")
    assert (len(fleet.graph), len(fleet.graph.edges)) == (services, edges)


def test_jobs_that_must_complete() -> None:
    """S9: the sharded social network waits for three set-up jobs to complete, and for 22 services to start."""
    draft = read(ROOT / "deathstarbench/socialNetwork/docker-compose-sharding.yml")
    assert conditions(draft) == {"started": 22, "completed": 3}
    assert max(service.instances for service in draft.services.values()) == 5


def test_opentelemetry_demo() -> None:
    """S9: the demo alone, with anchors and variables from its .env: 20 services, 46 edges, 6 deep."""
    draft = read(OTEL / "compose.yaml")
    assert (len(draft.services), len(draft.edges), len(draft.graph.parallel_groups())) == (20, 46, 6)
    assert conditions(draft) == {"started": 31, "healthy": 15}
    assert draft.notes == ()
    check = draft.services["ad"].check
    assert check is not None
    assert check["target"] == "bash -c 'echo > /dev/tcp/localhost/9555'"


def test_opentelemetry_demo_of_four_files() -> None:
    """S9: four files laid over one another: 31 services, 65 edges, 10 deep, criticality as labelled, and 24 risky edges."""
    draft = read(*(OTEL / file for file in ALL))
    assert (len(draft.services), len(draft.edges), len(draft.graph.parallel_groups())) == (31, 65, 10)
    said = json.loads((OTEL / "criticality-derived.json").read_text())
    assert {service.name: service.criticality for service in draft.services.values() if service.criticality} == said
    assert len(draft.risky_edges) == 24
    assert parse_fleet(draft.text(), "fleet.yaml").graph.needs("checkout")


def test_a_part_alone_is_refused() -> None:
    """S8, S9 (opentelemetry-demo#1583): the agent's file alone names four services that it does not define; all are told."""
    with pytest.raises(
        ConfigurationError, match="4 services are named and not defined: frontend, opamp-server, otel-collector, product"
    ):
        read(OTEL / "compose.agent.yaml")


def test_a_file_without_services() -> None:
    """S9: a file that only holds comments adds nothing, and is refused when it is alone."""
    alone = read(OTEL / "compose.yaml")
    assert read(OTEL / "compose.yaml", OTEL / "compose.extras.yaml").services.keys() == alone.services.keys()
    with pytest.raises(ConfigurationError, match="define no services"):
        read(OTEL / "compose.extras.yaml")


def test_sock_shop_on_kubernetes() -> None:
    """The same shop as manifests in one file: fourteen deployments, with their probes and what they request."""
    draft = read_kubernetes([ROOT / "sock-shop/complete-demo.yaml"])
    assert len(draft.services) == 14
    assert [(name, edge.on, edge.optional) for name, edge in draft.edges] == [("user", "user-db", True)]
    assert draft.services["carts"].resources == {"cpu": 0.1, "memory": 200.0}
    parse_fleet(draft.text(), "fleet.yaml")
