"""One process, one instance of one service: connect, run the agent, end when told."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from importlib import import_module

from fabric.config import Settings
from fabric.context import current_call
from fabric.coordination.agent import Agent
from fabric.coordination.health_checks import VARIABLE, load_checks
from fabric.errors import ConfigurationError
from fabric.loop import run
from fabric.observe.logs import configure_logs
from fabric.observed import observed_by_environment
from fabric.service import Service
from fabric.startup.definition import HealthCheck


def load_service(target: str) -> type[Service]:
    """The service class that ``module:Class`` names.

    Raises:
        ConfigurationError: there is no such module or class, or it is not a service.
    """
    module, _, name = target.partition(":")
    if not module or not name:
        raise ConfigurationError(f"{target!r}: name the service as module:Class")
    try:
        found = getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        raise ConfigurationError(f"{target!r}: {error}; is it on the Python path?") from error
    except AttributeError as error:
        raise ConfigurationError(f"{target!r}: the module {module} has no {name}") from error
    if not (isinstance(found, type) and issubclass(found, Service)):
        raise ConfigurationError(f"{target!r} is not a subclass of fabric.Service")
    return found


async def host(
    make: Callable[[], Service], *, settings: Settings | None = None, managed: bool, lifeline: int | None = None
) -> None:
    """Run one instance until SIGTERM, SIGINT or the end of the lifeline.

    Args:
        make: makes the service; a class without arguments will do.
        managed: wait for the coordinator's command before ``start``.
        lifeline: a readable file descriptor; its end means that whoever started this process is gone.

    Raises:
        ConnectionLost, ConfigurationError: the broker can't be reached or used.
        Exception: whatever ``start`` raised, when not managed.
    """
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    if lifeline is not None:
        os.set_blocking(lifeline, False)
        loop.add_reader(lifeline, _lifeline_ended, loop, lifeline, ended)
    try:
        service = make()
        logs_of_environment(service.name)
        with observed_by_environment() as kind:
            async with kind.connect(service.name, settings=settings) as hub:
                agent = Agent(hub, service, checks=checks_of_environment())
                try:
                    await agent.open(managed=managed)
                    await ended.wait()
                finally:
                    await agent.aclose()
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
        if lifeline is not None:
            loop.remove_reader(lifeline)


def _lifeline_ended(loop: asyncio.AbstractEventLoop, lifeline: int, ended: asyncio.Event) -> None:
    try:
        if os.read(lifeline, 1024):
            return
    except BlockingIOError:
        return
    except OSError:
        pass
    loop.remove_reader(lifeline)
    ended.set()


def lifeline_of_environment() -> int | None:
    """``FABRIC_LIFELINE_FD``: the pipe that whoever started this process holds open."""
    lifeline = os.environ.get("FABRIC_LIFELINE_FD")
    return int(lifeline) if lifeline else None


def checks_of_environment() -> tuple[HealthCheck, ...] | None:
    """``FABRIC_HEALTH_CHECKS``; None is the service's own.

    Raises:
        ConfigurationError: it is not usable.
    """
    text = os.environ.get(VARIABLE)
    return load_checks(text) if text else None


def logs_of_environment(service: str) -> None:
    """``FABRIC_LOG_LEVEL`` and ``FABRIC_LOG_FORMAT``, with the service, the instance and the call under way in each line.

    Raises:
        ConfigurationError: one of them is not usable.
    """
    process = {"service": service, "instance": os.environ.get("FABRIC_INSTANCE", ""), "pid": os.getpid()}
    configure_logs(
        level=os.environ.get("FABRIC_LOG_LEVEL", "INFO"),
        format=os.environ.get("FABRIC_LOG_FORMAT", "text"),
        process=process,
        call=_call_under_way,
    )


def _call_under_way() -> dict[str, str]:
    call = current_call()
    return {} if call is None else {"call": call.id, "method": call.method, "caller": call.instance}


def host_from_environment(target: str) -> None:
    """``host`` with ``FABRIC_MANAGED`` and ``FABRIC_LIFELINE_FD``; blocks until it ends."""
    managed = os.environ.get("FABRIC_MANAGED", "") in ("1", "true", "yes")
    run(host(load_service(target), managed=managed, lifeline=lifeline_of_environment()))
