"""Reads a fleet file: what the services are, in which stages they start, and how their processes are run.

Everything that is wrong is said before anything is started, with the line it stands on.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fabric.coordination.fleetfile import Edges, FleetEntry, RetryEntry, ServiceEntry, StageEntry, keys_at
from fabric.coordination.located import Located, parse
from fabric.errors import ConfigurationError, UnknownName
from fabric.routing.policies import Policies
from fabric.routing.route import CAPABILITY
from fabric.startup.advice import Estimate
from fabric.startup.definition import CheckKind, Condition, Dependency, HealthCheck, RetryPolicy, ServiceDefinition
from fabric.startup.events import RunRequested
from fabric.startup.graph import ServiceDependencyGraph
from fabric.startup.plan import make_plan
from fabric.startup.stages import HealthGate, RunOptions, StartupStage

COORDINATOR = "coordinator"
"""Not in the file, and called like any other service."""
_VARIABLE = re.compile(r"\$(?:\$|\{(?P<name>[A-Za-z_]\w*)(?::-(?P<default>[^}]*))?\}|(?P<broken>\{))")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSpec:
    """How the processes of one service are run.

    Attributes:
        target: ``MODULE:CLASS`` of a Fabric service, or None.
        command: program and arguments, or empty. Without either, somebody else starts it.
        env: added to the environment; may hold secrets, so it is in no repr.
        cwd: None is where the fleet is started.
        restart: whether a process that was up and failed is started again.
    """

    service: str
    target: str | None = None
    command: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    instances: int = 1
    cwd: Path | None = None
    restart: bool = True

    @property
    def is_ours(self) -> bool:
        """Whether the file says how to start it."""
        return bool(self.target or self.command)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """A fleet file that holds together: every name in it is defined, and nothing waits for itself.

    Attributes:
        path: of the file, absolute.
        slots: services that may be starting at once; None is no limit.
        budgets: of each named resource, what all starts together may take.
        runs: by service, in the order of the file.
        fork_server: whether processes are made by one that has Fabric loaded. Each afresh takes longer and is independent of it.
        preload: whether that one loads the modules of the services too. They are then loaded once and shared; what they read
            from the environment when they are imported is the same for all, and none may start threads then.
        policies: how calls are treated by every process of the fleet, in plain form; None leaves it to the environment.
        policies_from: the service that hands out policies which go over these; "" leaves it to the environment.
        prediction: what the stages and slots of a file that ``fabric optimize`` wrote are expected to bring.
    """

    name: str
    namespace: str
    path: Path
    graph: ServiceDependencyGraph
    stages: tuple[StartupStage, ...]
    runs: Mapping[str, RunSpec]
    slots: int | None = None
    budgets: Mapping[str, float] = field(default_factory=dict)
    fork_server: bool = True
    preload: bool = False
    policies: Mapping[str, Any] | None = None
    policies_from: str = ""
    prediction: Estimate | None = None

    @property
    def definitions(self) -> tuple[ServiceDefinition, ...]:
        """Of all services, in the order of the file."""
        return tuple(self.graph.services.values())

    def stage_of(self, service: str) -> str:
        """The name of its stage, or "" of one that starts by its dependencies alone."""
        return next((stage.name for stage in self.stages if service in stage.services), "")


def load_fleet(path: str | Path, *, environment: Mapping[str, str] | None = None) -> Fleet:
    """Read and check a fleet file.

    Args:
        path: of the file; messages name it as it is given here.
        environment: what ``${NAME}`` in ``env`` refers to; the process's own by default.

    Raises:
        ConfigurationError: unreadable, or something in it is wrong: all wrong values, one a line, each with its place.
        UnknownName: a service or stage that is not defined.
        DependencyCycle: services that wait for each other, directly or through a gate, with the line of each edge.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"can't read the fleet file: {error.strerror}", source=str(path)) from error
    except UnicodeDecodeError as error:
        raise ConfigurationError("the fleet file is not UTF-8 text", source=str(path)) from error
    return parse_fleet(text, path, environment=environment)


def parse_fleet(text: str, path: str | Path, *, environment: Mapping[str, str] | None = None) -> Fleet:
    """As ``load_fleet``, of a text. Relative directories in it are relative to the directory of ``path``."""
    located = parse(text, str(path))
    if not isinstance(located.data, dict):
        raise ConfigurationError("a fleet file is a mapping with name, services and stages", source=located.source(()))
    try:
        entry = FleetEntry.model_validate(located.data)
    except ValidationError as error:
        raise _wrong_values(error, located) from error
    graph = ServiceDependencyGraph(_definition(name, service, located) for name, service in entry.services.items())
    _stages_fit(entry, located)
    _checks_fit(entry, located)
    stages = tuple(_stage(index, stage, located) for index, stage in enumerate(entry.stages))
    options = RunOptions(slots=entry.slots, budgets=entry.budgets)
    make_plan(RunRequested(run="check", services=tuple(graph.services.values()), stages=stages, options=options))
    here = Path(path).resolve()
    return Fleet(
        name=entry.name,
        namespace=entry.namespace or entry.name,
        path=here,
        graph=graph,
        stages=stages,
        runs={
            name: RunSpec(
                service=name,
                target=service.run,
                command=tuple(service.command or ()),
                env=_environment(name, service.env, located, os.environ if environment is None else environment),
                instances=service.instances,
                cwd=here.parent / service.cwd if service.cwd is not None else None,
                restart=service.restart == "on-failure",
            )
            for name, service in entry.services.items()
        },
        slots=entry.slots,
        budgets=entry.budgets,
        fork_server=bool(entry.fork_server),
        preload=entry.fork_server == "preload",
        policies=_policies(entry, located),
        policies_from=entry.policies.from_ or "",
        prediction=None if entry.prediction is None else Estimate(**entry.prediction.model_dump()),
    )


def _wrong_values(error: ValidationError, located: Located) -> ConfigurationError:
    """All of them, the first by line first."""
    problems = []
    for item in error.errors(include_url=False, include_context=False, include_input=False):
        place = tuple(part for part in item["loc"] if part != "[key]")
        where = ".".join(str(part) for part in place)
        if item["type"] == "extra_forbidden":
            what = f"unknown key{_suggestion(str(place[-1]), keys_at(place[:-1]))}"
        elif item["type"] == "missing":
            what = "is missing"
        else:
            what = item["msg"].removeprefix("Value error, ")
        problems.append((located.source(place), f"{where}: {what}" if where else what))
    problems.sort(key=lambda problem: int(problem[0].rpartition(":")[2]))
    (source, first), *others = problems
    return ConfigurationError("\n".join([first, *(f"{at}: {what}" for at, what in others)]), source=source)


def _suggestion(name: str, known: list[str]) -> str:
    from difflib import get_close_matches

    near = get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; known are: {', '.join(sorted(known))}"


def _stages_fit(entry: FleetEntry, located: Located) -> None:
    """Every service that a stage or gate names is defined, and is in one stage at most."""
    known = tuple(entry.services)

    def check(names: Iterable[str], used_by: str, *place: str | int) -> None:
        for name in names:
            if name not in entry.services:
                raise UnknownName("service", name, used_by=used_by, known=known, source=located.source((*place, name)))

    stages: dict[str, str] = {}
    homes: dict[str, str] = {}
    for index, stage in enumerate(entry.stages):
        source = located.source(("stages", index, "name"))
        if stage.name in stages:
            raise ConfigurationError(f"stage {stage.name!r} is already defined at {stages[stage.name]}", source=source)
        stages[stage.name] = source
        check(stage.services, f"stage {stage.name}", "stages", index, "services")
        for group, names in (
            ("required", stage.gate.required),
            ("optional", stage.gate.optional),
            ("instances", stage.gate.instances),
        ):
            check(names, f"the gate of stage {stage.name}", "stages", index, "gate", group)
        for name in stage.services:
            source = located.source(("stages", index, "services", name))
            if name in homes:
                raise ConfigurationError(f"service {name!r} is already in a stage at {homes[name]}", source=source)
            homes[name] = source
        for name, count in stage.gate.instances.items():
            if count > (there := entry.services[name].instances):
                raise ConfigurationError(
                    f"the gate of stage {stage.name} asks for {count} instances of {name!r}, which has {there}",
                    source=located.source(("stages", index, "gate", "instances", name)),
                )


def _checks_fit(entry: FleetEntry, located: Located) -> None:
    """Every service that a health check calls is defined."""
    for service, its in entry.services.items():
        for index, check in enumerate(its.health_checks or ()):
            name = check.target.partition(".")[0]
            if check.kind == "dependency" and name not in entry.services:
                source = located.source(("services", service, "health_checks", index))
                raise UnknownName("service", name, used_by=f"a check of {service}", known=tuple(entry.services), source=source)


def _policies(entry: FleetEntry, located: Located) -> Mapping[str, Any] | None:
    """What the file says of how calls are treated, once it is known to be possible."""
    said = entry.policies
    known = (*entry.services, COORDINATOR)
    if said.from_ is not None and said.from_ not in known:
        source = located.source(("policies", "from"))
        raise UnknownName("service", said.from_, used_by="policies.from", known=known, source=source)
    for name in said.services:
        if name not in known and not name.startswith(CAPABILITY):
            source = located.source(("policies", "services", name))
            raise UnknownName("service", name, used_by="policies", known=known, source=source)
    policies = Policies()
    place: tuple[str, ...] = ("policies", "default")
    try:
        policies = policies.overlaid({"default": said.default})
        for name, given in said.services.items():
            place = ("policies", "services", name)
            policies.overlaid({"services": {name: given}})
    except ConfigurationError as error:
        raise ConfigurationError(str(error), source=located.source(place)) from error
    return {"default": said.default, "services": said.services} if said.default or said.services else None


def _definition(name: str, entry: ServiceEntry, located: Located) -> ServiceDefinition:
    place = ("services", name)
    checks = entry.health_checks
    return ServiceDefinition(
        name=name,
        critical=entry.critical,
        dependencies=_dependencies(entry.dependencies, located, *place, "dependencies"),
        optional_dependencies=_dependencies(entry.optional_dependencies, located, *place, "optional_dependencies"),
        timeout=entry.timeout,
        stop_timeout=entry.stop_timeout,
        retry_policy=_retry(entry.retry),
        health_checks=(HealthCheck(source=located.source(place)),)
        if checks is None
        else tuple(
            HealthCheck(
                kind=CheckKind(check.kind),
                target=check.target,
                interval=check.interval,
                timeout=check.timeout,
                expect=check.expect,
                source=located.source((*place, "health_checks", index)),
            )
            for index, check in enumerate(checks)
        ),
        resources=entry.resources,
        capabilities=tuple(entry.capabilities),
        instances=entry.instances,
        source=located.source(place),
    )


def _dependencies(edges: Edges, located: Located, *place: str) -> tuple[Dependency, ...]:
    return tuple(
        Dependency(on=name, condition=Condition(edge.condition), source=located.source((*place, name)))
        for name, edge in edges.items()
    )


def _retry(entry: RetryEntry | None) -> RetryPolicy | None:
    return None if entry is None else RetryPolicy(**entry.model_dump())


def _stage(index: int, entry: StageEntry, located: Located) -> StartupStage:
    source = located.source(("stages", index, "name"))
    return StartupStage(
        name=entry.name,
        services=tuple(entry.services),
        health_gate=HealthGate(
            required=tuple(entry.gate.required),
            optional=tuple(entry.gate.optional),
            instances=entry.gate.instances,
            stable_for=entry.gate.stable_for,
            successes=entry.gate.successes,
            source=located.source(("stages", index, "gate")),
        ),
        timeout=entry.timeout,
        skip_on_timeout=entry.skip_on_timeout,
        retry_policy=_retry(entry.retry),
        source=source,
    )


def _environment(service: str, values: Mapping[str, Any], located: Located, given: Mapping[str, str]) -> dict[str, str]:
    """The values as they are written in the file, with ``${NAME}`` and ``${NAME:-default}`` replaced; ``$$`` is ``$``."""
    found = {}
    for key in values:
        place = ("services", service, "env", key)
        source = located.source(place)
        if place not in located.texts:
            raise ConfigurationError(f"services.{service}.env.{key}: must be a single value", source=source)

        def replace(match: re.Match[str], source: str = source, key: str = key) -> str:
            if match["broken"]:
                raise ConfigurationError(
                    f"services.{service}.env.{key}: write ${{NAME}}, ${{NAME:-default}}, or $$ for a dollar sign", source=source
                )
            name = match["name"]
            if name is None:
                return "$"
            if match["default"] is not None:
                return given.get(name) or match["default"]
            if name not in given:
                raise ConfigurationError(
                    f"services.{service}.env.{key}: {name} is not set in the environment; set it, or write ${{{name}:-default}}",
                    source=source,
                )
            return given[name]

        found[key] = _VARIABLE.sub(replace, located.texts[place])
    return found
