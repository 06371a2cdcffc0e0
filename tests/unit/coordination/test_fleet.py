"""The fleet file: what a good one becomes, and that a bad one is refused with the line that is wrong."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest

from fabric.coordination.fleet import Fleet, load_fleet, parse_fleet
from fabric.coordination.fleetfile import seconds
from fabric.errors import ConfigurationError, DependencyCycle, UnknownName
from fabric.routing.policies import Policies, RoutePolicy
from fabric.startup.definition import CheckKind, Condition, RetryPolicy

WHOLE = """\
name: shop
namespace: shop-dev
slots: 4
budgets: {cpu: 2}
x-python: &python
  env: {MODE: "${MODE:-dev}", LEVEL: 007, DEBUG: yes, PRICE: 5$$, HOME_DIR: "${HOME}"}
  timeout: 500ms
services:
  store:
    <<: *python
    run: shop.store:Store
    critical: true
    instances: 2
    retry: {attempts: 4, delay: 500ms, factor: 3, max_delay: 1m}
    resources: {cpu: 1.5}
  cache:
    command: python -m shop.cache --size "10 MB"
    cwd: cache
    restart: never
    health_checks:
      - method
      - {kind: tcp, target: "localhost:1", interval: 1s}
  web:
    run: shop.web:Web
    timeout: 2m
    dependencies:
      store: {condition: started}
      cache:
    optional_dependencies: [mail]
    capabilities: [browsing]
  mail:
    run: shop.mail:Mail
    health_checks: []
stages:
  - name: base
    services: [store, cache]
    gate: {required: [store], optional: [cache], instances: {store: 1}, stable_for: 2s}
    timeout: 45
  - name: rest
    services: [web, mail]
    skip_on_timeout: true
    retry: {attempts: 2}
"""


def load(text: str, **environment: str) -> Fleet:
    return parse_fleet(dedent(text), "dir/fleet.yaml", environment=environment)


def refused(text: str, kind: type[ConfigurationError] = ConfigurationError) -> ConfigurationError:
    with pytest.raises(kind) as caught:
        load(text)
    assert type(caught.value) is kind
    return caught.value


@pytest.fixture(scope="module")
def fleet() -> Fleet:
    return load(WHOLE, HOME="/home/me")


def test_durations_lose_their_units(fleet: Fleet) -> None:
    """500ms, 30s, 2m and bare numbers all become seconds."""
    graph = fleet.graph
    assert (graph["store"].timeout, graph["web"].timeout, fleet.stages[0].timeout) == (0.5, 120.0, 45.0)
    assert fleet.stages[0].health_gate.stable_for == 2.0
    assert [seconds(value) for value in ("1.5s", "1h", 3, 0.25, "250 ms")] == [1.5, 3600.0, 3.0, 0.25, 0.25]


@pytest.mark.parametrize("value", ["5", "soon", "-1s", -1, True, float("inf"), float("nan"), None, [], "1s1m"])
def test_what_is_no_duration_is_refused(value: object) -> None:
    """Text without a unit, negative, endless and other values are no duration."""
    with pytest.raises(ValueError, match="is not a duration"):
        seconds(value)


def test_definitions_have_every_field(fleet: Fleet) -> None:
    """Services become definitions with their policies, checks, resources and capabilities."""
    store, cache, web, mail = (fleet.graph[name] for name in ("store", "cache", "web", "mail"))
    assert (store.critical, store.instances, store.resources) == (True, 2, {"cpu": 1.5})
    assert store.retry_policy == RetryPolicy(attempts=4, delay=0.5, factor=3.0, max_delay=60.0)
    assert [check.kind for check in cache.health_checks] == [CheckKind.METHOD, CheckKind.TCP]
    assert cache.health_checks[1].interval == 1.0
    assert mail.health_checks == ()
    assert web.capabilities == ("browsing",)
    assert [(edge.dependency, edge.condition, edge.optional) for edge in web.edges()] == [
        ("store", Condition.STARTED, False),
        ("cache", Condition.HEALTHY, False),
        ("mail", Condition.HEALTHY, True),
    ]
    assert fleet.definitions == (store, cache, web, mail)
    assert (fleet.name, fleet.namespace, fleet.slots, fleet.budgets) == ("shop", "shop-dev", 4, {"cpu": 2.0})


def test_every_item_knows_its_line(fleet: Fleet) -> None:
    """Services, edges, checks, stages and gates carry the line on which they stand."""
    web = fleet.graph["web"]
    assert web.source == "dir/fleet.yaml:23"
    assert [edge.source for edge in web.edges()] == [f"dir/fleet.yaml:{line}" for line in (27, 28, 29)]
    assert [check.source for check in fleet.graph["cache"].health_checks] == ["dir/fleet.yaml:21", "dir/fleet.yaml:22"]
    assert [stage.source for stage in fleet.stages] == ["dir/fleet.yaml:35", "dir/fleet.yaml:39"]
    assert fleet.stages[0].health_gate.source == "dir/fleet.yaml:37"


def test_stages_and_gates(fleet: Fleet) -> None:
    """Stages keep their order, and a gate its required, optional and counted services."""
    base, rest = fleet.stages
    gate = base.health_gate
    assert (gate.required, gate.optional, gate.instances) == (("store",), ("cache",), {"store": 1})
    assert (rest.skip_on_timeout, rest.retry_policy) == (True, RetryPolicy(attempts=2))
    assert (fleet.stage_of("mail"), fleet.stage_of("nobody")) == ("rest", "")


def test_how_processes_are_run(fleet: Fleet) -> None:
    """run, command, cwd, instances and restart become the way its processes are started."""
    store, cache = fleet.runs["store"], fleet.runs["cache"]
    assert (store.target, store.command, store.instances, store.cwd, store.restart) == ("shop.store:Store", (), 2, None, True)
    assert cache.command == ("python", "-m", "shop.cache", "--size", "10 MB")
    assert cache.cwd == Path("dir").resolve() / "cache"
    assert cache.restart is False


def test_environment_is_taken_as_it_is_written(fleet: Fleet) -> None:
    """Values keep their text (007, yes), variables and defaults are filled in, and no repr shows them."""
    store = fleet.runs["store"]
    assert store.env == {"MODE": "dev", "LEVEL": "007", "DEBUG": "yes", "PRICE": "5$", "HOME_DIR": "/home/me"}
    assert "/home/me" not in repr(fleet)
    assert load(WHOLE, HOME="/", MODE="live").runs["store"].env["MODE"] == "live"


def test_a_fleet_file_is_read_from_disk(tmp_path: Path) -> None:
    """The path that is given names the file in messages, and the namespace is the fleet's name unless it is set."""
    path = tmp_path / "fleet.yaml"
    path.write_text("name: tiny\nservices: {one: {run: 'a:B'}}\n")
    fleet = load_fleet(path)
    assert (fleet.namespace, fleet.path) == ("tiny", path)
    path.write_text("name: tiny\nservices: 5\n")
    with pytest.raises(ConfigurationError, match=rf"^{path}:2: services: "):
        load_fleet(path)
    with pytest.raises(ConfigurationError, match="can't read the fleet file: No such file"):
        load_fleet(tmp_path / "missing.yaml")


def test_an_unknown_dependency_is_refused_with_its_line() -> None:
    """S8: a name that nobody defines is refused before anything starts, with the line and what was probably meant."""
    text = """\
        name: shop
        services:
          store: {run: "a:B"}
          web:
            run: a:B
            dependencies:
              - store
              - stor
        """
    error = refused(text, UnknownName)
    assert str(error) == "dir/fleet.yaml:8: web names the service 'stor', which is not defined; did you mean 'store'?"


@pytest.mark.parametrize(
    ("stage", "line", "what"),
    [
        ("services: [stor]", 6, "stage one"),
        ("services: [store]\n    gate:\n      required: [stor]", 8, "the gate of stage one"),
        ("services: [store]\n    gate:\n      optional: [stor]", 8, "the gate of stage one"),
        ("services: [store]\n    gate:\n      required: [store]\n      instances: {stor: 1}", 9, "the gate of stage one"),
    ],
)
def test_an_unknown_name_in_a_stage_is_refused_with_its_line(stage: str, line: int, what: str) -> None:
    """S8: services that a stage or its gate names must exist."""
    error = refused(f"name: shop\nservices:\n  store: {{run: 'a:B'}}\nstages:\n  - name: one\n    {stage}\n", UnknownName)
    assert str(error).startswith(f"dir/fleet.yaml:{line}: {what} names the service 'stor'")


def test_policies_are_part_of_the_file() -> None:
    """What the file says of how calls are treated, and who hands out more; nothing said leaves both to the environment."""
    text = "name: s\nservices: {a: {}, mesh: {}}\n"
    assert (parse_fleet(text, "f.yaml").policies, parse_fleet(text, "f.yaml").policies_from) == (None, "")
    text += (
        "policies:\n  from: mesh\n  default: {balancing: p2c}\n  services: {a: {breaker: null}, 'capability:x': {timeout: 2}}\n"
    )
    fleet = parse_fleet(text, "f.yaml")
    assert fleet.policies_from == "mesh"
    policies = Policies.from_plain(fleet.policies)
    assert policies.of("a") == RoutePolicy(balancing="p2c", breaker=None)
    assert policies.of("capability:x") == RoutePolicy(balancing="p2c", timeout=2.0)


@pytest.mark.parametrize(
    ("policies", "line", "message"),
    [
        ("from: mehs", 4, "policies.from names the service 'mehs', which is not defined; did you mean 'mesh'?"),
        ("services:\n    aa: {}", 5, "policies names the service 'aa', which is not defined; did you mean 'a'?"),
        ("default: {balancing: best}", 4, "policy default: no balancing strategy 'best'"),
        ("services:\n    a: {timeout: 2}\n    mesh: {retry: {atempts: 2}}", 6, "policy mesh: there is no retry.atempts"),
        ("revision: 7", 4, "policies.revision: unknown key; known are: default, from, services"),
        ("default: 7", 4, "policies.default: Input should be a valid dictionary"),
    ],
)
def test_wrong_policies_are_refused_with_their_line(policies: str, line: int, message: str) -> None:
    """Nothing is started with a policy that is unknown, can't work, or is for nobody."""
    kind = UnknownName if "names the service" in message else ConfigurationError
    error = refused(f"name: s\nservices: {{a: {{}}, mesh: {{}}}}\npolicies:\n  {policies}\n", kind)
    assert str(error).startswith(f"dir/fleet.yaml:{line}: {message}")


def test_a_cycle_is_refused_with_its_path_and_lines() -> None:
    """S4: the full path of a cycle, with the line of each of its edges."""
    text = """\
        name: shop
        services:
          a:
            dependencies: [b]
          b:
            dependencies: {c: {condition: started}}
          c:
            dependencies:
              - a
        """
    error = refused(text, DependencyCycle)
    assert isinstance(error, DependencyCycle)
    assert error.path == ("a", "b", "c", "a")
    assert error.sources == ("dir/fleet.yaml:4", "dir/fleet.yaml:6", "dir/fleet.yaml:9")
    assert "b needs c   dir/fleet.yaml:6" in str(error)


@pytest.mark.parametrize(
    ("service", "line", "message"),
    [
        ("dependencys: [x]", 4, "services.web.dependencys: unknown key; did you mean 'dependencies'?"),
        ("retry: {atempts: 2}", 4, "services.web.retry.atempts: unknown key; did you mean 'attempts'?"),
        ("retry:\n      factor: 0.5", 5, "services.web.retry.factor: Input should be greater than or equal to 1"),
        ("timeout: soon", 4, "services.web.timeout: 'soon' is not a duration"),
        ("timeout: 0", 4, "services.web.timeout: must be longer than nothing"),
        ("instances: 0", 4, "services.web.instances: Input should be greater than or equal to 1"),
        ("instances: '2'", 4, "services.web.instances: Input should be a valid integer"),
        ("critical: 1", 4, "services.web.critical: Input should be a valid boolean"),
        ("run: just-a-module", 4, "services.web.run: 'just-a-module' is not MODULE:CLASS"),
        ("run: a:B\n    command: [x]", 3, "services.web: has both run and command"),
        ("command: []", 3, "services.web: the command is empty"),
        ("dependencies: store", 4, "services.web.dependencies: must be a list of services"),
        ("dependencies:\n      - [store]", 4, "services.web.dependencies: ['store'] is not the name of a service"),
        ("dependencies: [a, a]", 4, "services.web.dependencies: 'a' is there twice"),
        ("dependencies: [a.b]", 4, "services.web.dependencies.a.b: name 'a.b': use 1 to 100 letters"),
        ("dependencies:\n      a: {condition: ready}", 5, "services.web.dependencies.a.condition: Input should be 'started'"),
        ("dependencies:\n      a: {contidion: x}", 5, "services.web.dependencies.a.contidion: unknown key; did you mean"),
        ("dependencies: [a]\n    optional_dependencies: [a]", 3, "services.web: 'a' is both a dependency and an optional one"),
        ("env: [A]", 4, "services.web.env: Input should be a valid dictionary"),
        ("env:\n      OK: 1\n      LIST: [1]", 6, "services.web.env.LIST: must be a single value"),
        ("env:\n      KEY: $${OK} ${", 5, "services.web.env.KEY: write ${NAME}"),
        ("env:\n      KEY: ${ABSENT}", 5, "services.web.env.KEY: ABSENT is not set in the environment"),
        ("health_checks: [http]", 4, "services.web.health_checks.0: a check of kind http needs a target"),
        ("health_checks: [{kind: method, target: x}]", 4, "services.web.health_checks.0: kind method has no target"),
        ("health_checks: [{kind: http, target: web}]", 4, "services.web.health_checks.0: 'web' is not a URL such as "),
        (
            "health_checks: [{kind: http, target: 'http://me:pw@web/'}]",
            4,
            "services.web.health_checks.0: the URL of a check",
        ),
        ("health_checks: [{kind: tcp, target: web}]", 4, "services.web.health_checks.0: 'web' is not HOST:PORT"),
        ("health_checks: [{kind: tcp, target: 'web:1', expect: '200'}]", 4, "services.web.health_checks.0: expect is the"),
        (
            "health_checks: [{kind: http, target: 'http://a', expect: ok}]",
            4,
            "services.web.health_checks.0: expect is the status",
        ),
        ("resources: {cpu: -1}", 4, "services.web.resources.cpu: Input should be greater than or equal to 0"),
        ("restart: always", 4, "services.web.restart: Input should be 'never' or 'on-failure'"),
    ],
)
def test_a_wrong_value_is_refused_with_its_line(service: str, line: int, message: str) -> None:
    """Every field of a service is checked, and the message has its line, its name and what is expected."""
    error = refused(f"name: shop\nservices:\n  web:\n    {service}\n")
    assert str(error).startswith(f"dir/fleet.yaml:{line}: {message}")
    assert error.source == f"dir/fleet.yaml:{line}"


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("", 1, "a fleet file is a mapping"),
        ("- a", 1, "a fleet file is a mapping"),
        ("name: shop", 1, "services: is missing"),
        ("name: shop\nservices: {}", 2, "services: Dictionary should have at least 1 item"),
        ("name: shop\nservices:\n  a b: {}", 3, "services.a b: name 'a b': use 1 to 100 letters"),
        ("name: shop\nservice: {}\nservices: {a: {}}", 2, "service: unknown key; did you mean 'services'?"),
        ("name: shop\nservices: {a: {}}\nstages:\n  - services: [a]", 4, "stages.0.name: is missing"),
        (
            "name: shop\nservices: {a: {}}\nstages:\n  - name: x\n    services: [a]\n    gates: {}",
            6,
            "stages.0.gates: unknown key",
        ),
        (
            "name: s\nservices: {a: {}}\nstages:\n  - name: x\n    services: [a]\n    gate: {require: [a]}",
            6,
            "stages.0.gate.require: unknown key; did you mean 'required'?",
        ),
        (
            "name: s\nservices: {a: {}}\nstages:\n  - {name: x, services: [a]}\n  - {name: y, services: [a]}",
            5,
            "service 'a' is already in a stage at dir/fleet.yaml:4",
        ),
        (
            "name: s\nservices: {a: {}, b: {}}\nstages:\n  - {name: x, services: [a]}\n  - {name: x, services: [b]}",
            5,
            "stage 'x' is already defined at dir/fleet.yaml:4",
        ),
        (
            "name: s\nservices: {a: {}}\nstages:\n  - name: x\n    services: [a]\n    gate:\n      required: [a]\n"
            "      instances: {a: 2}",
            8,
            "the gate of stage x asks for 2 instances of 'a', which has 1",
        ),
        (
            "name: s\nservices: {a: {}}\nstages:\n  - name: x\n    services: [a]\n    gate: {instances: {a: 1}}",
            6,
            "a gate counts instances of a, which it does not name",
        ),
        ("name: shop\nservices:\n  a: {\n", 4, "not YAML:"),
        ("name: shop\nname: other\n", 2, "the key 'name' is there twice"),
        ("name: shop\nservices:\n  1: {}\n", 3, "a key must be text"),
        ("name: shop\nservices:\n  ? [a]\n  : {}\n", 3, "a key must be text"),
        ("name: !!python/object:os.system x\n", 1, "not YAML: could not determine a constructor"),
        ("name: 2020-13-45\n", 1, "'2020-13-45' is not a value"),
        ("a: &a [*a]\n", 1, "too large or too deep"),
        ("name: *nothing\n", 1, "not YAML: found undefined alias"),
    ],
)
def test_a_wrong_file_is_refused_with_its_line(text: str, line: int, message: str) -> None:
    """Missing and unknown keys, doubled names, gates that can't open, broken and hostile YAML."""
    error = refused(text)
    assert str(error).startswith(f"dir/fleet.yaml:{line}: {message}")


def test_a_cycle_through_a_gate_is_refused_with_its_lines() -> None:
    """S4: a service that needs one behind a gate which waits for it would never start, and the lines say why."""
    text = """\
        name: shop
        services:
          a:
            dependencies: [b]
          b: {}
        stages:
          - name: one
            services: [a]
            gate: {required: [a]}
          - {name: two, services: [b]}
        """
    error = refused(text, DependencyCycle)
    assert isinstance(error, DependencyCycle)
    assert set(error.path) == {"a", "b", "gate:one"}
    assert set(error.sources) == {"dir/fleet.yaml:4", "dir/fleet.yaml:9", "dir/fleet.yaml:10"}


def test_what_could_never_be_started_is_refused() -> None:
    """S8: a gate on a service that can't vote, and a start that needs more than there is, are refused with their line."""
    gate = "name: s\nservices: {a: {health_checks: []}}\nstages:\n  - name: x\n    services: [a]\n    gate: {required: [a]}"
    assert str(refused(gate)).startswith("dir/fleet.yaml:6: the gate of stage x asks for a, which has no health check")
    budget = "name: s\nbudgets: {cpu: 1}\nservices:\n  a: {resources: {cpu: 2}}"
    assert str(refused(budget)).startswith("dir/fleet.yaml:4: a needs 2 of cpu")


def test_a_bomb_of_aliases_is_refused() -> None:
    """M31's neighbour: a file that grows a thousandfold when its aliases are followed is refused."""
    bomb = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n"
    for name, inner in zip("bcdefg", "abcdef", strict=True):
        bomb += f"{name}: &{name} [{', '.join([f'*{inner}'] * 10)}]\n"
    assert "too large or too deep" in str(refused(bomb))


def test_all_wrong_values_are_told_at_once() -> None:
    """One look at the message is enough to mend the whole file: every wrong value, in the order of the lines."""
    error = refused("name: shop\nservices:\n  web:\n    timeout: x\n    critical: 1\nnamespaces: a\n")
    assert [line.split(": ")[0] for line in str(error).splitlines()] == [f"dir/fleet.yaml:{line}" for line in (4, 5, 6)]


def test_a_check_that_calls_nobody_is_refused() -> None:
    """S8: a health check by a call names a service of the fleet, with the one that was probably meant otherwise."""
    text = "name: s\nservices:\n  store: {}\n  web:\n    health_checks: [method, {kind: dependency, target: stor.count}]\n"
    with pytest.raises(UnknownName, match=r"s\.yaml:5: a check of web names the service 'stor'.*did you mean 'store'"):
        parse_fleet(text, "s.yaml")
    fleet = parse_fleet(text.replace("stor.", "store.").replace("method", "{kind: tcp, target: 'h:$PORT'}"), "s.yaml")
    assert [check.target for check in fleet.graph["web"].health_checks] == ["h:$PORT", "store.count"]
