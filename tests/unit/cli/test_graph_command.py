"""``fabric graph``: what it draws, letter by letter."""

from __future__ import annotations

import json
from pathlib import Path

from tests.unit.cli.conftest import Cli

TEXT = """\
shop: 5 services, 3 dependencies, 2 stages
longest chain: mail -> web

base
  * store   2 instances
    schema
  gate: needs store (1 of its instances); fails after 60 s

front
  * web     needs store, schema (completed); uses mail
    mail
  gate: needs nothing; reports mail; skipped after 20 s

in no stage
    extra

* critical
"""

MERMAID = """\
flowchart LR
  subgraph g0["base"]
    s0["store x2"]
    s1("schema")
  end
  subgraph g1["front"]
    s2["web"]
    s3("mail")
  end
  subgraph g2["no stage"]
    s4("extra")
  end
  s0 --> s2
  s1 -->|completed| s2
  s3 -.-> s2
  g0 ==> g1
"""

DOT = """\
digraph "shop" {
  rankdir=LR;
  node [shape=box, style=rounded];
  subgraph cluster_0 {
    label="base";
    "store" [label="store x2", style="filled,bold"];
    "schema" [label="schema"];
  }
  subgraph cluster_1 {
    label="front";
    "web" [label="web", style="filled,bold"];
    "mail" [label="mail"];
  }
  subgraph cluster_2 {
    label="no stage";
    "extra" [label="extra"];
  }
  "store" -> "web";
  "schema" -> "web" [label="completed"];
  "mail" -> "web" [style=dashed];
}
"""


def test_text(cli: Cli, shop: Path) -> None:
    """Stages with their services, needs and gates; what is critical; the longest chain."""
    ran = cli("graph", "shop.yaml")
    assert (ran.code, ran.out) == (0, TEXT)


def test_mermaid(cli: Cli, shop: Path) -> None:
    """A flowchart that Mermaid reads: stages as boxes, conditions on arrows, optional edges dotted."""
    assert cli("graph", "shop.yaml", "--format", "mermaid").out == MERMAID


def test_dot(cli: Cli, shop: Path) -> None:
    """A digraph that Graphviz reads: stages as clusters, optional edges dashed."""
    assert cli("graph", "shop.yaml", "-f", "dot").out == DOT


def test_json(cli: Cli, shop: Path) -> None:
    """Everything as data, with file and line; --json is the same as --format json."""
    ran = cli("graph", "shop.yaml", "--json")
    assert ran.out == cli("graph", "shop.yaml", "--format", "json").out
    data = json.loads(ran.out)
    assert data["services"][0] == {
        "name": "store",
        "stage": "base",
        "critical": True,
        "instances": 2,
        "timeout": 30.0,
        "capabilities": [],
        "source": "shop.yaml:3",
    }
    assert data["edges"][2] == {
        "dependent": "web",
        "dependency": "mail",
        "condition": "healthy",
        "optional": True,
        "waited_for": True,
        "source": "shop.yaml:9",
    }
    assert data["stages"][0]["required"] == ["store"]
    assert data["parallel_groups"] == [["extra", "mail", "schema", "store"], ["web"]]


def test_an_edge_that_is_not_waited_for_is_named(cli: Cli, shop: Path) -> None:
    """An optional edge that would close a cycle is drawn, and said not to count."""
    (shop / "ring.yaml").write_text(
        "name: ring\nservices:\n  a: {dependencies: [b]}\n  b:\n    optional_dependencies: [a]\n",
    )
    assert cli("graph", "ring.yaml").out.splitlines()[-1] == "not waited for, it would close a cycle: b -> a (ring.yaml:5)"
