"""Mistakes that a type checker must find. Never run: mypy --strict reads it, and an ignore without a mistake is an error."""

from __future__ import annotations

from fabric import Hub, on_broadcast, on_event, rpc
from tests.typing.api import EmailReceipt, EmailRequest, EmailService


async def calls(hub: Hub) -> None:
    """Wrong types of arguments, unknown options, and results used as what they are not."""
    await hub.call("email-service", 7)  # type: ignore[call-overload]
    await hub.call("email-service", "send_email", returns=EmailReceipt, timeout="2s")  # type: ignore[call-overload]
    await hub.call("email-service", "send_email", priority="high")  # type: ignore[call-overload]
    await hub.call("email-service", "send_email", retries=3)  # type: ignore[call-overload]
    receipt = await hub.call("email-service", "send_email", returns=EmailReceipt)
    receipt.missing  # type: ignore[attr-defined]  # noqa: B018
    number: int = await hub.call("email-service", "send_email", returns=EmailReceipt)  # type: ignore[arg-type]
    assert number
    perhaps = await hub.call("email-service", "find", returns=EmailReceipt | None)
    perhaps.id  # type: ignore[union-attr]  # noqa: B018
    hub.call("email-service", "send_email")  # type: ignore[unused-coroutine]
    await hub.broadcast("policy.changed")  # type: ignore[misc]


async def proxies(hub: Hub) -> None:
    """The same for a proxy: it has no other methods, arguments or results than the service."""
    email = hub.proxy(EmailService)
    await email.send_email("a")  # type: ignore[arg-type]
    await email.send_email()  # type: ignore[call-arg]
    await email.send_email(EmailRequest(to="a"), EmailRequest(to="b"))  # type: ignore[call-arg]
    await email.count(7)  # type: ignore[arg-type]
    await email.count("a", limits=7)  # type: ignore[call-arg]
    await email.send_mail(EmailRequest(to="a"))  # type: ignore[attr-defined]
    text: str = await email.count("a")  # type: ignore[assignment]
    assert text
    hub.proxy(EmailService())  # type: ignore[arg-type]


class Careless:
    """Options of the decorators are typed, and forgotten parentheses are found."""

    @rpc(timeout="5s")  # type: ignore[arg-type]
    async def one(self) -> None: ...

    @rpc(retries=3)  # type: ignore[call-arg]
    async def two(self) -> None: ...

    @on_event(7)  # type: ignore[arg-type]
    async def three(self, event: EmailRequest) -> None: ...


@rpc  # type: ignore[call-arg,arg-type]
async def four(self: object) -> None: ...


@on_event  # type: ignore[arg-type]
async def five(self: object, event: EmailRequest) -> None: ...


@on_broadcast  # type: ignore[arg-type]
async def six(self: object, event: EmailRequest) -> None: ...
