"""The e-mail service: renders, sends once, keeps a receipt."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import hashlib
from collections.abc import AsyncIterator, Mapping
from email.message import EmailMessage
from email.utils import format_datetime
from pathlib import Path

from pydantic import AliasChoices, BaseModel, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from fabric import Health, Service, ServiceError, on_event, rpc
from fabric.clock import Clock, SystemClock
from fabric.errors import CallError, FabricError, RemoteError
from services.email.carriers import Carrier, NotDelivered, Outbox, Smtp
from services.email.contracts import Address, EmailReceipt, EmailRequest
from services.email.receipts import Receipts
from services.template.contracts import Rendered, RenderRequest

CLAIMS = "email-claims"
CLAIM_SECONDS = 60.0
CHECK_SECONDS = 30.0


class EmailSettings(BaseSettings):
    """From the environment.

    Attributes:
        data_dir: ``FABRIC_DATA_DIR``; receipts and the outbox are in ``email`` below it.
        smtp_url: ``SMTP_URL``: ``smtp://[user:password@]host[:port]`` or ``smtps://``. Without it e-mails become files.
        sender: ``EMAIL_FROM``.
        keep_days: ``EMAIL_KEEP_DAYS``: for how long a key stays used.
    """

    model_config = SettingsConfigDict(env_ignore_empty=True)

    data_dir: Path = Field(default=Path(".fabric/todo/data"), validation_alias=AliasChoices("FABRIC_DATA_DIR", "data_dir"))
    smtp_url: SecretStr | None = Field(default=None, validation_alias=AliasChoices("SMTP_URL", "smtp_url"))
    sender: Address = Field(default="todo@localhost", validation_alias=AliasChoices("EMAIL_FROM", "sender"))
    keep_days: float = Field(default=30.0, gt=0, le=3650, validation_alias=AliasChoices("EMAIL_KEEP_DAYS", "keep_days"))


class _TodoData(BaseModel):
    title: str
    notes: str = ""
    due: str | None = None
    owner_email: str | None = None


class TodoCreated(BaseModel):
    """Of the event ``todo.created`` what is needed here."""

    id: str
    data: _TodoData


class EmailService(Service):
    """Sends an e-mail once per key.

    A receipt on disk says that a key is used. While one is being sent, a claim in the cache keeps other instances from
    sending it too; without the cache only this instance is kept from it, so two instances could then send one e-mail twice.
    A crash between sending and the receipt lets the repetition send again: at least once, as mail always is.
    """

    name, version = "email-service", "1.2.0"
    capabilities = ("email-sending", "templating")
    dependencies = ("cache-manager",)
    optional_dependencies = ("template-service",)

    def __init__(self, settings: EmailSettings | None = None, clock: Clock | None = None) -> None:
        settings = settings or EmailSettings()
        directory = settings.data_dir / "email"
        self._clock, self._sender = clock or SystemClock(), settings.sender
        self._receipts = Receipts(directory / "receipts", settings.keep_days * 86_400)
        self._carrier: Carrier = Smtp(settings.smtp_url.get_secret_value()) if settings.smtp_url else Outbox(directory / "outbox")
        self._under_way: dict[str, asyncio.Event] = {}
        self._trouble = ""
        self._check_at = 0.0

    async def start(self) -> None:
        await asyncio.to_thread(self._receipts.prune)
        await asyncio.to_thread(self._carrier.check)
        self._noted("")

    async def check_health(self) -> Health:
        """From the last attempt to send or to reach the carrier; a mail server is asked only now and then."""
        if self._clock.monotonic() >= self._check_at:
            try:
                await asyncio.to_thread(self._carrier.check)
                self._noted("")
            except NotDelivered as error:
                self._noted(str(error))
        if self._trouble:
            return Health.bad(f"e-mails can't be handed over: {self._trouble}")
        return Health.ok(via=self._carrier.name)

    @rpc(idempotent=True, timeout=15.0, concurrency=50, aliases=("sendEmail",))
    async def send_email(self, request: EmailRequest) -> EmailReceipt:
        """Hand an e-mail over, or say how it went when its key was used before.

        Raises:
            ServiceError: ``email.under-way``, ``email.not-delivered``, or what the template service refuses.
        """
        while (other := self._under_way.get(request.key)) is not None:
            await other.wait()
        done = self._under_way[request.key] = asyncio.Event()
        try:
            return await self._send_once(request)
        finally:
            del self._under_way[request.key]
            done.set()

    @rpc(idempotent=True, timeout=10.0)
    async def render(self, request: RenderRequest) -> Rendered:
        """A template with values in it: by the template service, or as a plain list of the values while it is not there.

        Raises:
            ServiceError: what the template service refuses.
        """
        try:
            return await self.hub.call("template-service", "render", request, returns=Rendered, timeout=5.0)
        except RemoteError as error:
            raise ServiceError(error.remote_reason, code=error.code, details=error.details) from error
        except CallError:
            return _plain(request)

    @on_event("todo.created")
    async def tell_owner(self, event: TodoCreated) -> None:
        """Only owners who left an address are told, once per event."""
        if event.data.owner_email is None:
            return
        values = event.data.model_dump(exclude={"owner_email"})
        await self.send_email(
            EmailRequest(key=f"event/{event.id}", to=event.data.owner_email, template="todo-created", values=values)
        )

    def _noted(self, trouble: str) -> None:
        self._trouble, self._check_at = trouble, self._clock.monotonic() + CHECK_SECONDS

    async def _send_once(self, request: EmailRequest) -> EmailReceipt:
        if (earlier := await self._earlier(request.key)) is not None:
            return earlier
        async with self._claim(request.key):
            # Another instance may have finished between the look and the claim.
            if (earlier := await self._earlier(request.key)) is not None:
                return earlier
            rendered = await self._rendered(request)
            receipt = await self._send(request, rendered)
            await asyncio.to_thread(self._receipts.store, receipt)
            return receipt

    async def _earlier(self, key: str) -> EmailReceipt | None:
        receipt = await asyncio.to_thread(self._receipts.find, key)
        return receipt.model_copy(update={"repeated": True}) if receipt is not None else None

    async def _rendered(self, request: EmailRequest) -> Rendered:
        if request.template is None:
            return Rendered(subject=request.subject, text=request.text, by="request")
        rendered = await self.render(RenderRequest(name=request.template, values=request.values))
        return rendered.model_copy(update={"subject": request.subject}) if request.subject else rendered

    async def _send(self, request: EmailRequest, rendered: Rendered) -> EmailReceipt:
        now = datetime.datetime.fromtimestamp(self._clock.time(), datetime.UTC)
        # From the key, so that a mail server that sees it twice can tell.
        digest = hashlib.sha256(request.key.encode()).hexdigest()[:32]
        id = f"<{digest}@{self._sender.partition('@')[2]}>"
        message = EmailMessage()
        message["From"], message["To"], message["Subject"] = self._sender, request.to, rendered.subject
        message["Date"], message["Message-ID"] = format_datetime(now), id
        message.set_content(rendered.text)
        if rendered.html is not None:
            message.add_alternative(rendered.html, subtype="html")
        try:
            await asyncio.to_thread(self._carrier.send, message)
        except NotDelivered as error:
            if error.again:
                self._noted(str(error))
            raise ServiceError(
                f"the e-mail to {request.to} was not delivered: {error}", code="email.not-delivered", retryable=error.again
            ) from error
        self._noted("")
        return EmailReceipt(
            key=request.key,
            id=id,
            to=request.to,
            subject=rendered.subject,
            via=self._carrier.name,
            rendered_by=rendered.by,
            at=now,
        )

    @contextlib.asynccontextmanager
    async def _claim(self, key: str) -> AsyncIterator[None]:
        """Keep other instances from sending it at the same time; the claim of a process that died ends by itself."""
        claim = {"namespace": CLAIMS, "key": hashlib.sha256(key.encode()).hexdigest()}
        claimed = await self._cached("set", {**claim, "value": self.hub.instance, "ttl": CLAIM_SECONDS, "only_new": True})
        if claimed is False:
            raise ServiceError(
                f"e-mail {key!r} is being sent by another instance; ask again for its receipt",
                code="email.under-way",
                retryable=True,
            )
        try:
            yield
        finally:
            if claimed:
                await self._cached("delete", claim)

    async def _cached(self, method: str, payload: Mapping[str, object]) -> bool | None:
        """The cache's answer; None when there is none."""
        try:
            return await self.hub.call("cache-manager", method, payload, returns=bool, timeout=1.0)
        except FabricError:
            return None


def _plain(request: RenderRequest) -> Rendered:
    lines = [f"{name}: {value}" for name, value in request.values.items() if value not in (None, "")]
    subject = str(request.values.get("title") or request.name.replace("-", " ").capitalize())
    return Rendered(subject=" ".join(subject.split()), text="\n".join(lines) + "\n", by=EmailService.name)
