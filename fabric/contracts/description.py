"""What a service offers as plain data: a JSON schema (draft 2020-12) of everything that it takes and returns."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Final, Literal

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

from fabric.arguments import Arguments
from fabric.contract import ServiceContract
from fabric.errors import ConfigurationError
from fabric.values import adapter_of

FORMAT: Final = 1
"""Of descriptions. One with a higher number is refused."""
METHOD: Final = "fabric.contract"
"""Every instance answers it with its description."""
_DIGITS: Final = 16

_Mode = Literal["validation", "serialization"]


class Schemas(GenerateJsonSchema):
    """What has no JSON schema is described as anything; what is sent has all its fields, also those with a default."""

    ignored_warning_kinds = {"skipped-choice", "non-serializable-default"}  # noqa: RUF012

    def handle_invalid_for_json_schema(self, schema: Any, error_info: str) -> JsonSchemaValue:
        return {}

    def field_is_required(self, field: Any, total: bool) -> bool:
        if self.mode == "serialization" and field["type"] != "typed-dict-field":
            return not field.get("serialization_exclude") and field.get("serialization_exclude_if") is None
        return super().field_is_required(field, total)


def describe(contract: ServiceContract) -> dict[str, Any]:
    """The description of a service; ``docs/contracts.md`` has its fields. Aliases have no entry of their own."""
    wanted: list[tuple[str, _Mode, TypeAdapter[Any]]] = []
    methods = {method.name: method for method in contract.methods.values()}
    for name, method in methods.items():
        wanted.append((f"takes {name}", "validation", method.arguments.adapter))
        wanted.append((f"returns {name}", "serialization", adapter_of(method.returns)))
    handlers = [*contract.events, *contract.broadcasts]
    wanted.extend((f"handles {handler.attribute}", "validation", handler.arguments.adapter) for handler in handlers)
    found, shared = TypeAdapter.json_schemas(wanted, schema_generator=Schemas)
    schemas = {str(key): schema for (key, _), schema in found.items()}
    return {
        "fabric": FORMAT,
        "service": contract.name,
        "version": contract.version,
        "capabilities": sorted(contract.capabilities),
        "methods": {
            name: {
                "aliases": sorted(method.options.aliases),
                "idempotent": method.options.idempotent,
                "timeout": method.options.timeout,
                "callers": None if method.options.callers is None else sorted(method.options.callers),
                "streams": method.streams,
                "optional": _may_be_nothing(method.arguments),
                "takes": schemas[f"takes {name}"],
                "returns": schemas[f"returns {name}"],
            }
            for name, method in sorted(methods.items())
        },
        "events": [
            {
                "handler": handler.attribute,
                "patterns": sorted(handler.patterns),
                "group": handler.options.group if handler.options is not None else "default",
                "takes": schemas[f"handles {handler.attribute}"],
            }
            for handler in contract.events
        ],
        "broadcasts": [
            {
                "handler": handler.attribute,
                "patterns": sorted(handler.patterns),
                "takes": schemas[f"handles {handler.attribute}"],
            }
            for handler in contract.broadcasts
        ],
        "$defs": shared.get("$defs", {}),
    }


def _may_be_nothing(arguments: Arguments) -> bool:
    return arguments.optional if arguments.whole is not None else not arguments.adapter.json_schema().get("required")


def digest(description: dict[str, Any]) -> str:
    """16 hexadecimal digits that change when the contract does; the version of the service is no part of it."""
    counted = {key: value for key, value in description.items() if key != "version"}
    text = json.dumps(counted, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]


@lru_cache(maxsize=256)
def digest_of(contract: ServiceContract) -> str:
    """The digest of a service's description. Computed once."""
    return digest(describe(contract))


def read_descriptions(data: Any, source: str) -> dict[str, dict[str, Any]]:
    """The descriptions in a JSON document, by service: one, or many under ``services``.

    Raises:
        ConfigurationError: it is neither, or of a newer format.
    """
    many: Iterable[Any] = [data]
    if isinstance(data, dict) and isinstance(data.get("services"), dict):
        many = data["services"].values()
    found = {}
    for each in many:
        if not isinstance(each, dict) or not isinstance(each.get("service"), str) or not isinstance(each.get("methods"), dict):
            raise ConfigurationError("not a contract; `fabric contract show` writes one", source=source)
        if each.get("fabric") != FORMAT:
            raise ConfigurationError(
                f"a contract of format {each.get('fabric')!r}, and this Fabric reads {FORMAT}; write it with this version",
                source=source,
            )
        found[each["service"]] = each
    return found
