"""The to-do application as a whole: its fifteen services, each with a hub of its own, on a broker in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest

import services.todo
from fabric import DEFAULT_STARTUP_STAGES, SERVICE_DEPENDENCIES, Hub, Service, on_event
from fabric.coordination.fleet import load_fleet
from fabric.coordination.host import load_service
from fabric.testing import Bench
from services.todo.contracts import Embeddings, Matches, RecordedEvent, SearchByMeaning, TextInsight, Todo, TodoPage, TodoQuery
from services.todo.fleet_contracts import DeadEvent, GatewayAddress, PolicyChange, RegistrySnapshot, TrafficPolicy
from tests.unit.services.test_embedding import PARAPHRASES, TODOS

FILE = Path(services.todo.__file__).parent / "fleet.yaml"

T = TypeVar("T")


class Visitor(Service):
    """Hears the events of the application as a further service would."""

    name = "visitor"

    def __init__(self) -> None:
        self.events: asyncio.Queue[RecordedEvent] = asyncio.Queue()

    @on_event("todo.*", concurrency=1)
    async def hear(self, event: RecordedEvent) -> None:
        self.events.put_nowait(event)


class Fleet:
    """The running fleet, a client on its bus and one at its gateway."""

    def __init__(self, bench: Bench, hub: Hub, http: httpx.AsyncClient) -> None:
        self.bench, self.hub, self.http = bench, hub, http

    async def create(self, title: str, **fields: Any) -> Todo:
        answer = await self.http.post("/todos", json={"title": title, **fields})
        assert answer.status_code == 201, answer.text
        return Todo.model_validate(answer.json())

    async def found(self, query: str, at_least: int) -> list[str]:
        """Titles, the closest in meaning first."""
        answer = (await self.http.get("/todos/search", params={"q": query, "at_least": at_least})).json()
        assert answer["by"] == "meaning"
        return [entry["todo"]["title"] for entry in answer["found"]]


async def eventually(look: Callable[[], Awaitable[T]]) -> T:
    """What ``look`` sees, once it is something. Only for what happens by itself and tells nobody."""
    async with asyncio.timeout(20):
        while True:
            seen = await look()
            if seen:
                return seen
            await asyncio.sleep(0.01)


async def start(bench: Bench, name: str) -> None:
    target = load_fleet(FILE).runs[name].target
    assert target is not None
    await bench.start(load_service(target)(), instance=f"{name}-1")


@pytest.fixture
async def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Fleet]:
    """All fifteen, started stage by stage as the fleet file says."""
    monkeypatch.setenv("FABRIC_DATA_DIR", str(tmp_path))
    async with Bench() as bench:
        for stage in DEFAULT_STARTUP_STAGES:
            for name in stage.services:
                await start(bench, name)
        hub = await bench.hub("test")
        address = await hub.call("api-gateway", "where", returns=GatewayAddress)
        async with httpx.AsyncClient(base_url=address.url, timeout=20.0) as http:
            yield Fleet(bench, hub, http)


async def test_a_todo_travels_the_whole_way(fleet: Fleet) -> None:
    """From the gateway over the command and the event store to an event that any service hears, and into list and search."""
    visitor = Visitor()
    await fleet.bench.start(visitor)
    todo = await fleet.create("Buy milk", notes="two litres", due="2030-05-01")
    event = await visitor.events.get()
    assert (event.type, event.data["title"], event.position) == ("todo.created", "Buy milk", todo.position)
    page = (await fleet.http.get("/todos", params={"status": "open", "at_least": todo.position})).json()
    assert [entry["id"] for entry in page["todos"]] == [todo.id]
    assert await fleet.found("get dairy at the supermarket", todo.position) == ["Buy milk"]
    done = (await fleet.http.patch(f"/todos/{todo.id}", json={"done": True})).json()
    event = await visitor.events.get()
    assert (event.type, event.stream, event.version) == ("todo.completed", f"todo-{todo.id}", 2)
    page = (await fleet.http.get("/todos", params={"status": "done", "at_least": done["position"]})).json()
    assert [entry["title"] for entry in page["todos"]] == ["Buy milk"]
    words = await fleet.hub.call("cqrs-coordinator", "search_todos", TodoQuery(text="LITRES"), returns=TodoPage)
    assert [entry.id for entry in words.todos] == [todo.id]
    answer = (await fleet.http.post("/ask", json={"question": "Did I buy milk already?"})).json()
    assert "“Buy milk” (done)" in answer["answer"]


async def test_todos_are_found_by_what_they_mean(fleet: Fleet) -> None:
    """Fourteen to-dos, and each paraphrase finds the one that is meant, through the gateway."""
    last = 0
    for title in TODOS:
        last = max(last, (await fleet.create(title)).position)
    missed = {query: meant for query, meant in PARAPHRASES if (await fleet.found(query, last))[:1] != [meant]}
    assert missed == {}


async def test_abilities_are_reached_by_capability(fleet: Fleet) -> None:
    """A caller that knows no service name gets a text analysed, embedded, and to-dos searched."""
    insight = await fleet.hub.call_by_capability(
        "text-analysis", "analyze", {"text": "Urgent: call mom tomorrow", "today": "2030-05-01"}, returns=TextInsight
    )
    assert (str(insight.due), insight.priority, insight.language) == ("2030-05-02", "high", "und")
    embeddings = await fleet.hub.call_by_capability("embedding", "embed", {"texts": ["milk"]}, returns=Embeddings)
    assert len(embeddings.vectors[0]) == embeddings.dimensions
    todo = await fleet.create("Fix the bike")
    query = SearchByMeaning(query="repair bicycle", at_least=todo.position)
    matches = await fleet.hub.call_by_capability("semantic-search", "search", query, returns=Matches)
    assert [match.id for match in matches.matches] == [todo.id]


async def test_an_owner_is_told(fleet: Fleet, tmp_path: Path) -> None:
    """A to-do with an address sends one e-mail there, made by the template service; one without sends none."""
    await fleet.create("Call mom")
    await fleet.create("Buy milk", owner_email="ann@example.org")
    outbox = tmp_path / "email" / "outbox"

    async def sent() -> list[str]:
        return [path.read_text(encoding="utf-8") for path in outbox.glob("*.eml")]

    (message,) = await eventually(sent)
    assert "To: ann@example.org" in message
    assert "Subject: New to-do: Buy milk" in message


async def test_a_policy_reaches_the_gateway(fleet: Fleet) -> None:
    """Set at the mesh, it is broadcast, and the gateway's calls are held to it: a limit that nobody can keep ends them."""
    change = PolicyChange(service="service-registry", timeout=0.000001)
    await fleet.hub.call("service-mesh", "set_policy", change, returns=TrafficPolicy)

    async def refused() -> bool:
        return (await fleet.http.get("/services")).status_code in (503, 504)

    assert await eventually(refused)
    await fleet.hub.call("service-mesh", "set_policy", change.model_copy(update={"timeout": 5.0}), returns=TrafficPolicy)

    async def served() -> bool:
        return (await fleet.http.get("/services")).status_code == 200

    assert await eventually(served)


async def test_the_registry_knows_them_all(fleet: Fleet) -> None:
    """All fifteen, running and healthy, with the gateway's address in its announcement."""

    async def complete() -> RegistrySnapshot | None:
        snapshot = await fleet.hub.call("service-registry", "snapshot", returns=RegistrySnapshot)
        healthy = {facts.service for facts in snapshot.services if facts.healthy == 1}
        return snapshot if healthy >= SERVICE_DEPENDENCIES.keys() else None

    snapshot = await eventually(complete)
    assert snapshot is not None
    (gateway,) = [facts for facts in snapshot.instances if facts.service == "api-gateway"]
    assert gateway.metadata["url"] == str(fleet.http.base_url).rstrip("/")


async def test_without_the_optional_services_the_rest_goes_on(fleet: Fleet) -> None:
    """S7 (opentelemetry-demo#3845): all six optional ones stop; to-dos are created, listed and found, by words."""
    for name in DEFAULT_STARTUP_STAGES[-1].services:
        await fleet.bench.stop(f"{name}-1")
    todo = await fleet.create("Buy milk", owner_email="ann@example.org")
    answer = (await fleet.http.get("/todos/search", params={"q": "milk", "at_least": todo.position})).json()
    assert (answer["by"], [entry["todo"]["id"] for entry in answer["found"]]) == ("words", [todo.id])


async def test_a_reader_that_was_away_misses_nothing(fleet: Fleet) -> None:
    """S1 (systemd#18856): commands go on while the read model is down and lists say who is missing; back, it has them all."""
    await fleet.create("before")
    await fleet.bench.stop("read-model-manager-1")
    await fleet.create("meanwhile")
    refused = await fleet.http.get("/todos")
    assert (refused.status_code, refused.json()["service"]) == (503, "read-model-manager")
    await start(fleet.bench, "read-model-manager")
    last = await fleet.create("after")
    page = (await fleet.http.get("/todos", params={"at_least": last.position})).json()
    assert [entry["title"] for entry in page["todos"]] == ["before", "meanwhile", "after"]


async def test_a_foreign_event_harms_nobody(fleet: Fleet) -> None:
    """M26, M31: something else under the topic of ours is given up by those who can't read it, kept with the reason until it
    is discarded, and to-dos go on."""
    await fleet.hub.publish("todo.created", {"nonsense": True})
    for service in ("read-model-manager", "rag-service", "email-service"):

        async def given_up(service: str = service) -> list[DeadEvent]:
            return await fleet.hub.call("message-broker", "dead_letters", {"service": service}, returns=list[DeadEvent])

        (letter,) = await eventually(given_up)
        assert letter.payload == {"nonsense": True}
        assert "does not fit" in letter.reason
        assert await fleet.hub.call("message-broker", "discard", {"service": service, "id": letter.id})
    todo = await fleet.create("Buy milk")
    assert await fleet.found("purchase milk", todo.position) == ["Buy milk"]
