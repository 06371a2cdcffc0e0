"""``fabric dead-letters``: what a service's subscriptions gave up."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from fabric.cli.options import BrokerUrl, FleetName, Json, Namespace, Timeout

if TYPE_CHECKING:  # so that `fabric --help` does not pay for it
    from fabric.dead_letters import DeadLetters
    from fabric.transports.base import DeadLetter

T = TypeVar("T")

_MOST = 10_000

letters = typer.Typer(
    name="dead-letters",
    help="Look at the events that a service gave up, deliver them again, or remove them.",
    no_args_is_help=True,
)

ServiceName = Annotated[str, typer.Argument(metavar="SERVICE")]
Group = Annotated[str, typer.Option(help="The group of the handlers, where it is not the default one.")]
Id = Annotated[str | None, typer.Option("--id", help="Only this one, as `list` shows it.")]
All = Annotated[bool, typer.Option("--all", help="All that are there now.")]
Most = Annotated[int, typer.Option(min=0, help="Characters of each payload to show.")]


def register(app: typer.Typer) -> None:
    app.add_typer(letters)


@letters.command("list")
def list_letters(
    service: ServiceName,
    group: Group = "default",
    limit: Annotated[int, typer.Option(min=1, max=_MOST, help="The oldest so many.")] = 100,
    payload: Most = 1000,
    timeout: Timeout = 30.0,
    broker_url: BrokerUrl = None,
    namespace: Namespace = None,
    fleet: FleetName = None,
    json: Json = False,
) -> None:
    """One line for each event that was given up, the oldest first."""

    async def look(kept: DeadLetters) -> list[DeadLetter]:
        return await kept.list(limit=limit, timeout=timeout)

    found = _on(service, group, look, broker_url=broker_url, namespace=namespace, fleet=fleet, timeout=timeout)
    from fabric.cli.letters import facts, table
    from fabric.cli.output import write, write_json

    if json:
        write_json([facts(letter, most=payload) for letter in found])
    elif found:
        write("\n".join(table(found)))
    else:
        write(f"no dead letters in group {group} of {service}")


@letters.command()
def show(
    service: ServiceName,
    id: Id = None,
    all: All = False,
    group: Group = "default",
    payload: Most = 10_000,
    timeout: Timeout = 30.0,
    broker_url: BrokerUrl = None,
    namespace: Namespace = None,
    fleet: FleetName = None,
    json: Json = False,
) -> None:
    """Everything about one: why, how often, when and where it failed, and what it holds."""
    _one_or_all(id, all)

    async def look(kept: DeadLetters) -> list[DeadLetter]:
        return await _chosen(kept, service, id, timeout)

    found = _on(service, group, look, broker_url=broker_url, namespace=namespace, fleet=fleet, timeout=timeout)
    from fabric.cli.letters import facts, page
    from fabric.cli.output import write, write_json

    if json:
        shown = [facts(letter, most=payload) for letter in found]
        write_json(shown if all else shown[0])
        return
    for letter in found:
        write("\n".join(page(letter, most=payload)))


@letters.command()
def replay(
    service: ServiceName,
    id: Id = None,
    all: All = False,
    group: Group = "default",
    timeout: Timeout = 60.0,
    broker_url: BrokerUrl = None,
    namespace: Namespace = None,
    fleet: FleetName = None,
    json: Json = False,
) -> None:
    """Deliver again, with fresh attempts, to this service only.

    Each is put back into its queue before it is removed here: stopped half-way it may come twice, but is never lost.
    """
    _one_or_all(id, all)

    async def work(kept: DeadLetters) -> tuple[list[str], str]:
        return await _each(await _chosen(kept, service, id, timeout), lambda one: kept.replay(one, timeout=timeout))

    done, problem = _on(service, group, work, broker_url=broker_url, namespace=namespace, fleet=fleet, timeout=timeout)
    _tell("replayed", done, problem, as_json=json)


@letters.command()
def discard(
    service: ServiceName,
    id: Id = None,
    all: All = False,
    group: Group = "default",
    timeout: Timeout = 60.0,
    broker_url: BrokerUrl = None,
    namespace: Namespace = None,
    fleet: FleetName = None,
    json: Json = False,
) -> None:
    """Remove for good."""
    _one_or_all(id, all)

    async def work(kept: DeadLetters) -> tuple[list[str], str]:
        return await _each(await _chosen(kept, service, id, timeout), lambda one: kept.discard(one, timeout=timeout))

    done, problem = _on(service, group, work, broker_url=broker_url, namespace=namespace, fleet=fleet, timeout=timeout)
    _tell("discarded", done, problem, as_json=json)


def _one_or_all(id: str | None, all: bool) -> None:
    if (id is not None) == all:
        raise typer.BadParameter("say which: --id ID as `fabric dead-letters list` shows it, or --all", param_hint="--id")


def _on(
    service: str,
    group: str,
    work: Callable[[DeadLetters], Awaitable[T]],
    *,
    broker_url: str | None,
    namespace: str | None,
    fleet: str | None,
    timeout: float,
) -> T:
    """Do ``work`` on what the service gave up, within ``timeout`` seconds."""
    from fabric.cli.target import connected, find_target
    from fabric.transports.topology import check_name

    for kind, name in (("SERVICE", service), ("--group", group)):
        try:
            check_name(kind, name)
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint=kind) from None
    target = find_target(broker_url=broker_url, namespace=namespace, fleet=fleet)

    async def run() -> T:
        async with asyncio.timeout(timeout), connected(target, timeout=timeout) as hub:
            return await work(hub.dead_letters(service, group))

    return asyncio.run(run())


async def _chosen(kept: DeadLetters, service: str, id: str | None, timeout: float) -> list[DeadLetter]:
    """The one, or all that are there now.

    Raises:
        UnknownName: there is none with this id.
    """
    from fabric.errors import UnknownName

    found = await kept.list(limit=_MOST, timeout=timeout)
    if id is None:
        return found
    chosen = [letter for letter in found if letter.id == id]
    if not chosen:
        raise UnknownName("dead letter", id, used_by=f"--id for {service}", known=[letter.id for letter in found[:20]])
    return chosen


async def _each(found: list[DeadLetter], act: Callable[[str], Awaitable[bool]]) -> tuple[list[str], str]:
    """Whom it was done to, and why not to the others. One that failed again meanwhile has another id and is left alone."""
    from fabric.errors import NoRoute

    done = []
    for letter in found:
        try:
            if await act(letter.id):
                done.append(letter.id)
        except NoRoute:
            return done, f"the queue {letter.queue!r} is gone: start the service once, which makes it, and replay again"
    gone = len(found) - len(done)
    return done, f"{gone} had been taken by somebody else meanwhile" if gone else ""


def _tell(what: str, done: list[str], problem: str, *, as_json: bool) -> None:
    from fabric.cli.exits import ExitCode
    from fabric.cli.output import write, write_json

    if as_json:
        told: dict[str, Any] = {what: done, "problem": problem or None}
        write_json(told)
    else:
        write(f"{what} {len(done)}" + (f"; {problem}" if problem else ""))
    raise typer.Exit(ExitCode.FAILED if problem else ExitCode.OK)
