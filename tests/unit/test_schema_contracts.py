"""Contracts as data: what is described, and which changes break whom."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field

from fabric import Service, on_broadcast, on_event, rpc
from fabric.contract import contract_of
from fabric.contracts.asyncapi import asyncapi
from fabric.contracts.compatibility import Break, breaks
from fabric.contracts.description import describe, digest, digest_of, read_descriptions
from fabric.errors import ConfigurationError
from fabric.testing import Bench
from fabric.transports.base import Delivery
from fabric.transports.topology import Topology, who_service
from fabric.wire import codec
from fabric.wire.message import MessageType, ServiceMessage


class Address(BaseModel):
    street: str
    more: Address | None = None


class Mail(BaseModel):
    to: list[Address]
    text: Annotated[str, Field(max_length=100)] = ""
    kind: Literal["plain", "html"] = "plain"


class Receipt(BaseModel):
    id: int
    note: str | None = None


class Post(Service):
    name, version, capabilities = "post", "1.0.0", ("mailing",)

    @rpc(aliases=("sendMail",), idempotent=True, timeout=2.0)
    async def send(self, mail: Mail) -> Receipt:
        return Receipt(id=len(mail.to))

    @rpc()
    async def find(self, text: str, limit: int = 5) -> list[Receipt]:
        return []

    @rpc()
    async def follow(self, text: str) -> AsyncIterator[Receipt]:
        yield Receipt(id=1)

    @on_event("mail.bounced")
    async def bounced(self, event: Receipt) -> None: ...

    @on_broadcast("rules.changed")
    async def rules(self, event: dict[str, Any]) -> None: ...


def described(service: type[Any]) -> dict[str, Any]:
    return describe(contract_of(service))


def taking(kind: Any, *, default: bool = False) -> dict[str, Any]:
    """The description of a service with a method that takes ``value`` of this kind."""

    class Changed(Service):
        name = "changed"

    async def with_default(self: Any, value: Any = None) -> None: ...

    async def without(self: Any, value: Any) -> None: ...

    function = with_default if default else without
    function.__annotations__["value"] = kind
    function.__annotations__["return"] = None
    function.__qualname__ = "Changed.do"
    Changed.do = rpc(name="do")(function)  # type: ignore[attr-defined]
    return described(Changed)


def returning(kind: Any) -> dict[str, Any]:
    class Changed(Service):
        name = "changed"

    async def give(self: Any) -> Any: ...

    give.__annotations__["return"] = kind
    give.__qualname__ = "Changed.give"
    Changed.give = rpc(name="give")(give)  # type: ignore[attr-defined]
    return described(Changed)


def compared(old: dict[str, Any], new: dict[str, Any]) -> list[Break]:
    return breaks({old["service"]: old}, {new["service"]: new})


def found(old: dict[str, Any], new: dict[str, Any]) -> set[tuple[str, str, str]]:
    return {(each.subject, each.path, each.rule) for each in compared(old, new)}


def test_a_description_is_plain_and_whole() -> None:
    """It has each method once, its aliases, what it takes and returns, and the handlers; it survives JSON."""
    data = described(Post)
    assert json.loads(json.dumps(data)) == data
    assert set(data["methods"]) == {"send", "find", "follow"}
    assert data["methods"]["send"]["aliases"] == ["sendMail"]
    assert data["methods"]["follow"]["streams"] is True
    assert data["events"][0]["patterns"] == ["mail.bounced"]
    assert data["broadcasts"][0]["handler"] == "rules"
    assert read_descriptions(data, "x") == {"post": data}
    assert read_descriptions({"fabric": 1, "services": {"post": data}}, "x") == {"post": data}


def test_the_digest_is_of_the_contract() -> None:
    """It stays over a new version of the service and changes with a field."""
    data = described(Post)
    assert digest_of(contract_of(Post)) == digest(data) == digest(data | {"version": "9.9.9"})
    assert digest(data | {"capabilities": []}) != digest(data)


@pytest.mark.parametrize("data", [[], {}, {"service": "x"}, {"fabric": 99, "service": "x", "methods": {}}])
def test_what_is_no_description_is_refused(data: Any) -> None:
    """Something else, or of a newer format: refused with where it stands."""
    with pytest.raises(ConfigurationError, match=r"old\.json"):
        read_descriptions(data, "old.json")


def test_nothing_changed_breaks_nothing() -> None:
    """A contract, with models that hold themselves, fits itself."""
    assert compared(described(Post), described(Post)) == []


class Old(BaseModel):
    a: int
    b: str | None = None


class Added(Old):
    c: int = 0


class Needs(Old):
    c: int


class Renamed(BaseModel):
    a: int
    bb: str | None = None


class Closed(Old):
    model_config = ConfigDict(extra="forbid")


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (Old, Added, set()),
        (Old, Needs, {("do", "takes.c", "required")}),
        (Old, Renamed, {("do", "takes.b", "removed")}),
        (Old, Closed, {("do", "takes.*", "narrowed")}),
        (list[Old], list[Needs], {("do", "takes.value[].c", "required")}),
        (int, float, set()),
        (float, int, {("do", "takes.value", "narrowed")}),
        (int, int | None, set()),
        (int | None, int, {("do", "takes.value", "narrowed")}),
        (int, Any, set()),
        (Any, int, {("do", "takes.value", "narrowed")}),
        (Literal["a"], Literal["a", "b"], set()),
        (Literal["a", "b"], Literal["a"], {("do", "takes.value", "narrowed")}),
        (Literal["a"], str, set()),
        (str, Annotated[str, Field(max_length=5)], {("do", "takes.value", "narrowed")}),
        (Annotated[int, Field(ge=5)], Annotated[int, Field(ge=0)], set()),
        (Annotated[int, Field(ge=0)], Annotated[int, Field(ge=5)], {("do", "takes.value", "narrowed")}),
        (tuple[int, str], tuple[int, int], {("do", "takes.value[1]", "narrowed")}),
        (dict[str, int], dict[str, str], {("do", "takes.value.*", "narrowed")}),
    ],
)
def test_what_callers_send_must_be_taken(old: Any, new: Any, expected: set[tuple[str, str, str]]) -> None:
    """Added optional fields and wider types are fine; removed, renamed, required and narrowed ones are not."""
    assert found(taking(old), taking(new)) == expected


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (Old, Added, set()),
        (Added, Old, {("give", "returns.c", "removed")}),
        (Closed, Needs, {("give", "returns.c", "changed")}),
        (int, int | None, {("give", "returns", "changed")}),
        (int | None, int, set()),
        (Literal["a"], Literal["a", "b"], {("give", "returns", "changed")}),
        (list[int], list[str], {("give", "returns[]", "changed")}),
    ],
)
def test_what_is_returned_must_be_readable(old: Any, new: Any, expected: set[tuple[str, str, str]]) -> None:
    """An answer may have more fields and fewer values, never fewer fields or more values."""
    assert found(returning(old), returning(new)) == expected


def test_a_rename_is_suggested() -> None:
    """The advice of a field that is gone names the one that may have taken its place."""
    (finding,) = compared(taking(Old), taking(Renamed))
    assert "'bb'" in finding.advice
    assert "AliasChoices" in str(finding)


def test_arguments_and_optional_payloads() -> None:
    """A default that is gone breaks callers that leave the argument out."""
    assert found(taking(int), taking(int, default=True)) == set()
    assert ("do", "takes.value", "required") in found(taking(int, default=True), taking(int))


def test_whole_names() -> None:
    """Services, capabilities, methods and aliases that are gone are named; those that were added are not."""
    old = described(Post)
    new = json.loads(json.dumps(old)) | {"capabilities": ["other"]}
    new["methods"]["send"]["aliases"] = []
    del new["methods"]["find"]
    new["methods"]["fresh"] = new["methods"]["follow"]
    new["methods"]["follow"] = new["methods"]["follow"] | {"streams": False, "callers": ["web"]}
    assert found(old, new) == {
        ("capability mailing", "", "removed"),
        ("sendMail", "", "removed"),
        ("find", "", "removed"),
        ("follow", "returns", "changed"),
        ("follow", "callers", "narrowed"),
    }
    assert [each.rule for each in breaks({"post": old}, {})] == ["removed"]


def test_events_are_compared_by_topic() -> None:
    """A handler that is gone or takes less is found; one whose pattern is wider takes its place."""
    old = described(Post)
    wider, gone, less = (json.loads(json.dumps(old)) for _ in range(3))
    wider["events"][0]["patterns"] = ["mail.*"]
    gone["events"] = []
    less["events"][0]["takes"] = {"type": "object", "properties": {"id": {"type": "string"}}, "required": ["id"]}
    assert found(old, wider) == set()
    assert found(old, gone) == {("event mail.bounced", "", "removed")}
    assert found(old, less) == {
        ("event mail.bounced", "takes.id", "narrowed"),
        ("event mail.bounced", "takes.note", "removed"),
    }


def test_asyncapi_refers_only_to_what_it_has() -> None:
    """Every reference of the document leads somewhere, and each method and handler has an operation."""
    document = asyncapi([described(Post)], Topology("shop"))
    assert document["asyncapi"] == "3.0.0"
    assert set(document["operations"]) == {
        "post.send",
        "post.find",
        "post.follow",
        "post.event.bounced",
        "post.broadcast.rules",
    }
    assert document["channels"]["post.event.bounced"]["bindings"]["amqp"]["exchange"]["name"] == "shop.events"
    references = [part.split('"')[0] for part in json.dumps(document).split('"$ref": "#/')[1:]]
    assert references
    for reference in references:
        at: Any = document
        for key in reference.split("/"):
            at = at[key]


async def test_a_running_service_tells_its_contract() -> None:
    """The announcement has the digest, and the built-in method the description, also for what is refused otherwise."""
    async with Bench() as bench:
        await bench.start(Post())
        hub = await bench.hub("test")
        (instance,) = await hub.find("post")
        assert instance.metadata["contract"] == digest_of(contract_of(Post))
        assert await hub.call("post", "fabric.contract") == described(Post)


async def test_json_is_answered_in_json_and_alone() -> None:
    """Requests in JSON that are answered in the same turn get a body of JSON each, and so does the question who is there."""
    async with Bench() as bench:
        await bench.start(Post())
        hub = await bench.hub("test")
        (instance,) = await hub.find("post")
        came: asyncio.Queue[Delivery] = asyncio.Queue()
        await hub.transport.consume(hub.topology.replies("reply.raw"), came.put_nowait, timeout=5)
        for number in (1, 2):
            message = ServiceMessage(f"r{number}", MessageType.REQUEST, "js", "js-1", "post", "find", {"text": "x"})
            body = codec.encode_json(message._replace(reply_to="reply.raw"))
            assert hub.transport.post(hub.topology.rpc, instance.id, body, content_type=codec.JSON)
        question = ServiceMessage("q", MessageType.BROADCAST, "js", "js-1", "", "fabric.who", reply_to="reply.raw")
        key = who_service("post")
        assert hub.transport.post(hub.topology.discovery, key, codec.encode_json(question), content_type=codec.JSON)
        async with asyncio.timeout(10):
            deliveries = [await came.get() for _ in range(3)]
        assert {delivery.content_type for delivery in deliveries} == {codec.JSON}
        answers = [json.loads(delivery.body) for delivery in deliveries]
        assert {answer.get("correlation_id") for answer in answers} == {"r1", "r2", None}
        assert [answer["payload"]["service"] for answer in answers if answer["method"] == "fabric.up"] == ["post"]
