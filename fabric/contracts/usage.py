"""What a service calls, as its hub has seen: told together with what it offers, so that a change finds whom it breaks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from pydantic import TypeAdapter
from pydantic.errors import PydanticUserError

from fabric.contract import ServiceContract
from fabric.contracts.description import FORMAT, Schemas, describe
from fabric.values import LEAVES, adapter_of

_OURS: Final = "fabric."
_PLAIN: Final = (dict, list, tuple, type(None), *LEAVES)
"""Of these the type says nothing of what is in them."""

Used = Iterable[tuple[str, str, type, Any]]
"""Target, method, the type of what was sent, what was expected."""


def described(contract: ServiceContract, used: Used) -> dict[str, Any]:
    """The description of a service, with ``calls`` where it has made any; ``docs/contracts.md`` has the fields."""
    calls = describe_calls(used)
    return {**describe(contract), "calls": calls} if calls["made"] else describe(contract)


def describe_calls(used: Used) -> dict[str, Any]:
    """Each call with the schema of what is sent and of what is expected: ``{}`` where the caller has no type for it."""
    made = sorted((entry for entry in used if not entry[1].startswith(_OURS)), key=lambda entry: entry[:2])
    schemas: dict[tuple[int, str], Any] = {}
    wanted: list[tuple[tuple[int, str], Any, TypeAdapter[Any]]] = []
    for number, (_, _, sent, expected) in enumerate(made):
        for side, mode, kind in (("sends", "serialization", sent), ("expects", "validation", expected)):
            adapter = None if kind is Any or (side == "sends" and kind in _PLAIN) else _adapter(kind)
            if adapter is not None:
                wanted.append(((number, side), mode, adapter))
    shared: dict[str, Any] = {}
    if wanted:
        found, shared = TypeAdapter.json_schemas(wanted, schema_generator=Schemas)
        schemas = {key: schema for (key, _), schema in found.items()}
    return {
        "made": [
            {
                "service": target,
                "method": method,
                "sends": schemas.get((number, "sends"), {}),
                "expects": schemas.get((number, "expects"), {}),
            }
            for number, (target, method, _, _) in enumerate(made)
        ],
        "$defs": shared.get("$defs", {}),
    }


def merged(descriptions: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Those of many instances as those of a fleet: of each service the first, with the calls of all."""
    services: dict[str, dict[str, Any]] = {}
    for each in descriptions:
        known = services.setdefault(each["service"], each)
        calls = each.get("calls")
        if known is not each and calls:
            seen = known.setdefault("calls", {"made": [], "$defs": {}})
            there = [(call["service"], call["method"]) for call in seen["made"]]
            seen["made"] += [call for call in calls["made"] if (call["service"], call["method"]) not in there]
            seen["$defs"] = {**calls["$defs"], **seen["$defs"]}
    return {"fabric": FORMAT, "services": {name: services[name] for name in sorted(services)}}


def _adapter(kind: Any) -> TypeAdapter[Any] | None:
    try:
        return adapter_of(kind)
    except PydanticUserError:
        return None
