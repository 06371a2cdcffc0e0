"""Which callers a change breaks: known from what running services have called."""

from __future__ import annotations

import json
from typing import Any, ClassVar

import pytest
from pydantic import BaseModel

from fabric import Service, ServiceError, rpc
from fabric.contract import contract_of
from fabric.contracts.callers import Hit, hits, knows_callers
from fabric.contracts.compatibility import breaks
from fabric.contracts.description import METHOD, describe, digest, read_descriptions
from fabric.contracts.usage import merged
from fabric.errors import RemoteError
from fabric.hub import Hub
from fabric.testing import Bench


class Mail(BaseModel):
    to: str
    text: str = ""


class Receipt(BaseModel):
    id: int
    note: str | None = None


class OnlyId(BaseModel):
    id: int


class Stamped(Mail):
    stamp: str


class Text(BaseModel):
    id: str
    note: str | None = None


class Post(Service):
    name = "post"
    capabilities: ClassVar[tuple[str, ...]] = ("mailing",)

    @rpc(aliases=("sendMail",))
    async def send(self, mail: Mail) -> Receipt:
        return Receipt(id=1, note="sent")

    @rpc()
    async def count(self) -> int:
        return 1

    @rpc()
    async def refuse(self) -> None:
        raise ServiceError("no")


class Shop(Service):
    """Calls with types of its own, by name."""

    name = "shop"

    @rpc()
    async def act(self) -> None:
        await self.hub.call("post@^0.1", "send", Mail(to="a"), returns=Receipt)


class Till(Service):
    """Reads less of the answer than there is."""

    name = "till"

    @rpc()
    async def act(self) -> None:
        await self.hub.call("post", "sendMail", Mail(to="a"), returns=OnlyId)


class Script(Service):
    """Calls with plain data, by capability."""

    name = "script"

    @rpc()
    async def act(self) -> None:
        await self.hub.call_by_capability("mailing", "send", {"to": "a"})


class Idle(Service):
    """Tried something that failed, and calls nothing else that matters here."""

    name = "idle"

    @rpc()
    async def act(self) -> None:
        await self.hub.call("post", "count", returns=int)
        with pytest.raises(RemoteError):
            await self.hub.call("post", "refuse")


async def running() -> dict[str, dict[str, Any]]:
    """The descriptions of a fleet in which each has done its calls, through JSON as a file has them."""
    async with Bench() as bench:
        for kind in (Post, Shop, Till, Script, Idle):
            await bench.start(kind())
        hub: Hub = await bench.hub()
        for name in ("shop", "till", "script", "idle"):
            await hub.call(name, "act")
        asked = [await hub.call(name, METHOD) for name in ("post", "shop", "till", "script", "idle")]
    return read_descriptions(json.loads(json.dumps(merged(asked))), "fleet.json")


async def hit_by(new: type[Service]) -> dict[str, list[str]]:
    """For each break, by place and rule, whom it hits."""
    before = await running()
    after = {**before, "post": describe(contract_of(new))}
    return {
        " ".join(filter(None, (each.subject, each.path, each.rule))): [
            f"{hit.caller} {hit.method}" for hit in hits(each, before, after)
        ]
        for each in breaks(before, after)
    }


async def test_a_running_service_says_what_it_calls() -> None:
    """Each successful call is in the contract that a running service hands out, with the schemas of what its code sends and
    reads; what it offers, and so the digest of that, is the same as without."""
    fleet = await running()
    (call,) = fleet["shop"]["calls"]["made"]
    assert (call["service"], call["method"]) == ("post", "send")
    assert fleet["shop"]["calls"]["$defs"] == {} or "Mail" in json.dumps(call)
    assert {"to", "text"} == set(
        call["sends"].get("properties", fleet["shop"]["calls"]["$defs"].get("Mail", {}).get("properties"))
    )
    assert [(call["service"], call["method"]) for call in fleet["script"]["calls"]["made"]] == [("capability:mailing", "send")]
    assert [call["method"] for call in fleet["idle"]["calls"]["made"]] == ["count"]
    assert "calls" not in fleet["post"]
    assert digest({key: value for key, value in fleet["shop"].items() if key != "calls"}) == digest(describe(contract_of(Shop)))
    assert knows_callers(fleet)
    assert not knows_callers({"post": describe(contract_of(Post))})


async def test_a_field_that_is_required_hits_those_that_do_not_send_it() -> None:
    """Every caller of the method under any of its names, and nobody who calls another one."""

    class New(Post):
        @rpc(aliases=("sendMail",))
        async def send(self, mail: Stamped) -> Receipt:  # type: ignore[override]
            raise NotImplementedError

    assert await hit_by(New) == {"send takes.stamp required": ["script send", "shop send", "till sendMail"]}


async def test_a_field_that_is_gone_hits_those_that_read_it() -> None:
    """Whose own type does not have the field is not hit; who reads plain data may be."""

    class New(Post):
        @rpc(aliases=("sendMail",))
        async def send(self, mail: Mail) -> OnlyId:  # type: ignore[override]
            raise NotImplementedError

    hit = await hit_by(New)
    assert hit == {"send returns.note removed": ["script send"]}, "it is optional for the shop, and the till does not read it"


async def test_a_field_of_another_type_says_what_each_side_has() -> None:
    """The finding names the caller, the method, and what its code expects against what it would get."""

    class New(Post):
        @rpc(aliases=("sendMail",))
        async def send(self, mail: Mail) -> Text:  # type: ignore[override]
            raise NotImplementedError

    before = await running()
    after = {**before, "post": describe(contract_of(New))}
    (each,) = breaks(before, after)
    assert (each.subject, each.path) == ("send", "returns.id")
    found = {hit.caller: hit for hit in hits(each, before, after)}
    assert found.keys() == {"shop", "till", "script"}
    assert found["shop"] == Hit(caller="shop", method="send", why="it expects integer, and gets string")
    assert str(found["till"]) == "hits till, which calls sendMail: it expects integer, and gets string"


async def test_what_is_removed_hits_those_that_call_it_so() -> None:
    """A method hits its callers, an alias those that use it, a capability those that call by it, a service all of them."""

    class WithoutAlias(Post):
        capabilities = ()

        @rpc()
        async def send(self, mail: Mail) -> Receipt:
            raise NotImplementedError

    assert await hit_by(WithoutAlias) == {"capability mailing removed": ["script send"], "sendMail removed": ["till sendMail"]}
    before = await running()
    (gone,) = breaks(before, {name: each for name, each in before.items() if name != "post"})
    assert [hit.caller for hit in hits(gone, before, {})] == ["idle", "script", "shop", "till"]


def test_the_calls_of_all_instances_count() -> None:
    """Two instances of a service that have called different things are one service that calls both."""
    one = {"service": "a", "methods": {}, "fabric": 1, "calls": {"made": [{"service": "x", "method": "m"}], "$defs": {}}}
    two = {"service": "a", "methods": {}, "fabric": 1, "calls": {"made": [{"service": "y", "method": "m"}], "$defs": {"T": {}}}}
    found = merged([one, {"service": "a", "methods": {}, "fabric": 1}, two])["services"]["a"]["calls"]
    assert [call["service"] for call in found["made"]] == ["x", "y"]
    assert found["$defs"] == {"T": {}}
