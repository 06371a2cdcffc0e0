"""Kubernetes manifests: workloads as services, ordered by what their init containers wait for.

Kubernetes itself knows no order. A workload depends on what an annotation ``fabric/depends-on: a, b`` names and on the
services that its init containers name in their commands; it waits, while they are coming, for those whose addresses are in
its environment.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fabric.coordination.importers.draft import LEVELS, Draft, DraftEdge, DraftService, checked
from fabric.coordination.located import Located, parse_all
from fabric.coordination.located import Path as Place
from fabric.errors import ConfigurationError
from fabric.startup.definition import Condition

DEPENDS_ON: Final = "fabric/depends-on"
_KINDS: Final = ("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Job", "Pod")
_QUANTITY = re.compile(r"(\d+(?:\.\d+)?)([a-zA-Z]*)")
_BYTES: Final = {
    "": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40,
}  # fmt: skip
_HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*(?:\.[A-Za-z0-9][A-Za-z0-9-]*)*")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Workload:
    """A workload and where it stands: ``at`` is its place in the document."""

    kind: str
    name: str
    namespace: str
    body: Mapping[str, Any]
    located: Located
    at: Place

    @property
    def pod(self) -> tuple[Mapping[str, Any], Place]:
        """The specification of its pods, and its place."""
        path: Place = ("spec",) if self.kind == "Pod" else ("spec", "template", "spec")
        return _at(self.body, path) or {}, (*self.at, *path)

    @property
    def labels(self) -> Mapping[str, Any]:
        path: Place = ("metadata", "labels") if self.kind == "Pod" else ("spec", "template", "metadata", "labels")
        return _at(self.body, path) or {}

    def annotation(self, name: str) -> str:
        for path in (("metadata",), ("spec", "template", "metadata")):
            for group in ("annotations", "labels"):
                if value := (_at(self.body, (*path, group)) or {}).get(name):
                    return str(value)
        return ""

    def source(self, *path: str | int) -> str:
        return self.located.source((*self.at, *path))


def read_kubernetes(paths: Sequence[Path | str], *, name: str = "") -> Draft:
    """The fleet of the manifests in ``paths``: files, or directories with all below them.

    Raises:
        ConfigurationError: something can't be read, or there is no workload.
    """
    objects = [found for file in _files(paths) for located in _parsed(file) for found in _objects(located)]
    workloads = [_Workload(kind=kind, name=_name(body), namespace=_namespace(body), body=body, located=located, at=at)
                 for kind, body, located, at in objects if kind in _KINDS]  # fmt: skip
    if not workloads:
        raise ConfigurationError("there are no workloads in the manifests", source=str(paths[0]) if paths else None)
    names = _names(workloads)
    hosts = _hosts(objects, workloads, names)
    found = {}
    for workload in workloads:
        mine = names[workload.namespace, workload.kind, workload.name]
        found[mine] = _service(mine, workload, _edges(mine, workload, hosts, workloads, names))
    directory = Path(paths[0])
    title = name or (directory if directory.is_dir() else directory.parent).resolve().name
    return checked(Draft(name=title, services=found, origin=tuple(str(path) for path in paths), notes=_notes(objects)))


def _notes(objects: Sequence[tuple[str, Any, Located, Place]]) -> tuple[str, ...]:
    crons = sorted(_name(body) for kind, body, _, _ in objects if kind == "CronJob")
    return (f"Not part of a start, and left out: the cron jobs {', '.join(crons)}.",) if crons else ()


def _files(paths: Sequence[Path | str]) -> list[Path]:
    found: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            found += sorted(file for file in path.rglob("*") if file.suffix in (".yaml", ".yml", ".json") and file.is_file())
        else:
            found.append(path)
    return found


def _parsed(file: Path) -> list[Located]:
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"can't be read: {error.strerror}", source=str(file)) from error
    if "{{" in text:
        raise ConfigurationError("this is a template; render it first, as with `helm template`", source=str(file))
    return parse_all(text, str(file))


def _objects(located: Located) -> Iterator[tuple[str, Mapping[str, Any], Located, Place]]:
    """The objects of a document, those of a list one by one."""
    body = located.data
    if not isinstance(body, dict) or not isinstance(body.get("kind"), str):
        return
    if body["kind"].endswith("List"):
        for index, item in enumerate(body.get("items") or []):
            if isinstance(item, dict) and isinstance(item.get("kind"), str):
                yield item["kind"], item, located, ("items", index)
    else:
        yield body["kind"], body, located, ()


def _names(workloads: Sequence[_Workload]) -> dict[tuple[str, str, str], str]:
    """Plain names; with the namespace or the kind in front where those alone are not enough."""
    names: dict[tuple[str, str, str], str] = {}
    for workload in workloads:
        key = (workload.namespace, workload.kind, workload.name)
        tried = (workload.name, f"{workload.namespace}-{workload.name}", f"{workload.kind.lower()}-{workload.name}")
        free = [name for name in tried if name not in names.values()]
        if key in names or not free:
            source = workload.source("metadata", "name")
            raise ConfigurationError(f"there are two of {workload.kind} {workload.name}", source=source)
        names[key] = free[0]
    return names


def _hosts(
    objects: Sequence[tuple[str, Any, Located, Place]],
    workloads: Sequence[_Workload],
    names: Mapping[tuple[str, str, str], str],
) -> dict[str, str]:
    """The workload behind each name under which it is reached."""
    found: dict[str, str] = {}
    for kind, body, _, _ in objects:
        selector = _at(body, ("spec", "selector")) if kind == "Service" else None
        for workload in workloads:
            if selector and workload.namespace == _namespace(body) and selector.items() <= workload.labels.items():
                found.setdefault(_name(body), names[workload.namespace, workload.kind, workload.name])
    return found


def _edges(
    mine: str,
    workload: _Workload,
    hosts: Mapping[str, str],
    workloads: Sequence[_Workload],
    names: Mapping[tuple[str, str, str], str],
) -> tuple[DraftEdge, ...]:
    jobs = {names[other.namespace, other.kind, other.name] for other in workloads if other.kind == "Job"}
    found: dict[str, DraftEdge] = {}

    def add(on: str, source: str, *, optional: bool = False) -> None:
        if on != mine:
            condition = Condition.COMPLETED if on in jobs else Condition.HEALTHY
            found.setdefault(on, DraftEdge(on=on, condition=condition, optional=optional, source=source))

    for name in re.split(r"[,\s]+", workload.annotation(DEPENDS_ON)):
        if name:
            add(name, workload.source("metadata", "annotations", DEPENDS_ON))
    pod, at = workload.pod
    for index, container in enumerate(pod.get("initContainers") or []):
        for text in (*(container.get("command") or []), *(container.get("args") or [])):
            for host in _named(str(text), hosts):
                add(hosts[host], workload.located.source((*at, "initContainers", index)))
    for index, container in enumerate(pod.get("containers") or []):
        for number, variable in enumerate(container.get("env") or []):
            for host in _named(str(variable.get("value") or ""), hosts):
                add(hosts[host], workload.located.source((*at, "containers", index, "env", number)), optional=True)
    return tuple(found.values())


def _named(text: str, hosts: Mapping[str, str]) -> list[str]:
    """The services whose names stand in ``text`` by themselves, alone or as the first part of a longer address."""
    return [host for match in _HOST.finditer(text) if (host := match[0].partition(".")[0]) in hosts]


def _service(name: str, workload: _Workload, edges: tuple[DraftEdge, ...]) -> DraftService:
    pod, at = workload.pod
    source = workload.source("metadata", "name")
    containers = [container for container in pod.get("containers") or [] if isinstance(container, dict)]
    check, timeout = None, None
    for container in containers:
        ready = container.get("readinessProbe") or container.get("startupProbe") or container.get("livenessProbe")
        if check is None and ready:
            check = _check(name, ready, container)
            patience = container.get("startupProbe") or ready
            timeout = float(patience.get("initialDelaySeconds", 0)) + float(patience.get("periodSeconds", 10)) * float(
                patience.get("failureThreshold", 3)
            )
    level = workload.annotation("service.criticality")
    if level and level not in LEVELS:
        raise ConfigurationError(f"service.criticality is {level!r}; it must be one of {', '.join(LEVELS)}", source=source)
    return DraftService(
        name=name,
        edges=edges,
        criticality=level,
        check=check,
        timeout=max(30.0, timeout) if timeout else None,
        stop_timeout=float(pod["terminationGracePeriodSeconds"]) if pod.get("terminationGracePeriodSeconds") else None,
        instances=max(1, int((workload.body.get("spec") or {}).get("replicas") or 1)) if workload.kind != "Job" else 1,
        restarts=pod.get("restartPolicy", "Always") != "Never",
        resources=_resources(containers, workload.located.source(at)),
        source=source,
    )


def _check(name: str, probe: Mapping[str, Any], container: Mapping[str, Any]) -> dict[str, Any] | None:
    ports = {port.get("name"): port.get("containerPort") for port in container.get("ports") or []}
    check: dict[str, Any]
    if "exec" in probe:
        check = {"kind": "command", "target": shlex.join(str(word) for word in probe["exec"].get("command") or [])}
    elif "httpGet" in probe:
        get = probe["httpGet"]
        scheme, port = str(get.get("scheme", "http")).lower(), ports.get(get.get("port"), get.get("port"))
        check = {"kind": "http", "target": f"{scheme}://{get.get('host', name)}:{port}{get.get('path', '/')}"}
    elif "tcpSocket" in probe:
        socket = probe["tcpSocket"]
        check = {"kind": "tcp", "target": f"{socket.get('host', name)}:{ports.get(socket.get('port'), socket.get('port'))}"}
    else:
        return None
    return {**check, "interval": float(probe.get("periodSeconds", 10)), "timeout": float(probe.get("timeoutSeconds", 1))}


def _resources(containers: Sequence[Mapping[str, Any]], source: str) -> dict[str, float]:
    """What all containers request together: ``cpu`` in cores, ``memory`` in MiB."""
    found: dict[str, float] = {}
    for container in containers:
        requests = (container.get("resources") or {}).get("requests") or {}
        if "cpu" in requests:
            found["cpu"] = round(found.get("cpu", 0.0) + _quantity(requests["cpu"], source, {"": 1.0, "m": 0.001}), 6)
        if "memory" in requests:
            found["memory"] = round(found.get("memory", 0.0) + _quantity(requests["memory"], source, _BYTES) / 2**20, 3)
    return found


def _quantity(value: Any, source: str, units: Mapping[str, float]) -> float:
    match = _QUANTITY.fullmatch(str(value))
    if match is None or match[2] not in units:
        raise ConfigurationError(f"{value!r} is not a quantity", source=source)
    return float(match[1]) * units[match[2]]


def _name(body: Mapping[str, Any]) -> str:
    return str(_at(body, ("metadata", "name")) or "unnamed")


def _namespace(body: Mapping[str, Any]) -> str:
    return str(_at(body, ("metadata", "namespace")) or "default")


def _at(body: Any, path: Place) -> Any:
    for step in path:
        body = body.get(step) if isinstance(body, dict) else None
    return body
