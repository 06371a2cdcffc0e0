"""The way in: HTTP for people and programs outside, the same operations for those on the bus."""

from __future__ import annotations

import contextlib
import ipaddress
import math
import uuid
from typing import Self

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
from starlette.requests import Request

from fabric import Health, Service, on_broadcast, rpc
from fabric.clock import Clock, SystemClock
from fabric.transports.base import LinkState
from services.todo.admission import RateLimit, check_token
from services.todo.contracts import Answer, Identifier, Question, SearchByMeaning, Todo, TodoPage, TodoQuery
from services.todo.fleet_contracts import POLICY_CHANGED, GatewayAddress, PolicySet, TrafficPolicy
from services.todo.http_api import HttpApi
from services.todo.http_server import HttpServer
from services.todo.operations import Deadline, FoundTodos, NewTodo, TodoOperations, TodoPatch
from services.todo.problems import Refused

MAX_TIMEOUT = 60.0


class GatewaySettings(BaseSettings):
    """From the environment, prefix ``API_GATEWAY_``.

    Attributes:
        host: address to bind. Any but a loopback address needs a token.
        port: the first of ten to try; 0 lets the system choose. The one taken is in the announcement and in the health.
        token: asked of every request but ``/health``, as ``Authorization: Bearer``.
        timeout: seconds for a request that does not say ``X-Request-Timeout``.
        rate: requests per minute and client; 0 is no limit.
    """

    model_config = SettingsConfigDict(env_prefix="API_GATEWAY_", env_ignore_empty=True)

    host: str = "127.0.0.1"
    port: int = Field(default=0, ge=0, le=65_526)
    token: SecretStr | None = None
    timeout: float = Field(default=10.0, gt=0, le=MAX_TIMEOUT)
    rate: int = Field(default=6000, ge=0)

    @property
    def is_loopback(self) -> bool:
        with contextlib.suppress(ValueError):
            return ipaddress.ip_address(self.host).is_loopback
        return self.host == "localhost"

    @model_validator(mode="after")
    def _guarded(self) -> Self:
        if not self.is_loopback and not (self.token and self.token.get_secret_value()):
            raise ValueError(f"set API_GATEWAY_TOKEN to bind {self.host}, or bind 127.0.0.1")
        return self


class ApiGateway(Service):
    """Any number of instances, each with a port of its own."""

    name, version = "api-gateway", "1.0.0"
    capabilities = ("http-gateway",)
    dependencies = ("service-mesh", "cache-manager")

    def __init__(self, settings: GatewaySettings | None = None, clock: Clock | None = None) -> None:
        self._settings = settings or GatewaySettings()
        self._clock = clock or SystemClock()
        self._server: HttpServer | None = None

    async def start(self) -> None:
        self._todos = TodoOperations(self.hub)
        self._todos.adopt(await self.hub.call("service-mesh", "policies", returns=PolicySet, timeout=5.0))
        self._rate = RateLimit(self.hub, self._settings.rate, self._clock)
        api = HttpApi(self._todos, self.check_health, self._admit, self._deadline_of)
        hosts = ["127.0.0.1", "localhost", "[::1]"] if self._settings.is_loopback else ["*"]
        self._server = HttpServer(api.application(hosts=hosts), self._settings.host, self._settings.port)
        await self._server.start()
        self.metadata["url"] = self._server.url

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.aclose()

    async def check_health(self) -> Health:
        if self._server is None or not self._server.is_up:
            return Health.bad("the HTTP server does not run; its log has the cause")
        if self.hub.transport.state is not LinkState.READY:
            return Health.bad(f"the link to the broker is {self.hub.transport.state}", url=self._server.url)
        return Health.ok(url=self._server.url, port=self._server.port)

    @on_broadcast(POLICY_CHANGED)
    async def adopt_policy(self, policy: TrafficPolicy) -> None:
        self._todos.adopt_one(policy)

    @rpc(idempotent=True, timeout=2.0)
    async def where(self) -> GatewayAddress:
        """The address of the instance that answers."""
        assert self._server is not None
        return GatewayAddress(url=self._server.url, instance=self.hub.instance)

    @rpc(timeout=10.0)
    async def create_todo(self, new: NewTodo) -> Todo:
        return await self._todos.create(new, self._deadline())

    @rpc(idempotent=True, timeout=10.0)
    async def complete_todo(self, id: Identifier) -> Todo:
        return await self._todos.patch(id, TodoPatch(done=True), uuid.uuid4().hex, self._deadline())

    @rpc(idempotent=True, timeout=10.0)
    async def list_todos(self, query: TodoQuery) -> TodoPage:
        return await self._todos.list(query, self._deadline())

    @rpc(idempotent=True, timeout=10.0)
    async def search_todos(self, query: SearchByMeaning) -> FoundTodos:
        return await self._todos.search(query, self._deadline())

    @rpc(idempotent=True, timeout=10.0)
    async def ask(self, question: Question) -> Answer:
        return await self._todos.ask(question, self._deadline())

    async def _admit(self, request: Request) -> None:
        check_token(self._settings.token, request.headers.get("authorization"))
        await self._rate.admit(request.client.host if request.client else "unknown")

    def _deadline(self, seconds: float | None = None) -> Deadline:
        return Deadline(self._clock, seconds or self._settings.timeout)

    def _deadline_of(self, request: Request) -> Deadline:
        text = request.headers.get("x-request-timeout")
        if text is None:
            return self._deadline()
        try:
            seconds = float(text)
        except ValueError:
            seconds = math.nan
        if not 0 < seconds <= MAX_TIMEOUT:
            raise Refused(422, f"X-Request-Timeout must be seconds, above 0 and at most {MAX_TIMEOUT:.0f}")
        return self._deadline(seconds)
