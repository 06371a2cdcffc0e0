"""What a type checker makes of the public names. Never run: mypy --strict reads it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Literal, assert_type

from pydantic import BaseModel

from fabric import (
    BreakerPolicy,
    EjectionPolicy,
    Health,
    Hub,
    Policies,
    Priority,
    RetryPolicy,
    RoutePolicy,
    Service,
    ServiceError,
    ServiceMessage,
    ServiceRegistry,
    Settings,
    Stream,
    current_call,
    on_broadcast,
    on_event,
    rpc,
)
from fabric.context import CallContext
from fabric.errors import CallError, RemoteError
from fabric.routing.instance import Instance
from fabric.routing.registry import RegistryEvent


class EmailRequest(BaseModel):
    to: str


class EmailReceipt(BaseModel):
    id: str


@dataclass
class Point:
    x: int


class EmailService(Service):
    name, version = "email-service", "1.2.0"
    capabilities = ("email-sending", "templating")
    dependencies = ("cache-manager",)

    async def start(self) -> None:
        assert_type(self.hub, Hub)
        assert_type(await self.hub.publish("email.ready"), str)

    async def check_health(self) -> Health:
        return Health.ok("fine", queue=3)

    @rpc(idempotent=True, timeout=5.0, concurrency=50, aliases=("sendEmail",))
    async def send_email(self, request: EmailRequest) -> EmailReceipt:
        return EmailReceipt(id=request.to)

    @rpc()
    async def count(self, text: str, limit: int = 5) -> int:
        return limit

    @rpc(name="list")
    async def list_all(self) -> list[EmailReceipt]:
        return []

    @on_event("todo.created", "todo.*.done", group="mail")
    async def welcome(self, event: EmailRequest) -> None:
        raise ServiceError("no", code="email.no", retryable=True, details={"a": 1})

    @on_broadcast("policy.changed")
    async def policy(self, event: dict[str, Any]) -> None: ...

    def helper(self) -> int:
        return 1


async def calls(hub: Hub) -> None:
    """The answer has the type that was asked for."""
    request = EmailRequest(to="a")
    assert_type(await hub.call("email-service", "send_email", request, returns=EmailReceipt), EmailReceipt)
    assert_type(await hub.call("email-service", "list", returns=list[EmailReceipt]), list[EmailReceipt])
    assert_type(await hub.call("email-service", "list", returns=dict[str, int], timeout=2.0), dict[str, int])
    assert_type(await hub.call("email-service", "count", {"text": "a"}, returns=int, priority=Priority.HIGH), int)
    assert_type(await hub.call("email-service", "where", returns=Point, instance="email-1", headers={"a": 1}), Point)
    assert_type(await hub.call("email-service", "send_email", request), Any)
    assert_type(await hub.call("email-service", "send_email", request, idempotent=True, timeout=None), Any)
    assert_type(await hub.call_by_capability("text-analysis", "analyze", {"text": "a"}, returns=Point), Point)
    assert_type(await hub.call_by_capability("text-analysis", "analyze", {"text": "a"}, timeout=1.0), Any)
    assert_type(await hub.call("email-service", "find", {"id": "7"}, returns=EmailReceipt | None), EmailReceipt | None)
    assert_type(await hub.call("email-service", "find", returns=list[Point | str], fallback=[]), list[Point | str])
    assert_type(await hub.call_by_capability("text-analysis", "find", returns=Literal["a", "b"]), Literal["a", "b"])
    assert_type(await hub.publish("todo.created", request, id="7"), str)
    assert_type(hub.broadcast("policy.changed", {"a": 1}), bool)


async def proxies(hub: Hub) -> None:
    """A proxy has the methods of the service with their arguments and results."""
    email = hub.proxy(EmailService, timeout=2.0, priority=Priority.HIGH)
    assert_type(email, EmailService)
    sending: Coroutine[Any, Any, EmailReceipt] = email.send_email(EmailRequest(to="a"))
    assert_type(await sending, EmailReceipt)
    assert_type(await email.send_email(EmailRequest(to="a")), EmailReceipt)
    assert_type(await email.send_email(request=EmailRequest(to="a")), EmailReceipt)
    assert_type(await email.count("a"), int)
    assert_type(await email.count("a", limit=7), int)
    assert_type(await email.list_all(), list[EmailReceipt])


async def decorators_keep_signatures(service: EmailService) -> None:
    """Marking a method changes nothing of its type."""
    send: Callable[[EmailService, EmailRequest], Awaitable[EmailReceipt]] = EmailService.send_email
    welcome: Callable[[EmailService, EmailRequest], Awaitable[None]] = EmailService.welcome
    policy: Callable[[EmailService, dict[str, Any]], Awaitable[None]] = EmailService.policy
    assert_type(await send(service, EmailRequest(to="a")), EmailReceipt)
    await welcome(service, EmailRequest(to="a"))
    await policy(service, {})
    assert_type(await service.send_email(EmailRequest(to="a")), EmailReceipt)


async def connecting() -> None:
    """A hub is what the context gives."""
    async with Hub.connect("checkout", url="amqp://broker", settings=Settings(weight=2)) as hub:
        assert_type(hub, Hub)
        assert_type(hub.name, str)
        assert_type(hub.registry, ServiceRegistry)
        assert_type(await hub.find("email-service"), tuple[Instance, ...])
        assert_type(await hub.ping(), float)


def watching(registry: ServiceRegistry) -> None:
    """Watchers get events, and ending is a call without arguments."""

    def watcher(event: RegistryEvent) -> None:
        assert_type(event.instance, Instance)
        assert_type(event.before, Instance | None)

    assert_type(registry.watch(watcher), Callable[[], None])


def handling(error: CallError) -> None:
    """The facts of an outcome are typed."""
    assert_type(error.executed, bool | None)
    assert_type(error.retryable, bool)
    assert_type(error.elapsed, float)
    assert_type(error.instance, str | None)
    if isinstance(error, RemoteError):
        assert_type(error.code, str | None)
        assert_type(error.details, dict[str, Any])


def in_a_handler(message: ServiceMessage) -> None:
    """What a handler may look at."""
    assert_type(current_call(), CallContext | None)
    assert_type(message.priority, Priority)
    assert_type(message.deadline, float | None)


class Reports(Service):
    name = "reports"

    @rpc()
    async def rows(self, year: int) -> AsyncIterator[Point]:
        yield Point(year)


async def streams(hub: Hub) -> None:
    """A stream gives parts of the type that is asked for; a proxy's are those of the method."""
    assert_type(hub.stream("reports", "rows", returns=Point), Stream[Point])
    async for row in hub.stream("reports", "rows", {"year": 2026}, returns=Point, window=8, timeout=5.0):
        assert_type(row, Point)
    async for part in hub.stream("reports", "parts", returns=Point | int):
        assert_type(part, Point | int)
    async with hub.stream("reports", "rows") as rows:
        assert_type(await anext(rows), Any)
    async for row in hub.proxy(Reports).rows(2026):
        assert_type(row, Point)


async def fallbacks(hub: Hub) -> None:
    """A fallback is of the type of the answer, or makes one from the error."""

    async def made(error: CallError) -> EmailReceipt:
        return EmailReceipt(id=error.method)

    receipt = EmailReceipt(id="none")
    assert_type(await hub.call("email", "send", returns=EmailReceipt, fallback=receipt), EmailReceipt)
    assert_type(await hub.call("email", "send", returns=EmailReceipt, fallback=made), EmailReceipt)
    assert_type(await hub.call("email", "send", fallback=None), Any)


def policies() -> Policies:
    """Policies are values, made from others."""
    return Policies(
        default=RoutePolicy(balancing="p2c", retry=RetryPolicy(attempts=2)),
        services={"email": RoutePolicy(breaker=BreakerPolicy(probes=1), ejection=EjectionPolicy(panic=0.3))},
    )
