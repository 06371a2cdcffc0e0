"""Compose files, as ``docker compose`` reads them: several over one another, with variables, profiles and extensions.

What matters for the order of a start is taken over; images, ports, volumes and networks are not. See the Compose
Specification, https://compose-spec.io.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from fabric.coordination.importers.compose_merge import Tree, long_form, merged, settled
from fabric.coordination.importers.compose_service import service_of
from fabric.coordination.importers.draft import Draft, checked
from fabric.coordination.importers.variables import Variables, read_env
from fabric.coordination.located import Located, parse_all
from fabric.errors import ConfigurationError
from fabric.startup.definition import Condition

_MOST_FILES: Final = 200


def read_compose(
    files: Sequence[Path | str],
    *,
    profiles: Iterable[str] = (),
    env_files: Sequence[Path | str] = (),
    environment: Mapping[str, str] | None = None,
    name: str = "",
) -> Draft:
    """The fleet that ``files`` describe together, the later ones laid over the earlier.

    Args:
        profiles: those that are on; ``*`` is all. Services of others only are left out.
        env_files: default is ``.env`` beside the first file, where there is one.
        environment: wins over the files of variables; the process's own by default.
        name: of the fleet; default is the one in the files, else that of the directory.

    Raises:
        ConfigurationError: something can't be read, or services are named that no file defines.
    """
    if not files:
        raise ConfigurationError("no compose file is given")
    given = os.environ if environment is None else environment
    directory = Path(files[0]).resolve().parent
    chosen = [str(path) for path in env_files] or [str(path) for path in (directory / ".env",) if path.is_file()]
    values: dict[str, str] = {}
    for file in chosen:
        values = read_env(_read(file), file, given, values)
    project = _Project(Variables({**values, **given}))
    for path in files:
        project.add(str(path))
    return project.draft(tuple(str(path) for path in files), name or project.name or directory.name, frozenset(profiles))


class _Project:
    """Files laid over one another."""

    def __init__(self, variables: Variables) -> None:
        self.name = ""
        self._variables = variables
        self._services: dict[str, Tree] = {}
        self._read: dict[str, list[Located]] = {}
        self._adding: list[str] = []

    def add(self, path: str) -> None:
        if path in self._adding:
            raise ConfigurationError(f"the file includes itself: {' -> '.join([*self._adding, path])}", source=path)
        self._adding.append(path)
        for located in self._documents(path):
            data = located.data or {}
            self.name = str(data.get("name") or self.name)
            for included in _included(located):
                self.add(str(Path(path).parent / included))
            for service in data.get("services") or {}:
                tree = self._extended(located, path, service, ())
                below = self._services.get(service)
                self._services[service] = merged(below, tree) if below is not None else settled(tree)
        self._adding.pop()

    def _documents(self, path: str) -> list[Located]:
        if path not in self._read:
            if len(self._read) >= _MOST_FILES:
                raise ConfigurationError(f"more than {_MOST_FILES} files", source=path)
            documents = [_filled(located, self._variables) for located in parse_all(_read(path), path)]
            for located in documents:
                services = located.data.get("services") if isinstance(located.data, dict) else located.data
                if not isinstance(services, dict | None):
                    raise ConfigurationError("not a compose file: there is no mapping of services", source=located.source(()))
            self._read[path] = documents
        return self._read[path]

    def _extended(self, located: Located, path: str, service: str, above: tuple[tuple[str, str], ...]) -> Tree:
        if (path, service) in above:
            chain = " -> ".join(name for _, name in (*above, (path, service)))
            raise ConfigurationError(f"services extend each other: {chain}", source=located.source(("services", service)))
        tree = long_form(located, service)
        extends = tree.pop("extends", None)
        if extends is None:
            return tree
        base, file = (extends, None) if isinstance(extends, str) else (extends.get("service"), extends.get("file"))
        there = str(Path(path).parent / file) if file else path
        for other in self._documents(there):
            if base in ((other.data or {}).get("services") or {}):
                below = self._extended(other, there, base, (*above, (path, service)))
                return {**merged(settled(below), tree), "source": tree["source"]}
        at = located.source(("services", service, "extends"))
        raise ConfigurationError(f"{service} extends {base}, which {there} does not define", source=at)

    def draft(self, files: tuple[str, ...], name: str, profiles: frozenset[str]) -> Draft:
        off = {service for service, tree in self._services.items() if not _is_on(tree, profiles)}
        services = {service: service_of(service, tree, off) for service, tree in self._services.items() if service not in off}
        notes: list[str] = []
        notes += [
            f"{service} waits for {edge.on} to be healthy, which has no health check: it counts as healthy when it has started."
            for service, one in services.items()
            for edge in one.edges
            if edge.condition is Condition.HEALTHY and edge.on in services and services[edge.on].check is None
        ]
        if off:
            notes.append(f"Left out, for their profiles are off: {', '.join(sorted(off))}.")
        if self._variables.unset:
            notes.append(f"Not set, and taken as empty: {', '.join(self._variables.unset)}.")
        if not services:
            raise ConfigurationError("the files define no services", source=files[0])
        return checked(Draft(name=name, services=services, origin=files, notes=tuple(notes)))


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"can't be read: {error.strerror}", source=path) from error
    except UnicodeDecodeError as error:
        raise ConfigurationError("is not UTF-8 text", source=path) from error


def _filled(located: Located, variables: Variables) -> Located:
    """Every text of it with its variables replaced; keys are never looked at."""

    def fill(value: Any, path: tuple[str | int, ...]) -> Any:
        if isinstance(value, dict):
            return {key: fill(item, (*path, key)) for key, item in value.items()}
        if isinstance(value, list):
            return [fill(item, (*path, index)) for index, item in enumerate(value)]
        return variables.fill(value, located.source(path)) if isinstance(value, str) else value

    return Located(fill(located.data, ()), located.file, located.lines, located.texts, located.tags)


def _included(located: Located) -> list[str]:
    found: list[str] = []
    for item in located.data.get("include") or [] if isinstance(located.data, dict) else []:
        paths = item.get("path") if isinstance(item, dict) else item
        found += [paths] if isinstance(paths, str) else [str(path) for path in paths or []]
    return found


def _is_on(tree: Tree, profiles: frozenset[str]) -> bool:
    own = tree.get("profiles") or []
    return not own or "*" in profiles or bool(profiles & set(own))
