"""Services as an AsyncAPI 3.0 document, from the side of the services: what they receive, and how they answer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from fabric.contracts.compatibility import Description
from fabric.transports.topology import Topology
from fabric.wire.codec import JSON
from fabric.wire.message import MessageType

VERSION: Final = "3.0.0"
_BINDING: Final = "0.3.0"
_TEXT: Final = {"type": "string"}


def asyncapi(
    services: Iterable[Description], topology: Topology, *, title: str | None = None, version: str | None = None
) -> dict[str, Any]:
    """The document. Each method, event and broadcast has a channel, an operation and its messages.

    Args:
        title, version: of the document; by default those of its only service.
    """
    described = list(services)
    document = _Document(topology)
    for service in described:
        document.add(service)
    single = described[0] if len(described) == 1 else {}
    return {
        "asyncapi": VERSION,
        "info": {
            "title": title or str(single.get("service", "fleet")),
            "version": version or str(single.get("version", "0")),
            "description": "Messages as in docs/protocol.md of Fabric; a method is sent to one instance, found by discovery.",
        },
        "defaultContentType": JSON,
        "channels": document.channels,
        "operations": document.operations,
        "components": {"messages": document.messages, "schemas": document.schemas},
    }


class _Document:
    """The parts as they grow."""

    def __init__(self, topology: Topology) -> None:
        self._topology = topology
        self.channels: dict[str, Any] = {}
        self.operations: dict[str, Any] = {}
        self.messages: dict[str, Any] = {}
        self.schemas: dict[str, Any] = {}

    def add(self, service: Description) -> None:
        name = service["service"]
        for key, schema in service.get("$defs", {}).items():
            self.schemas[f"{name}.{key}"] = _moved(schema, name)
        for method, facts in service["methods"].items():
            self._method(name, method, facts)
        for handler in service.get("events", ()):
            self._handler(name, "event", handler, self._topology.events, "topic", MessageType.EVENT)
        for handler in service.get("broadcasts", ()):
            self._handler(name, "broadcast", handler, self._topology.broadcast, "fanout", MessageType.BROADCAST)

    def _method(self, service: str, method: str, facts: Mapping[str, Any]) -> None:
        place = f"{service}.{method}"
        request = _envelope(MessageType.REQUEST, ("to", service), method, _moved(facts["takes"], service))
        request["properties"]["reply_to"] = _TEXT
        request["properties"]["deadline"] = {"type": "number", "description": "seconds since 1970"}
        if not facts.get("optional"):
            request["required"] = [*request["required"], "payload"]
        kind = MessageType.STREAM_ITEM if facts.get("streams") else MessageType.RESPONSE
        answer = _envelope(kind, ("from", service), method, _moved(facts["returns"], service))
        answer["properties"]["correlation_id"] = {"type": "string", "description": "the id of the request"}
        answer["properties"]["error"] = {"type": ["object", "null"], "description": "in place of a payload; has kind, message"}
        self._message(f"{place}.request", method, request, correlation="id")
        self._message(f"{place}.response", method, answer, correlation="correlation_id")
        self._channel(f"{place}.request", "{instance}", self._topology.rpc, "direct", [f"{place}.request"])
        self.channels[f"{place}.request"]["parameters"] = {"instance": {"description": f"the id of an instance of {service}"}}
        self._channel(f"{place}.response", None, self._topology.rpc, "direct", [f"{place}.response"])
        self.operations[place] = {
            "action": "receive",
            "channel": {"$ref": f"#/channels/{place}.request"},
            "summary": "may be repeated without harm" if facts.get("idempotent") else "runs at most once",
            "messages": [{"$ref": f"#/channels/{place}.request/messages/{place}.request"}],
            "reply": {
                "address": {"location": "$message.payload#/reply_to"},
                "channel": {"$ref": f"#/channels/{place}.response"},
                "messages": [{"$ref": f"#/channels/{place}.response/messages/{place}.response"}],
            },
        }

    def _handler(
        self, service: str, word: str, handler: Mapping[str, Any], exchange: str, exchange_type: str, kind: MessageType
    ) -> None:
        place = f"{service}.{word}.{handler['handler']}"
        self._message(place, handler["handler"], _envelope(kind, None, None, _moved(handler["takes"], service)), correlation="id")
        for number, pattern in enumerate(handler["patterns"]):
            key = place if len(handler["patterns"]) == 1 else f"{place}.{number + 1}"
            self._channel(key, pattern, exchange, exchange_type, [place])
            self.operations[key] = {
                "action": "receive",
                "channel": {"$ref": f"#/channels/{key}"},
                "messages": [{"$ref": f"#/channels/{key}/messages/{place}"}],
            }

    def _message(self, key: str, name: str, payload: dict[str, Any], *, correlation: str) -> None:
        self.messages[key] = {
            "name": name,
            "contentType": JSON,
            "correlationId": {"location": f"$message.payload#/{correlation}"},
            "payload": payload,
        }

    def _channel(self, key: str, address: str | None, exchange: str, exchange_type: str, messages: list[str]) -> None:
        about = {"name": exchange, "type": exchange_type, "durable": True, "autoDelete": False}
        self.channels[key] = {
            "address": address,
            "messages": {message: {"$ref": f"#/components/messages/{message}"} for message in messages},
            "bindings": {"amqp": {"is": "routingKey", "exchange": about, "bindingVersion": _BINDING}},
        }


def _envelope(kind: MessageType, party: tuple[str, str] | None, method: str | None, payload: Any) -> dict[str, Any]:
    properties: dict[str, Any] = {
        "id": _TEXT,
        "type": {"const": int(kind)},
        "from": _TEXT,
        "instance": _TEXT,
        "to": _TEXT,
        "method": _TEXT if method is None else {"const": method},
        "payload": payload,
        "priority": {"enum": [0, 1, 2, 3], "default": 1},
    }
    if party is not None:
        properties[party[0]] = {"const": party[1]}
    return {"type": "object", "required": ["id", "type", "from", "instance", "to", "method"], "properties": properties}


def _moved(schema: Any, service: str) -> Any:
    """With its references to where the definitions are in the document."""
    if isinstance(schema, list):
        return [_moved(each, service) for each in schema]
    if not isinstance(schema, Mapping):
        return schema
    moved = {key: _moved(value, service) for key, value in schema.items() if key != "discriminator"}
    if isinstance(reference := schema.get("$ref"), str):
        moved["$ref"] = f"#/components/schemas/{service}.{reference.rpartition('/')[2]}"
    return moved
