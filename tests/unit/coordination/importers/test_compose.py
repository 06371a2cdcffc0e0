"""Compose files as ``docker compose`` reads them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fabric.coordination.fleet import parse_fleet
from fabric.coordination.importers.compose import read_compose
from fabric.coordination.importers.draft import Draft
from fabric.errors import ConfigurationError, DependencyCycle
from fabric.startup.definition import CheckKind, Condition, RetryPolicy

Read = Callable[..., Draft]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Writes files and reads them as one project; the first argument of each pair is its name."""

    def read(
        *texts: str, files: dict[str, str] | None = None, environment: dict[str, str] | None = None, **more: object
    ) -> Draft:
        paths = []
        for name, text in (files or {}).items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        for number, text in enumerate(texts):
            paths.append(tmp_path / f"{number}.yaml")
            paths[-1].write_text(text)
        return read_compose(paths, environment=environment or {}, **more)  # type: ignore[arg-type]

    return read


def edges(draft: Draft) -> dict[tuple[str, str], str]:
    return {(name, edge.on): str(edge.condition) + ("?" if edge.optional else "") for name, edge in draft.edges}


WEB = """\
x-health: &health
  healthcheck: {test: [CMD, curl, -f, "http://localhost/a b"], interval: 5s, timeout: 2s, retries: 4, start_period: 1m30s}
x-base: &base
  <<: *health
  restart: always
services:
  db:
    <<: *base
    restart: "no"
    deploy: {replicas: 3, resources: {limits: {cpus: "0.5", memory: 1G}, reservations: {memory: 512M}}}
  migrate: {restart: "on-failure:4", depends_on: {db: {condition: service_healthy}}}
  web:
    <<: *base
    stop_grace_period: 1m
    depends_on:
      db: {condition: service_healthy}
      migrate: {condition: service_completed_successfully}
      cache: {condition: service_started, required: false}
  cache: {healthcheck: {disable: true, test: x}, scale: 2}
"""


def test_what_is_taken_over(read: Read) -> None:
    """Conditions, health checks, copies, restarts, resources and times come through anchors and merge keys into a fleet file."""
    draft = read(WEB, name="shop")
    fleet = parse_fleet(draft.text(), "fleet.yaml")
    assert fleet.name == "shop"
    assert edges(draft) == {
        ("migrate", "db"): "healthy",
        ("web", "db"): "healthy",
        ("web", "migrate"): "completed",
        ("web", "cache"): "started?",
    }
    database, web = fleet.graph["db"], fleet.graph["web"]
    (check,) = web.health_checks
    assert (check.kind, check.target, check.interval, check.timeout) == (
        CheckKind.COMMAND,
        "curl -f 'http://localhost/a b'",
        5.0,
        2.0,
    )
    assert (web.timeout, web.stop_timeout) == (90 + 4 * 7, 60.0)
    assert (database.instances, dict(database.resources)) == (3, {"cpu": 0.5, "memory": 512.0})
    assert [fleet.runs[name].restart for name in ("db", "migrate", "web")] == [False, True, True]
    assert fleet.graph["migrate"].retry_policy == RetryPolicy(attempts=5)
    assert (fleet.graph["cache"].health_checks, fleet.graph["cache"].instances) == ((), 2)
    assert all(service.critical for service in fleet.graph.services.values())
    assert [edge.source for name, edge in draft.edges if name == "migrate"] == [f"{draft.origin[0]}:11"]


def test_files_are_laid_over_one_another(read: Read) -> None:
    """Dependencies, lists and mappings are joined, other values replaced; !override replaces and !reset takes away."""
    first = """
services:
  a: {depends_on: [b, c], restart: always, links: [d], healthcheck: {test: x, interval: 9s}}
  b: {depends_on: [d]}
  c: {depends_on: [d], restart: always}
  d: {}
"""
    second = """
services:
  a: {depends_on: {b: {condition: service_healthy}, e: {condition: service_started}}, restart: "no", healthcheck: {interval: 1s}}
  b: {depends_on: !override [c]}
  c: {depends_on: !reset null}
  d: null
  e: {}
"""
    draft = read(first, second)
    assert edges(draft) == {
        ("a", "b"): "healthy",
        ("a", "c"): "started",
        ("a", "e"): "started",
        ("a", "d"): "started",
        ("b", "c"): "started",
    }
    assert draft.services["a"].check == {"kind": "command", "target": "x", "interval": 1.0}
    assert [draft.services[name].restarts for name in "abc"] == [False, False, True]


def test_a_file_may_have_several_documents_and_include_others(read: Read) -> None:
    """Documents of one file are laid over one another, included files come first and are relative to who includes them."""
    draft = read(
        "include: [sub/inner.yaml, {path: [more.yaml]}]\nservices: {a: {depends_on: [b, m]}}\n"
        "---\nservices: {a: {depends_on: [i]}}",
        files={
            "sub/inner.yaml": "include: [deep.yaml]\nservices: {i: {}}",
            "sub/deep.yaml": "services: {b: {}}",
            "more.yaml": "services: {m:}",
        },
    )
    assert set(edges(draft)) == {("a", "b"), ("a", "m"), ("a", "i")}
    with pytest.raises(ConfigurationError, match="includes itself"):
        read("include: [loop.yaml]", files={"loop.yaml": "include: [loop.yaml]"})


def test_services_extend_others(read: Read) -> None:
    """A base may be in the same file or another, and be extended itself; what is said again wins."""
    draft = read(
        "services: {a: {extends: {service: base}, restart: 'no'}, b: {},"
        " base: {extends: {file: common.yaml, service: root}, links: [b]}}",
        files={"common.yaml": "services: {root: {restart: always, depends_on: [b], scale: 2}}"},
    )
    assert {("a", "b"), ("base", "b")} == set(edges(draft))
    assert (draft.services["a"].restarts, draft.services["base"].restarts, draft.services["a"].instances) == (False, True, 2)
    with pytest.raises(ConfigurationError, match=r"a extends c, which .* does not define"):
        read("services: {a: {extends: c}}")
    with pytest.raises(ConfigurationError, match="services extend each other: a -> b -> a"):
        read("services: {a: {extends: b}, b: {extends: a}}")


def test_profiles(read: Read) -> None:
    """Services of profiles that are off are left out; to need one of them is refused, unless it is not required."""
    text = "services: {a: {depends_on: {t: {condition: service_started, required: false}}}, t: {profiles: [debug, test]}}"
    assert list(read(text).services) == ["a"]
    assert read(text).notes == ("Left out, for their profiles are off: t.",)
    for profile in ("test", "*"):
        assert edges(read(text, profiles=[profile])) == {("a", "t"): "started?"}
    with pytest.raises(ConfigurationError, match="named and not defined: t"):
        read("services: {a: {depends_on: [t]}, t: {profiles: [x]}}")


def test_links_and_shared_namespaces(read: Read) -> None:
    """Links, volumes_from, network_mode, ipc and pid of another service mean that it must have started."""
    draft = read(
        "services: {a: {links: ['b:alias'], volumes_from: ['c:ro', 'container:x'], network_mode: 'service:d', pid: host,"
        " ipc: 'service:e'}, b: {}, c: {}, d: {}, e: {}}"
    )
    assert edges(draft) == {("a", other): "started" for other in "bcde"}


def test_variables(read: Read) -> None:
    """.env beside the first file is used, the environment wins, defaults and alternatives work, what is not set is told."""
    text = "name: ${PROJECT}\nservices: {a: {scale: $COUNT, restart: '${NEVER:-no}', stop_grace_period: '${GRACE}', pid: $UNSET}}"
    draft = read(
        text,
        files={".env": "PROJECT=\"${CITY:-york}-shop\"\nCOUNT=2 # two\nGRACE='7s'\n"},
        environment={"COUNT": "3", "CITY": "bath"},
    )
    assert (draft.name, draft.services["a"].instances, draft.services["a"].stop_timeout) == ("bath-shop", 3, 7.0)
    assert draft.notes == ("Not set, and taken as empty: UNSET.",)
    other = read(text, files={"v.env": "PROJECT=x\nCOUNT=1\nGRACE=1s"}, env_files=[Path(draft.origin[0]).parent / "v.env"])
    assert other.name == "x"


def test_a_name_that_a_fleet_can_not_have(read: Read) -> None:
    """Dots become dashes, also in dependencies; two that would be the same are refused."""
    fleet = parse_fleet(read("name: my.shop\nservices: {a.b: {depends_on: [c.d]}, c.d: {}}").text(), "f.yaml")
    assert (fleet.name, [(edge.dependent, edge.dependency) for edge in fleet.graph.edges]) == ("my-shop", [("a-b", "c-d")])
    with pytest.raises(ConfigurationError, match=r"'a-b' and 'a\.b' would both be 'a-b'"):
        read("services: {a.b: {}, a-b: {}}").text()


def test_criticality(read: Read) -> None:
    """A label or the OpenTelemetry attribute says it; edges to what is less critical are named; others count as critical."""
    draft = read(
        "services:\n"
        "  a: {labels: {service.criticality: critical}, depends_on: [b, c, d]}\n"
        "  b: {environment: ['OTEL_RESOURCE_ATTRIBUTES=x=1,service.criticality=low,y=2']}\n"
        "  c: {labels: [service.criticality=critical]}\n"
        "  d: {}\n"
    )
    assert [(name, edge.on) for name, edge in draft.risky_edges] == [("a", "b")]
    assert [service.critical for service in draft.services.values()] == [True, False, True, True]
    with pytest.raises(ConfigurationError, match="must be one of critical, high, medium, low"):
        read("services: {a: {labels: {service.criticality: huge}}}")


def test_healthy_without_a_health_check(read: Read) -> None:
    """A dependency that is to be healthy and has no health check is told of."""
    (note,) = read("services: {a: {depends_on: {b: {condition: service_healthy}}}, b: {}}").notes
    assert note.startswith("a waits for b to be healthy, which has no health check")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("services: {a: {depends_on: {b: {condition: any}}}, b: {}}", r"0\.yaml:1: a needs b: no condition 'any'"),
        ("services: {a: {depends_on: 7}}", "services.a.depends_on: must be a mapping"),
        ("services: {a: {links: x}}", "services.a.links: must be a list"),
        ("services: {a: {deploy: {replicas: few}}}", "'few' is not a number"),
        ("services: {a: {scale: 1.5}}", "not a count"),
        ("services: {a: {stop_grace_period: soon}}", "'soon' is not a duration"),
        ("services: {a: {deploy: {resources: {limits: {memory: much}}}}}", "'much' is not a size"),
        ("services: [a]", "no mapping of services"),
        ("- a", "no mapping of services"),
        ("services: {a: [b]}", "the service a is not a mapping"),
        ("# nothing", "define no services"),
        ("services: {a: {image: '${A:?give one}'}}", r"0\.yaml:1: the variable A is not set: give one"),
        ("services: {a: {image: '${A'}}", "is not closed"),
        ("services:\n  a: {}\n  a: {}", r"0\.yaml:3: the key 'a' is there twice"),
    ],
)
def test_what_is_wrong_is_refused_with_its_place(read: Read, text: str, message: str) -> None:
    """Every value of the wrong kind is named with the file and line where it stands."""
    with pytest.raises(ConfigurationError, match=message):
        read(text)


def test_all_that_is_not_defined_is_named(read: Read) -> None:
    """Unknown services are told all at once, each with every place that names it."""
    with pytest.raises(ConfigurationError) as refused:
        read("services:\n  a: {depends_on: [x]}\n  b: {depends_on: [x, y]}")
    assert str(refused.value).startswith("2 services are named and not defined: x, y")
    assert [line.rpartition("/")[2] for line in str(refused.value).splitlines()[1:]] == [
        "0.yaml:2: a needs x",
        "0.yaml:3: b needs x",
        "0.yaml:3: b needs y",
    ]


def test_a_cycle_is_refused_with_its_lines(read: Read) -> None:
    """S4: services of two files that wait for each other are refused with the place of each edge."""
    with pytest.raises(DependencyCycle) as refused:
        read("services:\n  a: {depends_on: [b]}\n  b: {}", "services:\n  b:\n    depends_on:\n      - a")
    assert "0.yaml:2" in str(refused.value)
    assert "1.yaml:4" in str(refused.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """A file that can't be read is named."""
    with pytest.raises(ConfigurationError, match=r"none\.yaml: can't be read"):
        read_compose([tmp_path / "none.yaml"])
    with pytest.raises(ConfigurationError, match="no compose file"):
        read_compose([])


def test_conditions_of_a_fleet_are_those_of_compose(read: Read) -> None:
    """Each of the three conditions has its counterpart."""
    needs = "{b: {condition: service_started}, c: {condition: service_completed_successfully}}"
    text = f"services: {{a: {{depends_on: {needs}}}, b: {{}}, c: {{}}}}"
    assert {edge.condition for _, edge in read(text).edges} == {Condition.STARTED, Condition.COMPLETED}
