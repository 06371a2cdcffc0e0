"""Where the broker is, and how patient we are with it."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from fabric.errors import ConfigurationError, UnknownName
from fabric.transports.backoff import Backoff

_PORTS = {"amqp": 5672, "amqps": 5671}
_OPTIONS = (
    "auth_mechanism",
    "cacertfile",
    "certfile",
    "heartbeat",
    "keyfile",
    "keyfile_password_file",
    "password_file",
    "server_name_indication",
    "verify",
)
_TLS_OPTIONS = {"cacertfile", "certfile", "keyfile", "keyfile_password_file", "server_name_indication", "verify"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """How an ``amqps`` link is secured.

    Attributes:
        ca_file: PEM of who may sign the broker's certificate; None trusts what the system trusts.
        cert_file, key_file: PEM of our own certificate and its key, for brokers that ask for one.
        key_password_file: a file with the passphrase of the key.
        verify: False accepts any certificate: whoever sits on the way can read and change everything.
        server_name: the name that the certificate must have, where it is not the host of the URL.
    """

    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    key_password_file: str | None = None
    verify: bool = True
    server_name: str | None = None

    def context(self) -> ssl.SSLContext:
        """Read the files, at each connection anew, so that renewed certificates count.

        Raises:
            ConfigurationError: a file is missing or is not what it should be.
        """
        try:
            context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=self.ca_file)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            if not self.verify:
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
            if self.cert_file:
                password = _read_secret(self.key_password_file) if self.key_password_file else None
                context.load_cert_chain(self.cert_file, self.key_file, password)
        except (OSError, ssl.SSLError) as error:
            files = ", ".join(file for file in (self.ca_file, self.cert_file, self.key_file) if file)
            raise ConfigurationError(f"the TLS files can't be used ({files}): {error}") from error
        return context


@dataclass(frozen=True, slots=True, kw_only=True)
class AmqpSettings:
    """A link to RabbitMQ. All durations in seconds.

    Attributes:
        host, port, vhost, user: where and as whom.
        password: never shown.
        password_file: read at each connection instead, so that a rotated password counts.
        external: the broker takes our name from our certificate (``auth_mechanism=external``). ``user`` has to say that name too,
            so that each message names us and the broker vouches for it.
        tls: None for plain ``amqp``.
        name: shown in the broker's list of connections, and in the history of dead letters.
        max_body: bytes. RabbitMQ refuses more than 16 MiB from 4.0; ours is lower and checked before sending.
        heartbeat: AMQP's own. The broker drops us after about two silent ones, we drop it after three.
        ping_interval, ping_timeout: our own question to the broker, on both links. Their sum bounds how long a dead link goes
            unnoticed; less of it is more idle traffic, and false alarms on slow networks.
        operation_timeout: limit of one exchange with the broker that has no other limit.
        backoff: the waits between attempts to reconnect.
        max_waiting, max_waiting_bytes: what may wait in ``send`` while the link is down or blocked; more is refused at once.
        post_buffer: bytes not yet taken by the network, over which ``post`` drops.
    """

    host: str = "127.0.0.1"
    port: int = 5672
    vhost: str = "/"
    user: str = "guest"
    password: str = field(default="guest", repr=False)
    password_file: str | None = None
    external: bool = False
    tls: Tls | None = None
    name: str = "fabric"
    max_body: int = 8 * 1024 * 1024
    heartbeat: int = 10
    ping_interval: float = 2.0
    ping_timeout: float = 2.5
    operation_timeout: float = 10.0
    backoff: Backoff = field(default_factory=lambda: Backoff(first=0.2, most=8.0))
    max_waiting: int = 10_000
    max_waiting_bytes: int = 64 * 1024 * 1024
    post_buffer: int = 16 * 1024 * 1024

    def __post_init__(self) -> None:
        positive = (
            "max_body",
            "ping_interval",
            "ping_timeout",
            "operation_timeout",
            "max_waiting",
            "max_waiting_bytes",
            "post_buffer",
        )
        for name in positive:
            if getattr(self, name) <= 0:
                raise ConfigurationError(f"{name} must be more than 0, not {getattr(self, name)}")
        if not 1 <= self.port <= 65_535:
            raise ConfigurationError(f"port must be 1 to 65535, not {self.port}")
        if not 0 <= self.heartbeat <= 65_534:
            raise ConfigurationError(f"heartbeat must be 0 to 65534 seconds, not {self.heartbeat}")

    @classmethod
    def from_url(cls, url: str, **overrides: Any) -> Self:
        """Read ``amqp[s]://user:password@host:port/vhost?option=value``.

        The options are those of RabbitMQ's own URIs: cacertfile, certfile, keyfile, verify (verify_peer or verify_none),
        server_name_indication, heartbeat, auth_mechanism (plain or external); and password_file and keyfile_password_file.

        Args:
            url: where and how.
            overrides: fields, where the URL is not the place for them.

        Raises:
            ConfigurationError: not such a URL; the password is not repeated.
        """
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise ConfigurationError(
                "the broker URL has no valid host and port: use amqp://user:password@host:5672/vhost"
            ) from error
        if parts.scheme not in _PORTS:
            raise ConfigurationError(f"the broker URL begins with {parts.scheme or 'nothing'}: use amqp:// or amqps://")
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        for option in options:
            if option not in _OPTIONS:
                raise UnknownName("option", option, used_by="the broker URL", known=_OPTIONS)
        if parts.scheme == "amqp" and (useless := sorted(_TLS_OPTIONS & set(options))):
            raise ConfigurationError(f"{', '.join(useless)} in a broker URL without TLS: use amqps://")
        mechanism = options.get("auth_mechanism", "plain").lower()
        if mechanism not in ("plain", "external"):
            raise ConfigurationError(f"auth_mechanism can be plain or external, not {mechanism!r}")
        if mechanism == "external" and not parts.username:
            raise ConfigurationError(
                "auth_mechanism=external needs the name that the broker takes from our certificate, so that others are told who"
                " calls: amqps://NAME@host"
            )
        settings = cls(
            host=parts.hostname or "127.0.0.1",
            port=port or _PORTS[parts.scheme],
            vhost=unquote(parts.path[1:]) or "/",
            user=unquote(parts.username) if parts.username else "guest",
            password=unquote(parts.password) if parts.password is not None else "guest",
            password_file=options.get("password_file"),
            external=mechanism == "external",
            tls=_tls(options) if parts.scheme == "amqps" else None,
            heartbeat=_whole_number("heartbeat", options.get("heartbeat", "10")),
        )
        return replace(settings, **overrides)

    @property
    def where(self) -> str:
        """For people: everything but secrets."""
        scheme = "amqps" if self.tls else "amqp"
        user = f"{quote(self.user, safe='')}@" if self.user else ""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{scheme}://{user}{host}:{self.port}/{quote(self.vhost, safe='') if self.vhost != '/' else ''}"

    @property
    def vouched_user(self) -> str:
        """The name that the broker vouches for in each message."""
        return self.user

    def secret(self) -> str:
        """The password of now.

        Raises:
            ConfigurationError: its file can't be read.
        """
        if self.password_file is None:
            return self.password
        try:
            return _read_secret(self.password_file)
        except OSError as error:
            raise ConfigurationError(f"password_file can't be read: {error}") from error


def _tls(options: dict[str, str]) -> Tls:
    verify = options.get("verify", "verify_peer")
    if verify not in ("verify_peer", "verify_none"):
        raise ConfigurationError(f"verify can be verify_peer or verify_none, not {verify!r}")
    return Tls(
        ca_file=options.get("cacertfile"),
        cert_file=options.get("certfile"),
        key_file=options.get("keyfile"),
        key_password_file=options.get("keyfile_password_file"),
        verify=verify == "verify_peer",
        server_name=options.get("server_name_indication"),
    )


def _whole_number(name: str, text: str) -> int:
    if not text.isdecimal():
        raise ConfigurationError(f"{name} must be a whole number of seconds, not {text!r}")
    return int(text)


def _read_secret(file: str) -> str:
    return Path(file).read_text(encoding="utf-8").rstrip("\r\n")
