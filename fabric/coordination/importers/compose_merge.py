"""How compose files are laid over one another, service by service."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from fabric.coordination.located import Located, Path
from fabric.errors import ConfigurationError

Tree = dict[str, Any]
"""The keys of one service that matter here, in their long form. ``sources`` in it has the place of each dependency."""

_MAPS: Final = ("depends_on", "healthcheck", "deploy")
_PAIRS: Final = ("environment", "labels")
_LISTS: Final = ("links", "volumes_from", "profiles")
_PLAIN: Final = ("network_mode", "ipc", "pid", "restart", "scale", "stop_grace_period", "extends")
KEYS: Final = frozenset({*_MAPS, *_PAIRS, *_LISTS, *_PLAIN})
RESET, OVERRIDE = "!reset", "!override"


class _Marked:
    """A value that stands in place of what was there, not over it; None takes it away."""

    def __init__(self, value: Any) -> None:
        self.value = value


def long_form(located: Located, name: str) -> Tree:
    """The service ``name`` of one file, brought into a form that can be merged.

    Raises:
        ConfigurationError: a key of it has a value of the wrong kind.
    """
    place: Path = ("services", name)
    body = located.data["services"][name]
    if body is None:  # it is only mentioned
        return {"sources": {}, "source": located.source(place)}
    if not isinstance(body, dict):
        raise ConfigurationError(f"the service {name} is not a mapping", source=located.source(place))
    tree: Tree = {"sources": {}, "source": located.source(place)}
    for key in sorted(KEYS & body.keys()):
        at = (*place, key)
        tag = located.tags.get(at)
        if tag == RESET:
            tree[key] = _Marked(None)
            continue
        value = _normal(key, body[key], located, at)
        tree[key] = _Marked(value) if tag == OVERRIDE else value
        if key in ("depends_on", "links", "volumes_from"):
            tree["sources"].update({(key, item): located.source((*at, *_step(body[key], item))) for item in value or ()})
        elif key in ("network_mode", "ipc", "pid"):
            tree["sources"][key, value] = located.source(at)
    return tree


def merged(below: Tree, above: Tree) -> Tree:
    """``above`` laid over ``below``: mappings key by key, lists one behind the other, all else replaced."""
    result = dict(below)
    for key, value in above.items():
        if isinstance(value, _Marked):
            result[key] = value.value
        elif key not in below or isinstance(below[key], _Marked) or below[key] is None:
            result[key] = value
        elif key in _LISTS:
            result[key] = list(dict.fromkeys([*below[key], *value]))
        elif key == "healthcheck" or isinstance(value, dict):
            result[key] = _deep(below[key], value)
        else:
            result[key] = value
    result["source"] = below["source"]
    return result


def settled(tree: Tree) -> Tree:
    """Without marks: what stands alone in one file."""
    return {key: value.value if isinstance(value, _Marked) else value for key, value in tree.items()}


def _deep(below: Mapping[Any, Any], above: Mapping[Any, Any]) -> dict[Any, Any]:
    result = dict(below)
    for key, value in above.items():
        old = result.get(key)
        result[key] = _deep(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return result


def _step(value: Any, item: str) -> tuple[str, ...] | tuple[int, ...]:
    return (value.index(item),) if isinstance(value, list) and item in value else (item,)


def _normal(key: str, value: Any, located: Located, at: Path) -> Any:
    if value is None:
        return {} if key in (*_MAPS, *_PAIRS) else [] if key in _LISTS else None
    if key == "depends_on" and isinstance(value, list):
        return {_text(item, located, at): {} for item in value}
    if key == "depends_on" and isinstance(value, dict):
        return {name: item if isinstance(item, dict) else {} for name, item in value.items()}
    if key in _PAIRS:
        return _pairs(value, located, at)
    if (key in _MAPS and not isinstance(value, dict)) or (key in _LISTS and not isinstance(value, list)):
        kind = "a mapping" if key in _MAPS else "a list"
        raise ConfigurationError(f"{'.'.join(map(str, at))}: must be {kind}", source=located.source(at))
    if key in _LISTS:
        return [_text(item, located, at) for item in value]
    return value


def _pairs(value: Any, located: Located, at: Path) -> dict[str, str]:
    if isinstance(value, dict):
        return {name: "" if item is None else str(item) for name, item in value.items()}
    if isinstance(value, list):
        return {name: item for name, _, item in (_text(entry, located, at).partition("=") for entry in value)}
    raise ConfigurationError(f"{'.'.join(map(str, at))}: must be a mapping or a list", source=located.source(at))


def _text(item: Any, located: Located, at: Path) -> str:
    if isinstance(item, str | int | float) and not isinstance(item, bool):
        return str(item)
    raise ConfigurationError(f"{'.'.join(map(str, at))}: {item!r} is not a text", source=located.source(at))
