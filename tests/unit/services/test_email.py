"""E-mails: sent once, rendered by whoever is there, refused with the reason."""

from __future__ import annotations

import asyncio
import email
import email.policy
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email.message import EmailMessage
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from fabric import Hub
from fabric.errors import ConfigurationError, RemoteError
from fabric.routing.retry import RetryPolicy
from fabric.testing import Bench
from services.email.carriers import NotDelivered, Smtp
from services.email.contracts import EmailReceipt, EmailRequest
from services.email.service import EmailService, EmailSettings, TodoCreated
from services.template.service import TemplateService, TemplateSettings
from services.todo.cache import CacheManager


@pytest.fixture
async def mails(bench: Bench, hub: Hub, tmp_path: Path) -> EmailService:
    await bench.start(CacheManager(), instance="cache-1")
    await bench.start(EmailService(EmailSettings(data_dir=tmp_path)), instance="email-1")
    return hub.proxy(EmailService)


def outbox(data: Path) -> list[EmailMessage]:
    messages = []
    for path in sorted((data / "email" / "outbox").glob("*.eml")):
        message = email.message_from_bytes(path.read_bytes(), policy=email.policy.default)
        assert isinstance(message, EmailMessage)
        messages.append(message)
    return messages


async def test_an_email_is_sent_once_per_key(mails: EmailService, tmp_path: Path) -> None:
    """Sent again, also at the same time, there is one e-mail and the receipt of the first time."""
    request = EmailRequest(key="k1", to="ann@example.org", subject="Hello Ann", text="How are you?\n")
    first = await mails.send_email(request)
    again = await asyncio.gather(*(mails.send_email(request) for _ in range(5)))
    assert [receipt.model_copy(update={"repeated": False}) for receipt in again] == [first] * 5
    assert all(receipt.repeated for receipt in again)
    (message,) = outbox(tmp_path)
    assert (message["To"], message["Subject"], message["Message-ID"]) == ("ann@example.org", "Hello Ann", first.id)
    assert message.get_content() == "How are you?\n"
    await mails.send_email(request.model_copy(update={"key": "k2"}))
    assert len(outbox(tmp_path)) == 2


async def test_ten_at_once_send_one(mails: EmailService, tmp_path: Path) -> None:
    """M22: of ten calls with one key, over the bus at the same moment, one sends; all have its receipt in the end."""
    request = EmailRequest(key="k1", to="ann@example.org", subject="Hello", text="x")
    receipts = await asyncio.gather(*(mails.send_email(request) for _ in range(10)))
    assert len({receipt.id for receipt in receipts}) == 1
    assert len(outbox(tmp_path)) == 1


async def test_two_instances_send_one(bench: Bench, hub: Hub, mails: EmailService, tmp_path: Path) -> None:
    """While one instance sends, the claim in the cache keeps the other from it."""
    held = EmailService(EmailSettings(data_dir=tmp_path))
    await bench.start(held, instance="email-2")
    async with held._claim("k1"):
        request = EmailRequest(key="k1", to="ann@example.org", subject="Hello", text="x")
        with pytest.raises(RemoteError) as raised:
            await hub.call("email-service", "send_email", request, instance="email-1", timeout=3.0)
        assert (raised.value.code, raised.value.retryable) == ("email.under-way", True)
    receipt = await hub.call("email-service", "send_email", request, instance="email-1", returns=EmailReceipt)
    assert not receipt.repeated


async def test_it_goes_by_its_old_name_and_by_capability(hub: Hub, mails: EmailService) -> None:
    """sendEmail is the same method, and email-sending finds it."""
    request = {"key": "k1", "to": "ann@example.org", "subject": "Hello", "text": "x"}
    receipt = await hub.call_by_capability("email-sending", "sendEmail", request, returns=EmailReceipt)
    assert (receipt.via, receipt.rendered_by) == ("outbox", "request")


async def test_templates_are_rendered_by_whoever_is_there(bench: Bench, mails: EmailService, tmp_path: Path) -> None:
    """S7 (opentelemetry-demo#3845): without the optional template service the text is plain; once it is there, it renders."""
    request = EmailRequest(
        key="k1", to="ann@example.org", template="todo-created", values={"title": "Buy milk", "due": None, "notes": ""}
    )
    plain = await mails.send_email(request)
    assert (plain.rendered_by, plain.subject) == ("email-service", "Buy milk")
    await bench.start(TemplateService(TemplateSettings(data_dir=tmp_path)))
    rendered = await mails.send_email(request.model_copy(update={"key": "k2"}))
    assert (rendered.rendered_by, rendered.subject) == ("template-service", "New to-do: Buy milk")
    html = [message for message in outbox(tmp_path) if message.is_multipart()]
    assert len(html) == 1
    with pytest.raises(RemoteError) as raised:
        await mails.send_email(request.model_copy(update={"key": "k3", "template": "nobody"}))
    assert raised.value.code == "template.not-found"
    assert len(outbox(tmp_path)) == 2


async def test_without_the_cache_it_still_sends_once(bench: Bench, mails: EmailService, tmp_path: Path) -> None:
    """S7: the receipt on disk is enough for one instance."""
    await bench.stop("cache-1")
    request = EmailRequest(key="k1", to="ann@example.org", subject="Hello", text="x")
    await mails.send_email(request)
    assert (await mails.send_email(request)).repeated
    assert len(outbox(tmp_path)) == 1


async def test_owners_with_an_address_are_told_of_new_todos(bench: Bench, tmp_path: Path) -> None:
    """An event with an owner's address sends one e-mail however often it comes; one without sends none."""
    service = EmailService(EmailSettings(data_dir=tmp_path))
    await bench.start(service)
    owned = TodoCreated.model_validate({"id": "e1", "data": {"title": "Buy milk", "owner_email": "ann@example.org"}})
    for event in (owned, owned, TodoCreated.model_validate({"id": "e2", "data": {"title": "Call mom"}})):
        await service.tell_owner(event)
    (message,) = outbox(tmp_path)
    assert (message["To"], message["Subject"]) == ("ann@example.org", "Buy milk")


@pytest.mark.parametrize(
    "wrong",
    [
        {"to": "nobody"},
        {"to": "a@b.org, c@d.org"},
        {"to": "a@b.org\r\nBcc: c@d.org"},
        {"subject": "x\r\nBcc: c@d.org"},
        {"text": ""},
        {"template": "welcome"},
    ],
)
def test_a_request_that_is_none_is_refused(wrong: dict[str, object]) -> None:
    """No address, several, text hidden in headers, nothing to say or two things: never on its way."""
    with pytest.raises(ValidationError):
        EmailRequest.model_validate({"key": "k", "to": "a@b.org", "subject": "x", "text": "x", **wrong})


@asynccontextmanager
async def mail_server(answers: dict[bytes, bytes]) -> AsyncIterator[tuple[int, list[bytes]]]:
    """A mail server of a few words on a real socket: its port, and the lines that it was told.

    ``answers``: what it says to a command in place of 250.
    """
    said: list[bytes] = []
    writers: set[asyncio.StreamWriter] = set()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.add(writer)
        writer.write(b"220 ready\r\n")
        in_data = False
        while line := await reader.readline():
            said.append(line.rstrip(b"\r\n"))
            if in_data:
                if said[-1] != b".":
                    continue
                in_data = False
            verb = said[-1][:4].upper()
            in_data = verb == b"DATA"
            default = b"354 go on" if in_data else b"221 bye" if verb == b"QUIT" else b"250 ok"
            writer.write(answers.get(verb, default) + b"\r\n")
            if verb == b"QUIT":
                break
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], said
    finally:
        server.close()
        for writer in writers:
            writer.close()
        await asyncio.gather(*(writer.wait_closed() for writer in writers), return_exceptions=True)
        await server.wait_closed()


async def test_a_mail_server_gets_it(bench: Bench, hub: Hub, tmp_path: Path) -> None:
    """With SMTP_URL the e-mail goes to that server, sender and recipient in the envelope."""
    async with mail_server({}) as (port, said):
        settings = EmailSettings(data_dir=tmp_path, smtp_url=SecretStr(f"smtp://127.0.0.1:{port}"))
        await bench.start(EmailService(settings))
        request = EmailRequest(key="k1", to="ann@example.org", subject="Hello", text="How are you?")
        receipt = await hub.proxy(EmailService).send_email(request)
        assert receipt.via == "smtp"
    assert b"rcpt to:<ann@example.org>" in [line.lower() for line in said]
    assert b"How are you?" in said


@pytest.mark.parametrize(
    ("answers", "again"),
    [({b"RCPT": b"550 no such user"}, False), ({b"RCPT": b"450 try later"}, True), ({b"MAIL": b"421 too busy"}, True)],
)
async def test_a_refusal_is_passed_on(bench: Bench, tmp_path: Path, answers: dict[bytes, bytes], again: bool) -> None:
    """The caller is told what the server said and whether it may be tried again; nothing counts as sent, and the key is free."""
    async with mail_server(answers) as (port, _):
        await bench.start(EmailService(EmailSettings(data_dir=tmp_path, smtp_url=SecretStr(f"smtp://127.0.0.1:{port}"))))
        hub = await bench.hub("once", retry=RetryPolicy(attempts=1))
        request = EmailRequest(key="k1", to="ann@example.org", subject="Hello", text="x")
        for _ in range(2):
            with pytest.raises(RemoteError) as raised:
                await hub.proxy(EmailService).send_email(request)
            assert (raised.value.code, raised.value.retryable) == ("email.not-delivered", again)
            assert next(iter(answers.values())).partition(b" ")[2].decode() in str(raised.value)


async def test_a_server_that_is_away_is_seen(tmp_path: Path) -> None:
    """The start fails with the reason, and so does the health, without the password in any text."""
    async with mail_server({}) as (port, _):
        pass
    service = EmailService(EmailSettings(data_dir=tmp_path, smtp_url=SecretStr(f"smtp://ann:s3cret@127.0.0.1:{port}")))
    with pytest.raises(NotDelivered) as raised:
        await service.start()
    health = await service.check_health()
    assert not health.is_ok
    assert "s3cret" not in f"{raised.value} {health}"


async def test_a_password_is_not_sent_in_the_clear(tmp_path: Path) -> None:
    """A server that offers no encryption is not given it."""
    async with mail_server({}) as (port, said):
        smtp = Smtp(f"smtp://ann:s3cret@127.0.0.1:{port}")
        with pytest.raises(NotDelivered, match="no TLS"):
            await asyncio.to_thread(smtp.check)
    assert not any(b"AUTH" in line for line in said)
    assert "s3cret" not in repr(smtp)


def test_a_url_that_is_none_is_refused() -> None:
    """Another scheme, or no host."""
    for url in ("http://mail.example.org", "smtp://"):
        with pytest.raises(ConfigurationError, match="SMTP_URL"):
            Smtp(url)
