"""Kubernetes manifests."""

from __future__ import annotations

from pathlib import Path

import pytest

from fabric.coordination.fleet import parse_fleet
from fabric.coordination.importers.draft import Draft
from fabric.coordination.importers.kubernetes import read_kubernetes
from fabric.errors import ConfigurationError, DependencyCycle
from fabric.startup.definition import CheckKind

DATABASE = """\
kind: Service
metadata: {name: postgres, namespace: shop}
spec: {selector: {app: db}}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db, namespace: shop, labels: {service.criticality: critical}}
spec:
  replicas: 3
  template:
    metadata: {labels: {app: db, tier: back}}
    spec:
      terminationGracePeriodSeconds: 45
      containers:
        - name: db
          ports: [{name: sql, containerPort: 5432}]
          readinessProbe: {tcpSocket: {port: sql}, periodSeconds: 5, failureThreshold: 6, initialDelaySeconds: 10}
          resources: {requests: {cpu: 250m, memory: 1Gi}}
        - name: exporter
          resources: {requests: {cpu: "1", memory: 512Mi}}
"""
REST = """\
kind: List
items:
  - kind: Job
    metadata: {name: migrate, namespace: shop}
    spec:
      template:
        spec:
          restartPolicy: Never
          initContainers:
            - {name: wait, command: [sh, -c, "until nc -z postgres.shop.svc.cluster.local 5432; do sleep 1; done"]}
          containers: [{name: migrate}]
  - kind: Deployment
    metadata: {name: web, namespace: shop, annotations: {fabric/depends-on: "migrate, cache"}}
    spec:
      template:
        metadata: {labels: {app: web}}
        spec:
          containers:
            - name: web
              env: [{name: DB, value: "postgres://postgres:5432/shop"}, {name: ME, value: web}, {name: SECRET, valueFrom: {}}]
              startupProbe: {httpGet: {path: /ready, port: 8080}, periodSeconds: 2, failureThreshold: 60}
              livenessProbe: {exec: {command: [test, -e, "/tmp/a b"]}}
  - kind: Deployment
    metadata: {name: cache, namespace: shop}
    spec: {template: {metadata: {labels: {app: cache}}, spec: {containers: [{name: cache}]}}}
  - {kind: CronJob, metadata: {name: report}}
  - {kind: ConfigMap, metadata: {name: data}}
"""


@pytest.fixture
def draft(tmp_path: Path) -> Draft:
    (tmp_path / "shop" / "below").mkdir(parents=True)
    (tmp_path / "shop" / "db.yaml").write_text(DATABASE)
    (tmp_path / "shop" / "below" / "rest.yml").write_text(REST)
    (tmp_path / "shop" / "notes.txt").write_text("not a manifest")
    return read_kubernetes([tmp_path / "shop"])


def test_dependencies(draft: Draft) -> None:
    """An annotation and an init container are dependencies, an address in the environment is waited for while it comes; a job
    must complete."""
    found = {(name, edge.on): str(edge.condition) + ("?" if edge.optional else "") for name, edge in draft.edges}
    assert found == {
        ("migrate", "db"): "healthy",
        ("web", "migrate"): "completed",
        ("web", "cache"): "healthy",
        ("web", "db"): "healthy?",
    }
    (source,) = [edge.source for name, edge in draft.edges if name == "migrate"]
    assert source.endswith("rest.yml:10")


def test_what_is_taken_over(draft: Draft) -> None:
    """Copies, probes, requests, times and criticality are in the fleet file; other objects are left out, cron jobs told of."""
    fleet = parse_fleet(draft.text(), "fleet.yaml")
    assert (fleet.name, set(fleet.graph)) == ("shop", {"db", "migrate", "web", "cache"})
    database, web = fleet.graph["db"], fleet.graph["web"]
    assert (database.instances, database.stop_timeout, database.timeout) == (3, 45.0, 40.0)
    assert dict(database.resources) == {"cpu": 1.25, "memory": 1536.0}
    assert [(check.kind, check.target) for check in database.health_checks] == [(CheckKind.TCP, "db:5432")]
    assert [(check.kind, check.target) for check in web.health_checks] == [(CheckKind.HTTP, "http://web:8080/ready")]
    assert web.timeout == 120.0
    assert [fleet.runs[name].restart for name in ("migrate", "web")] == [False, True]
    assert draft.services["db"].criticality == "critical"
    assert draft.notes == ("Not part of a start, and left out: the cron jobs report.",)


def test_the_same_name_twice(tmp_path: Path) -> None:
    """Workloads of one name in two namespaces or of two kinds are told apart; a real double is refused."""
    one = "kind: Deployment\nmetadata: {name: web, namespace: %s}\nspec: {template: {spec: {containers: []}}}\n"
    (tmp_path / "a.yaml").write_text("---\n".join([one % "x", one % "y", one.replace("Deployment", "Pod") % "y"]))
    assert list(read_kubernetes([tmp_path]).services) == ["web", "y-web", "pod-web"]
    (tmp_path / "b.yaml").write_text(one % "x")
    with pytest.raises(ConfigurationError, match="there are two of Deployment web"):
        read_kubernetes([tmp_path])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kind: Deployment\nmetadata: {name: {{ .Name }}}\n", "this is a template; render it first"),
        ("kind: ConfigMap\nmetadata: {name: x}\n", "no workloads"),
        ("kind: Pod\nmetadata: {name: a, annotations: {fabric/depends-on: b}}\n", r"a\.yaml:2: a needs b"),
        ("kind: Pod\nmetadata: {name: a, labels: {service.criticality: big}}\n", "must be one of critical"),
        (
            "kind: Pod\nmetadata: {name: a}\nspec: {containers: [{resources: {requests: {cpu: lots}}}]}\n",
            "'lots' is not a quantity",
        ),
    ],
)
def test_what_is_wrong_is_refused(tmp_path: Path, text: str, message: str) -> None:
    """Templates, manifests without a workload, unknown names and values that are none are refused with their place."""
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ConfigurationError, match=message):
        read_kubernetes([tmp_path])


def test_a_cycle_is_refused(tmp_path: Path) -> None:
    """S4: workloads that wait for each other are refused."""
    text = "kind: Pod\nmetadata: {name: %s, annotations: {fabric/depends-on: %s}}\n"
    (tmp_path / "a.yaml").write_text(text % ("a", "b") + "---\n" + text % ("b", "a"))
    with pytest.raises(DependencyCycle):
        read_kubernetes([tmp_path])
