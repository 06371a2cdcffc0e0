"""Asking whether a service is ready, by each kind of check that a definition may have."""

from __future__ import annotations

import asyncio
import os
import signal
import ssl
import tempfile
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Any, Final
from urllib.parse import urlsplit

import orjson

from fabric.clock import Clock
from fabric.errors import CallError, ConfigurationError, DeadlineExceeded
from fabric.health import Health
from fabric.service import Service
from fabric.startup.definition import CheckKind, HealthCheck

VARIABLE: Final = "FABRIC_HEALTH_CHECKS"
"""A JSON list of checks, which ``fabric up`` makes from the fleet file. Not the bus brings them but the environment, because
whoever says which command is run may do anything here."""
_LINE_LIMIT = 4096
_OUTPUT_SHOWN = 200


@dataclass(slots=True)
class _Asked:
    """The last answer to one check, and when it was asked for."""

    health: Health
    at: float


class HealthChecks:
    """The checks of one service, all of which have to say yes.

    A yes is good for the interval of its check; what did not say yes is asked each time.

    Args:
        clock: what the intervals are measured by.
    """

    def __init__(self, checks: Sequence[HealthCheck], service: Service, clock: Clock) -> None:
        self._checks, self._service, self._clock = tuple(checks), service, clock
        self._asked: dict[HealthCheck, _Asked] = {}

    @property
    def longest(self) -> float:
        """Seconds that ``ask`` takes at most."""
        return max((check.timeout for check in self._checks), default=0.0)

    @property
    def due_in(self) -> float:
        """Seconds until a check has to be asked again; infinity without any."""
        now = self._clock.monotonic()
        return min((max(0.0, self._at(check) + check.interval - now) for check in self._checks), default=float("inf"))

    def _at(self, check: HealthCheck) -> float:
        asked = self._asked.get(check)
        return asked.at if asked is not None else float("-inf")

    async def ask(self, *, anew: bool = False) -> Health:
        """The first answer, in the order of the checks, that is not a yes: a no before an unknown. Never raises.

        Args:
            anew: also what has said yes within its interval.
        """
        now = self._clock.monotonic()
        due = [
            check
            for check in self._checks
            if anew or check not in self._asked or not self._asked[check].health.is_ok or now >= self._at(check) + check.interval
        ]
        for check, health in zip(due, await asyncio.gather(*map(self._one, due)), strict=True):
            self._asked[check] = _Asked(health, now)
        answers = [self._asked[check].health for check in self._checks]
        wrong = sorted((health for health in answers if not health.is_ok), key=lambda health: health.status)
        return next(iter(wrong or answers), Health.ok())

    async def _one(self, check: HealthCheck) -> Health:
        name = label(check)
        try:
            async with asyncio.timeout(check.timeout):
                health = await _ASK[check.kind](check, self._service)
        except TimeoutError:
            return Health.unknown(f"{name} took longer than {check.timeout:g} s")
        except (OSError, ssl.SSLError, ConfigurationError, CallError) as error:
            return Health.bad(f"{name}: {error}")
        except Exception as error:
            return Health.bad(f"{name} raised {type(error).__name__}: {error}")
        if check.kind is CheckKind.METHOD or health.is_ok:
            return health
        return Health(health.status, f"{name}: {health.reason}", health.details)


def label(check: HealthCheck) -> str:
    """What people see of a check. A command line may hold a secret, so it is only its first word."""
    match check.kind:
        case CheckKind.METHOD:
            return "check_health()"
        case CheckKind.COMMAND:
            return f"the check by {check.target.split()[0]}"
        case _:
            return f"the {check.kind} check of {check.target}"


async def _method(check: HealthCheck, service: Service) -> Health:
    return await service.check_health()


async def _http(check: HealthCheck, service: Service) -> Health:
    """One GET. No redirect is followed: it is an answer."""
    url = urlsplit(os.path.expandvars(check.target))
    if url.scheme not in ("http", "https") or not url.hostname:
        raise ConfigurationError(f"{check.target!r} is not a URL of http or https")
    secure = url.scheme == "https"
    path = (url.path or "/") + (f"?{url.query}" if url.query else "")
    reader, writer = await asyncio.open_connection(
        url.hostname, url.port or (443 if secure else 80), ssl=secure or None, limit=_LINE_LIMIT
    )
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: {url.netloc}\r\nUser-Agent: fabric\r\nConnection: close\r\n\r\n".encode())
        await writer.drain()
        line = (await reader.readline()).decode("latin-1").strip()
    finally:
        writer.transport.abort()
    version, _, rest = line.partition(" ")
    if not version.startswith("HTTP/") or not rest[:3].isdigit():
        return Health.bad("it does not speak HTTP" if line else "it closed the connection without an answer")
    wanted = rest[:3] == check.expect if check.expect else 200 <= int(rest[:3]) < 400
    return Health.ok() if wanted else Health.bad(f"it answered {rest}")


async def _tcp(check: HealthCheck, service: Service) -> Health:
    host, _, port = os.path.expandvars(check.target).rpartition(":")
    if not host or not port.isdigit():
        raise ConfigurationError(f"{check.target!r} is not HOST:PORT")
    _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    writer.transport.abort()
    return Health.ok()


async def _command(check: HealthCheck, service: Service) -> Health:
    """A line for the shell; whatever it started is killed with it when its time is up."""
    with tempfile.TemporaryFile() as output:
        process = await asyncio.create_subprocess_shell(
            check.target, stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
        try:
            code = await process.wait()
        finally:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            if process.returncode is None:
                await process.wait()
        return Health.ok() if code == 0 else Health.bad(f"exit code {code}{_last_line(output)}")


def _last_line(output: IO[bytes]) -> str:
    size = output.seek(0, os.SEEK_END)
    output.seek(max(0, size - _LINE_LIMIT))
    lines = output.read().decode(errors="replace").strip().splitlines()
    return f": {lines[-1].strip()[:_OUTPUT_SHOWN]}" if lines else ""


async def _dependency(check: HealthCheck, service: Service) -> Health:
    """``SERVICE.METHOD`` is called, without arguments; of ``SERVICE`` alone an instance has to be ready."""
    name, _, method = check.target.partition(".")
    hub = service.hub
    if method:
        try:
            await hub.call(name, method, timeout=check.timeout)
        except DeadlineExceeded as error:
            return Health.unknown(error.text)
        return Health.ok()
    found = await hub.find(name, timeout=check.timeout)
    ready = any(instance.takes_calls and instance.health.is_ok for instance in found)
    return Health.ok() if ready else Health.bad("none of its instances is ready" if found else "it has no instance")


_ASK: Final[Mapping[CheckKind, Callable[[HealthCheck, Service], Awaitable[Health]]]] = {
    CheckKind.METHOD: _method,
    CheckKind.HTTP: _http,
    CheckKind.TCP: _tcp,
    CheckKind.COMMAND: _command,
    CheckKind.DEPENDENCY: _dependency,
}
_FIELDS: Final = ("target", "interval", "timeout", "expect")


def dump_checks(checks: Iterable[HealthCheck]) -> str:
    """For ``FABRIC_HEALTH_CHECKS``."""
    plain = [{"kind": str(check.kind), **{name: getattr(check, name) for name in _FIELDS}} for check in checks]
    return orjson.dumps(plain).decode()


def load_checks(text: str) -> tuple[HealthCheck, ...]:
    """What ``dump_checks`` wrote, or people did.

    Raises:
        ConfigurationError: it is something else.
    """
    try:
        entries: list[dict[str, Any]] = orjson.loads(text)
        return tuple(HealthCheck(**{**entry, "kind": CheckKind(entry["kind"])}) for entry in entries)
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigurationError(f"{VARIABLE} is not a JSON list of checks with kind and target: {error!r}") from error
