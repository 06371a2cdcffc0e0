"""The ways out: a mail server, or a directory to look into."""

from __future__ import annotations

import contextlib
import smtplib
import ssl
from collections.abc import Iterator
from email.message import EmailMessage
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from fabric.errors import ConfigurationError


class NotDelivered(Exception):
    """It was not taken. ``again``: whether it may be later."""

    def __init__(self, reason: str, *, again: bool) -> None:
        super().__init__(reason)
        self.again = again


class Carrier(Protocol):
    """Both methods block; call them in a thread."""

    @property
    def name(self) -> str: ...

    def check(self) -> None:
        """Raises NotDelivered: it could not take an e-mail now."""
        ...

    def send(self, message: EmailMessage) -> None:
        """Returns when it is handed over.

        Raises:
            NotDelivered: it was not.
        """
        ...


class Outbox:
    """One ``.eml`` file each, named by its Message-ID. Delivers nothing to anybody; for development and tests."""

    name = "outbox"

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def check(self) -> None:
        with _refused():
            self._directory.mkdir(parents=True, exist_ok=True)

    def send(self, message: EmailMessage) -> None:
        self.check()
        name = str(message["Message-ID"]).strip("<>").partition("@")[0]
        with _refused():
            new = self._directory / f"{name}.new"
            new.write_bytes(bytes(message))
            new.replace(self._directory / f"{name}.eml")


class Smtp:
    """A mail server, ``smtp://`` (with STARTTLS where it is offered) or ``smtps://``; user and password in the URL.

    Args:
        timeout: seconds for each step of the conversation.
    """

    name = "smtp"

    def __init__(self, url: str, *, timeout: float = 10.0) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("smtp", "smtps") or not parts.hostname:
            raise ConfigurationError("SMTP_URL must be smtp://[user:password@]host[:port] or smtps://…")
        self._tls = parts.scheme == "smtps"
        self._host = parts.hostname
        self._port = parts.port or (465 if self._tls else 25)
        self._user = unquote(parts.username) if parts.username else None
        self._password = unquote(parts.password or "")
        self._timeout = timeout

    def __repr__(self) -> str:
        return f"Smtp({self._host}:{self._port})"

    def check(self) -> None:
        with _refused(), self._session() as session:
            session.noop()

    def send(self, message: EmailMessage) -> None:
        with _refused(), self._session() as session:
            session.send_message(message)

    @contextlib.contextmanager
    def _session(self) -> Iterator[smtplib.SMTP]:
        context = ssl.create_default_context()
        session = (
            smtplib.SMTP_SSL(self._host, self._port, timeout=self._timeout, context=context)
            if self._tls
            else smtplib.SMTP(self._host, self._port, timeout=self._timeout)
        )
        with session:
            session.ehlo()
            if not self._tls and session.has_extn("starttls"):
                session.starttls(context=context)
                session.ehlo()
            elif self._user is not None and not self._tls:
                raise NotDelivered(f"{self._host} offers no TLS, so the password was not sent; use smtps://", again=False)
            if self._user is not None:
                session.login(self._user, self._password)
            yield session


@contextlib.contextmanager
def _refused() -> Iterator[None]:
    try:
        yield
    except smtplib.SMTPRecipientsRefused as error:
        code, reason = next(iter(error.recipients.values()))
        raise NotDelivered(f"the server refuses the recipient: {code} {_text(reason)}", again=400 <= code < 500) from error
    except smtplib.SMTPResponseException as error:
        said = f"the server says {error.smtp_code} {_text(error.smtp_error)}"
        raise NotDelivered(said, again=400 <= error.smtp_code < 500) from error
    except (smtplib.SMTPException, OSError) as error:
        raise NotDelivered(f"{type(error).__name__}: {error}", again=True) from error


def _text(reason: bytes | str) -> str:
    return reason.decode("utf-8", "replace") if isinstance(reason, bytes) else reason
