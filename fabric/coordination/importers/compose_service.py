"""One service of a compose file, in its long form, as a service of a fleet."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import Any, Final

from fabric.coordination.importers.compose_merge import Tree
from fabric.coordination.importers.draft import LEVELS, DraftEdge, DraftService
from fabric.errors import ConfigurationError
from fabric.startup.definition import Condition, RetryPolicy

_CONDITIONS: Final = {
    "service_started": Condition.STARTED,
    "service_healthy": Condition.HEALTHY,
    "service_completed_successfully": Condition.COMPLETED,
}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(h|ms|us|m|s)")
_SECONDS: Final = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001, "us": 0.000_001}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)b?", re.I)
_MEBIBYTES: Final = {"": 2.0**-20, "k": 2.0**-10, "m": 1.0, "g": 2.0**10, "t": 2.0**20}
_CRITICALITY = re.compile(r"(?:^|,)service\.criticality=([a-z]+)")


def service_of(name: str, tree: Tree, off: set[str]) -> DraftService:
    """The service that ``tree`` describes.

    Args:
        off: services that are left out; what needs them only optionally does without.

    Raises:
        ConfigurationError: a value of it is not what it should be.
    """
    source = tree["source"]
    deploy, health = tree.get("deploy") or {}, tree.get("healthcheck") or {}
    check = _check(health, source)
    restarts, retry = _restart(tree, deploy, source)
    return DraftService(
        name=name,
        edges=tuple(_edges(name, tree, off)),
        criticality=_criticality(tree, source),
        check=check,
        timeout=_time_to_health(health, source) if check else None,
        stop_timeout=_seconds(tree["stop_grace_period"], source) if tree.get("stop_grace_period") else None,
        instances=_count(deploy.get("replicas", tree.get("scale", 1)), source),
        restarts=restarts,
        retry=retry,
        resources=_resources(deploy, source),
        source=source,
    )


def _edges(name: str, tree: Tree, off: set[str]) -> list[DraftEdge]:
    """By ``depends_on``, else by what needs the other to be there: links, shared volumes and namespaces."""
    found: dict[str, DraftEdge] = {}
    for on, how in (tree.get("depends_on") or {}).items():
        source = tree["sources"].get(("depends_on", on), tree["source"])
        condition = _CONDITIONS.get(how.get("condition", "service_started"))
        if condition is None:
            known = ", ".join(_CONDITIONS)
            raise ConfigurationError(f"{name} needs {on}: no condition {how['condition']!r}; there are {known}", source=source)
        optional = how.get("required", True) is False
        if not (optional and on in off):
            found[on] = DraftEdge(on=on, condition=condition, optional=optional, source=source)
    others = [("links", link, link.partition(":")[0]) for link in tree.get("links") or []]
    others += [
        ("volumes_from", volume, volume.partition(":")[0])
        for volume in tree.get("volumes_from") or []
        if not volume.startswith("container:")
    ]
    others += [
        (key, value, value.removeprefix("service:"))
        for key in ("network_mode", "ipc", "pid")
        if (value := str(tree.get(key) or "")).startswith("service:")
    ]
    for key, written, on in others:
        source = tree["sources"].get((key, written), tree["source"])
        found.setdefault(on, DraftEdge(on=on, condition=Condition.STARTED, source=source))
    return list(found.values())


def _check(health: Mapping[str, Any], source: str) -> dict[str, Any] | None:
    test = health.get("test")
    if not test or health.get("disable") is True or test == ["NONE"]:
        return None
    if isinstance(test, list):
        kind, *words = [str(word) for word in test]
        command = words[0] if kind == "CMD-SHELL" and words else shlex.join(words if kind == "CMD" else [kind, *words])
    else:
        command = str(test)
    check: dict[str, Any] = {"kind": "command", "target": command}
    for key in ("interval", "timeout"):
        if key in health and (seconds := _seconds(health[key], source)) > 0:
            check[key] = seconds
    return check


def _time_to_health(health: Mapping[str, Any], source: str) -> float:
    """Seconds until Docker gives a container up that is never healthy."""
    interval, limit = (_seconds(health.get(key, "30s"), source) for key in ("interval", "timeout"))
    retries = _count(health.get("retries", 3), source)
    return _seconds(health.get("start_period", "0s"), source) + max(1, retries) * (interval + limit)


def _restart(tree: Tree, deploy: Mapping[str, Any], source: str) -> tuple[bool, RetryPolicy | None]:
    policy = deploy.get("restart_policy") or {}
    how, _, times = str(tree.get("restart") or policy.get("condition") or "no").partition(":")
    if how in ("no", "none", "False", "false"):
        return False, None
    attempts = times or policy.get("max_attempts")
    return True, RetryPolicy(attempts=1 + _count(attempts, source)) if attempts else None


def _resources(deploy: Mapping[str, Any], source: str) -> dict[str, float]:
    """What is reserved, else the limits: ``cpu`` in cores, ``memory`` in MiB."""
    given = deploy.get("resources") or {}
    all_of_it = {**(given.get("limits") or {}), **(given.get("reservations") or {})}
    found = {}
    if "cpus" in all_of_it:
        found["cpu"] = _number(all_of_it["cpus"], source)
    if "memory" in all_of_it:
        match = _SIZE.fullmatch(str(all_of_it["memory"]).strip())
        if match is None:
            raise ConfigurationError(f"{all_of_it['memory']!r} is not a size of memory", source=source)
        found["memory"] = round(float(match[1]) * _MEBIBYTES[match[2].lower()], 3)
    return found


def _criticality(tree: Tree, source: str) -> str:
    """What a label ``service.criticality``, or the OpenTelemetry attribute of this name, says."""
    label = (tree.get("labels") or {}).get("service.criticality", "")
    attribute = _CRITICALITY.search((tree.get("environment") or {}).get("OTEL_RESOURCE_ATTRIBUTES", ""))
    level = label or (attribute[1] if attribute else "")
    if level and level not in LEVELS:
        raise ConfigurationError(f"service.criticality is {level!r}; it must be one of {', '.join(LEVELS)}", source=source)
    return level


def _seconds(value: Any, source: str) -> float:
    text = str(value).strip()
    parts = _DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        if text in ("0", "0.0"):
            return 0.0
        raise ConfigurationError(f"{value!r} is not a duration such as 1m30s", source=source)
    return sum(float(number) * _SECONDS[unit] for number, unit in parts)


def _count(value: Any, source: str) -> int:
    number = _number(value, source)
    if number != int(number) or number < 0:
        raise ConfigurationError(f"{value!r} is not a count", source=source)
    return int(number)


def _number(value: Any, source: str) -> float:
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"{value!r} is not a number", source=source) from error
