"""The way in over HTTP, on a real socket, with the services behind it on a bus in memory."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr, ValidationError

from fabric import Hub, Service, rpc
from fabric.testing import Bench
from services.todo.broker import MessageBroker
from services.todo.cache import CacheManager
from services.todo.contracts import CreateTodo, Todo, TodoPage, TodoQuery
from services.todo.cqrs import CqrsCoordinator
from services.todo.event_store import EventStore
from services.todo.fleet_contracts import GatewayAddress, PolicyChange
from services.todo.gateway import ApiGateway, GatewaySettings
from services.todo.http_server import HttpServer, NoFreePort
from services.todo.mesh import MeshSettings, ServiceMesh
from services.todo.operations import NewTodo
from services.todo.read_model import ReadModelManager
from services.todo.registry import RegistryService


async def _infrastructure(bench: Bench, data: Path) -> None:
    await bench.start(CacheManager(), instance="cache-1")
    await bench.start(RegistryService(), instance="registry-1")
    await bench.start(ServiceMesh(MeshSettings(data_dir=data)), instance="mesh-1")


async def _client(bench: Bench, gateway: ApiGateway, **options: Any) -> httpx.AsyncClient:
    await bench.start(gateway)
    return httpx.AsyncClient(base_url=str(gateway.metadata["url"]), timeout=20.0, **options)


@pytest.fixture
async def client(bench: Bench, store: EventStore, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    await _infrastructure(bench, tmp_path)
    await bench.start(MessageBroker())
    await bench.start(CqrsCoordinator(), instance="cqrs-1")
    await bench.start(ReadModelManager(), instance="reading-1")
    async with await _client(bench, ApiGateway()) as client:
        yield client


async def test_a_todo_from_its_creation_to_its_deletion(client: httpx.AsyncClient) -> None:
    """Created (201, with its place), read, renamed and completed, listed, deleted (204), gone (404)."""
    created = await client.post("/todos", json={"title": "Buy milk", "priority": "high", "due": "2024-02-01"})
    assert created.status_code == 201
    todo = created.json()
    assert (todo["title"], todo["priority"], todo["due"], todo["done"]) == ("Buy milk", "high", "2024-02-01", False)
    place, position = created.headers["location"], created.headers["todo-position"]
    assert (await client.get(place, params={"at_least": position})).json() == todo
    changed = await client.patch(place, json={"title": "Buy oat milk", "done": True, "expected_version": 1})
    assert (changed.json()["title"], changed.json()["done"], changed.json()["version"]) == ("Buy oat milk", True, 3)
    listed = await client.get("/todos", params={"status": "done", "at_least": changed.headers["todo-position"]})
    assert [entry["id"] for entry in listed.json()["todos"]] == [todo["id"]]
    deleted = await client.delete(place)
    assert deleted.status_code == 204
    gone = await client.get(place, params={"at_least": deleted.headers["todo-position"]})
    assert gone.status_code == 404
    assert gone.headers["content-type"] == "application/problem+json"
    assert (gone.json()["code"], gone.json()["service"]) == ("todo.not-found", "cqrs-coordinator")


async def test_a_repeated_request_creates_once(client: httpx.AsyncClient) -> None:
    """With the same Idempotency-Key the same to-do comes back; a key used for two intentions is a conflict."""
    key = {"Idempotency-Key": "order-66"}
    first = await client.post("/todos", json={"title": "Buy milk"}, headers=key)
    again = await client.post("/todos", json={"title": "Buy milk"}, headers=key)
    assert again.json() == first.json()
    other = await client.post("/todos", json={"title": "Call mom"})
    place = other.headers["location"]
    assert (await client.patch(first.headers["location"], json={"done": True}, headers=key)).status_code == 200
    assert (await client.patch(place, json={"done": True}, headers=key)).status_code == 409


async def test_a_version_that_is_no_more_is_a_conflict(client: httpx.AsyncClient) -> None:
    """409, with the version there is."""
    place = (await client.post("/todos", json={"title": "Buy milk"})).headers["location"]
    await client.patch(place, json={"title": "Buy oat milk"})
    late = await client.patch(place, json={"title": "Buy rice milk", "expected_version": 1})
    assert (late.status_code, late.json()["details"]["version"]) == (409, 2)


@pytest.mark.parametrize(
    ("method", "path", "options", "status"),
    [
        ("POST", "/todos", {"json": {"title": ""}}, 422),
        ("POST", "/todos", {"json": {"title": "a", "colour": "red"}}, 422),
        ("POST", "/todos", {"json": {"title": "a", "owner_email": "not an address"}}, 422),
        ("POST", "/todos", {"json": ["a"]}, 400),
        ("POST", "/todos", {"content": b"{", "headers": {"Content-Type": "application/json"}}, 400),
        ("POST", "/todos", {"content": b"title=a", "headers": {"Content-Type": "text/plain"}}, 415),
        ("POST", "/todos", {"json": {"title": "a", "notes": "x" * 70_000}}, 413),
        ("POST", "/todos", {"json": {"title": "a"}, "headers": {"Idempotency-Key": "no spaces"}}, 422),
        ("PATCH", "/todos/1", {"json": {}}, 422),
        ("PATCH", "/todos/1", {"json": {"done": False}}, 422),
        ("PATCH", "/todos/nobody", {"json": {"done": True}}, 404),
        ("GET", "/todos/nobody", {}, 404),
        ("GET", "/todos", {"params": {"limit": "0"}}, 422),
        ("GET", "/todos", {"params": {"status": "lost"}}, 422),
        ("GET", "/todos", {"params": {"after": "nonsense"}}, 422),
        ("GET", "/todos/search", {}, 422),
        ("GET", "/todos", {"headers": {"X-Request-Timeout": "never"}}, 422),
        ("GET", "/nowhere", {}, 404),
        ("PUT", "/todos", {}, 405),
        ("GET", "/todos", {"headers": {"Host": "evil.example"}}, 400),
    ],
)
async def test_what_does_not_fit_is_refused(
    client: httpx.AsyncClient, method: str, path: str, options: dict[str, Any], status: int
) -> None:
    """M31: wrong bodies, values, paths and hosts get their own status, and the gateway goes on."""
    assert (await client.request(method, path, **options)).status_code == status
    assert (await client.get("/health")).status_code == 200


async def test_without_services_for_meaning_it_searches_for_words(client: httpx.AsyncClient) -> None:
    """S7 (opentelemetry-demo#3845): the optional ones are missing; the search goes on by words and says so, asking says 503
    and who is missing."""
    created = await client.post("/todos", json={"title": "Buy milk"})
    await client.get("/todos", params={"at_least": created.headers["todo-position"]})
    found = (await client.get("/todos/search", params={"q": "milk"})).json()
    assert (found["by"], [entry["todo"]["title"] for entry in found["found"]]) == ("words", ["Buy milk"])
    refused = await client.post("/ask", json={"question": "What about milk?"})
    assert (refused.status_code, refused.json()["service"]) == (503, "rag-service")
    assert int(refused.headers["retry-after"]) >= 1


async def test_who_is_missing_is_named(bench: Bench, client: httpx.AsyncClient) -> None:
    """503 with Retry-After; the body has the service that is gone, also when it is two calls away, and what to do."""
    await bench.stop("store-1")
    answer = await client.post("/todos", json={"title": "Buy milk"})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert (answer.json()["service"], answer.json()["asked"]) == ("event-store", "cqrs-coordinator")
    assert "fabric status" in answer.json()["advice"]
    await bench.stop("cqrs-1")
    answer = await client.post("/todos", json={"title": "Buy milk"})
    assert (answer.status_code, answer.json()["service"], answer.json()["code"]) == (503, "cqrs-coordinator", "NoInstance")


async def test_services_and_health_are_shown(client: httpx.AsyncClient) -> None:
    """/services has what the registry knows, /health the gateway's own health with its address."""
    services = (await client.get("/services")).json()["services"]
    assert {"cqrs-coordinator", "event-store"} <= {facts["service"] for facts in services}
    health = (await client.get("/health")).json()
    assert (health["status"], health["details"]["url"]) == ("yes", str(client.base_url).rstrip("/"))


async def test_operations_are_on_the_bus_too(hub: Hub, client: httpx.AsyncClient) -> None:
    """What HTTP offers can be called, and ``where`` says at which address the instance is."""
    todo = await hub.call("api-gateway", "create_todo", {"title": "Buy milk"}, returns=Todo)
    done = await hub.call("api-gateway", "complete_todo", {"id": todo.id}, returns=Todo)
    assert done.done
    page = await hub.call("api-gateway", "list_todos", TodoQuery(at_least=done.position), returns=TodoPage)
    assert page.todos == (done,)
    address = await hub.call("api-gateway", "where", returns=GatewayAddress)
    assert address.url == str(client.base_url).rstrip("/")


class StuckCqrs(Service):
    """Never answers."""

    name = "cqrs-coordinator"

    def __init__(self) -> None:
        self.running = asyncio.Event()
        self.cancelled = asyncio.Event()

    @rpc()
    async def create_todo(self, command: CreateTodo) -> Todo:
        self.running.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.cancelled.set()
        raise AssertionError("never reached")


async def test_a_request_ends_at_its_deadline(bench: Bench, tmp_path: Path) -> None:
    """M19 (moleculer#904): 504 with who did not answer, and the handler there is cancelled."""
    await _infrastructure(bench, tmp_path)
    stuck = StuckCqrs()
    await bench.start(stuck, instance="stuck-1")
    async with await _client(bench, ApiGateway()) as client:
        answer = await client.post("/todos", json={"title": "Buy milk"}, headers={"X-Request-Timeout": "0.3"})
    assert (answer.status_code, answer.json()["instance"]) == (504, "stuck-1")
    async with asyncio.timeout(10):
        await stuck.cancelled.wait()


async def test_policies_of_the_mesh_hold_for_its_calls(bench: Bench, hub: Hub, tmp_path: Path) -> None:
    """A time limit set before the gateway started, or broadcast while it runs, ends its calls to that service."""
    await _infrastructure(bench, tmp_path)
    mesh = hub.proxy(ServiceMesh)
    await mesh.set_policy(PolicyChange(service="cqrs-coordinator", timeout=0.05))
    await bench.start(StuckCqrs())
    gateway = ApiGateway()
    async with await _client(bench, gateway) as client:
        assert (await client.post("/todos", json={"title": "Buy milk"})).status_code == 504
        await gateway.adopt_policy(await mesh.set_policy(PolicyChange(service="cqrs-coordinator", timeout=0.01)))
        answer = await client.post("/todos", json={"title": "Buy milk"})
        assert answer.json()["code"] == "DeadlineExceeded"


async def test_too_many_requests_are_refused_for_all_gateways_together(bench: Bench, store: EventStore, tmp_path: Path) -> None:
    """429 with the time to wait, counted over two gateways; the health stays open; without the cache all are let in."""
    await _infrastructure(bench, tmp_path)
    settings = GatewaySettings(rate=3)
    async with await _client(bench, ApiGateway(settings)) as one, await _client(bench, ApiGateway(settings)) as two:
        answers = [(await client.get("/services")).status_code for client in (one, two, one, two, one)]
        # A minute may turn in between, and then the count begins anew.
        assert answers.count(429) in (0, 1, 2)
        refused = [await client.get("/services") for client in (one, two) * 4]
        assert 429 in {answer.status_code for answer in refused}
        last = next(answer for answer in refused if answer.status_code == 429)
        assert 1 <= int(last.headers["retry-after"]) <= 60
        assert (await one.get("/health")).status_code == 200
        await bench.stop("cache-1")
        assert {(await one.get("/services")).status_code for _ in range(5)} == {200}


async def test_a_token_guards_all_but_the_health(bench: Bench, tmp_path: Path) -> None:
    """401 without it or with another; with it the request is served."""
    await _infrastructure(bench, tmp_path)
    gateway = ApiGateway(GatewaySettings(token=SecretStr("s3cret")))
    async with await _client(bench, gateway) as client:
        assert (await client.get("/services")).status_code == 401
        assert (await client.get("/services", headers={"Authorization": "Bearer other"})).status_code == 401
        assert (await client.get("/services", headers={"Authorization": "Bearer s3cret"})).status_code == 200
        assert (await client.get("/health")).status_code == 200


def test_an_open_address_needs_a_token() -> None:
    """Bound to more than this machine without a token, the settings are refused; secrets are in no repr."""
    with pytest.raises(ValidationError, match="API_GATEWAY_TOKEN"):
        GatewaySettings(host="0.0.0.0")
    assert "s3cret" not in repr(GatewaySettings(host="0.0.0.0", token=SecretStr("s3cret")))
    assert GatewaySettings(host="::1").is_loopback


async def test_instances_find_ports_of_their_own(bench: Bench, tmp_path: Path) -> None:
    """Two with the same first port take the next free ones; any port is found with 0; when all are taken it says so."""
    await _infrastructure(bench, tmp_path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = min(taken.getsockname()[1], 65_500)
        gateways = [ApiGateway(GatewaySettings(port=port)) for _ in range(2)]
        for gateway in gateways:
            await bench.start(gateway)
    urls = {str(gateway.metadata["url"]) for gateway in gateways}
    assert len(urls) == 2
    assert all(port < int(url.rpartition(":")[2]) < port + 10 for url in urls)


async def test_no_free_port_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the range and what to do."""
    monkeypatch.setattr("services.todo.http_server.PORTS_TRIED", 1)
    from starlette.applications import Starlette

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        server = HttpServer(Starlette(), "127.0.0.1", taken.getsockname()[1])
        with pytest.raises(NoFreePort, match="give another or 0"):
            await server.start()


async def test_a_stopped_gateway_takes_no_more_connections(bench: Bench, tmp_path: Path) -> None:
    """After the stop its port is free again, and its health says that it does not run."""
    await _infrastructure(bench, tmp_path)
    gateway = ApiGateway()
    await bench.start(gateway, instance="gateway-1")
    url = str(gateway.metadata["url"])
    await bench.stop("gateway-1")
    async with httpx.AsyncClient() as client:
        with pytest.raises(httpx.ConnectError):
            await client.get(f"{url}/health")
    assert not (await gateway.check_health()).is_ok


def test_each_new_todo_is_an_intention_of_its_own() -> None:
    """Without a command id two requests are two to-dos."""
    assert NewTodo(title="a").command_id != NewTodo(title="a").command_id
