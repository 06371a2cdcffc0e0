"""What a service offers, read from its type hints: one contract for each method, event handler and broadcast handler."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, get_args

from fabric.arguments import Arguments, check_kind, hints_of
from fabric.errors import ConfigurationError
from fabric.transports.topology import check_name

F = TypeVar("F", bound=Callable[..., Any])

_MARK = "__fabric__"
_CONTRACT = "__fabric_contract__"


@dataclass(frozen=True, slots=True, kw_only=True)
class RpcOptions:
    """How a method is offered.

    Attributes:
        name: what callers use; the function's name by default.
        aliases: further names for the same method.
        idempotent: a call may run twice without harm, so callers retry it when an instance or a link is lost.
        timeout: seconds that a call may take when the caller gives none; None leaves it to the caller's default.
        concurrency: handlers that run at once in one instance; the rest waits in order of priority.
        queue: requests that may wait; more are refused as overloaded, the lowest priority first.
        callers: names of the services that may call it; None is everyone. On RabbitMQ a name is the user that the broker vouches
            for; on the other brokers, which belong to one user of the operating system, it is what the caller says.
        reserved: of the places, those that only critical requests may take; None is a tenth. More lets them start at once
            more often, and leaves fewer for the rest.
        adaptive: find how many run at once from how long they take, up to ``concurrency``. For handlers whose cost is
            elsewhere, such as in a database that slows down when it has too much to do.
    """

    name: str | None = None
    aliases: tuple[str, ...] = ()
    idempotent: bool = False
    timeout: float | None = None
    concurrency: int = 100
    queue: int = 10_000
    callers: tuple[str, ...] | None = None
    reserved: int | None = None
    adaptive: bool = False

    def __post_init__(self) -> None:
        if self.timeout is not None and not 0 < self.timeout < math.inf:
            raise ConfigurationError(f"timeout must be positive seconds, not {self.timeout}")
        if self.concurrency < 1:
            raise ConfigurationError(f"concurrency must be at least 1, not {self.concurrency}")
        if self.reserved is not None and not 0 <= self.reserved < self.concurrency:
            raise ConfigurationError(f"reserved must be at least 0 and below concurrency, not {self.reserved}")
        if self.queue < 0:
            raise ConfigurationError(f"queue must not be negative, not {self.queue}")


ORDERED_DELIVERIES = 20
ORDERED_LOOKAHEAD = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class EventOptions:
    """How events are taken.

    Attributes:
        patterns: topics; ``*`` is one word, ``#`` any number of them.
        group: handlers of one group share a durable queue and its limits; each group gets its own copy of an event.
        concurrency: handlers that run at once in one instance; also the prefetch, so it bounds what a crash redelivers.
        max_attempts: deliveries before an event is dead-lettered.
        retry_delays: seconds before each further delivery; the last one repeats.
        timeout: seconds that the handlers of one event may take; longer counts as a failure. Below RabbitMQ's 30 minutes.
        unique_for: seconds in which this instance does not handle an event of the same id again. 0 handles what comes.
        ordered: events published with the same ``key`` are handled one after the other, in the order of the queue, in one
            instance of the whole fleet; different keys at the same time, up to ``concurrency``. A failing event is tried again
            in its place, and only its key waits. Its attempts are counted by the instance that has it.

    Handlers of one group have one queue, so all but ``patterns`` and ``concurrency`` must be the same for them.
    """

    patterns: tuple[str, ...]
    group: str = "default"
    concurrency: int = 20
    max_attempts: int = 5
    retry_delays: tuple[float, ...] = (0.2, 1.0, 5.0, 30.0)
    timeout: float = 300.0
    unique_for: float = 0.0
    ordered: bool = False

    def __post_init__(self) -> None:
        _check_topics("on_event", self.patterns)
        try:
            check_name("group", self.group)
        except ValueError as error:
            raise ConfigurationError(str(error)) from None
        if not 1 <= self.concurrency <= 65_535 or self.max_attempts < 1:
            raise ConfigurationError("concurrency must be 1 to 65535, and max_attempts at least 1")
        if not self.retry_delays or not all(0 <= delay < 86_400 for delay in self.retry_delays):
            raise ConfigurationError("retry_delays must be seconds below a day, at least one")
        if not 0 < self.timeout < 1800:
            raise ConfigurationError(f"timeout must be above 0 and below 1800 seconds, not {self.timeout}")
        if not 0 <= self.unique_for < 86_400:
            raise ConfigurationError(f"unique_for must be seconds below a day, not {self.unique_for}")
        if self.ordered and self.longest >= 1800:
            raise ConfigurationError(
                f"an ordered event may take {self.longest:g} s with all its attempts and pauses, and RabbitMQ waits less than"
                " 1800 s for an acknowledgement: lower max_attempts, timeout or retry_delays"
            )

    @property
    def deliveries(self) -> int:
        """Of one event by the broker before it is dead-lettered. In an ordered group they don't count attempts: what only
        waited behind its key when an instance was lost is delivered again too."""
        return ORDERED_DELIVERIES if self.ordered else self.max_attempts

    def prefetch(self, concurrency: int) -> int:
        """Deliveries held at once for so many handlers: in an ordered group more, so that one busy key leaves others work."""
        return min(65_535, concurrency * ORDERED_LOOKAHEAD) if self.ordered else concurrency

    @property
    def longest(self) -> float:
        """Seconds that all attempts at one event take at most, with the pauses between them."""
        delays = self.retry_delays
        pauses = (delays[min(number, len(delays) - 1)] for number in range(self.max_attempts - 1))
        return self.max_attempts * self.timeout + sum(pauses)


@dataclass(frozen=True, slots=True, kw_only=True)
class BroadcastOptions:
    """``topics`` as in ``EventOptions.patterns``."""

    topics: tuple[str, ...]

    def __post_init__(self) -> None:
        _check_topics("on_broadcast", self.topics)


def _check_topics(decorator: str, topics: tuple[str, ...]) -> None:
    if not topics or not all(isinstance(topic, str) and topic for topic in topics):
        raise ConfigurationError(f'{decorator} needs at least one topic: @{decorator}("todo.created")')


def _names(option: str, names: Iterable[str]) -> tuple[str, ...]:
    """One string is also an iterable of strings, but never the one that was meant."""
    if isinstance(names, str):
        raise ConfigurationError(f"{option} is a list of names: ({names!r},) in place of {names!r}")
    return tuple(names)


def rpc(
    *,
    name: str | None = None,
    aliases: Iterable[str] = (),
    idempotent: bool = False,
    timeout: float | None = None,
    concurrency: int = 100,
    queue: int = 10_000,
    callers: Iterable[str] | None = None,
    reserved: int | None = None,
    adaptive: bool = False,
) -> Callable[[F], F]:
    """Offer a method to callers; see :class:`RpcOptions`."""
    options = RpcOptions(
        name=name,
        aliases=_names("aliases", aliases),
        idempotent=idempotent,
        timeout=timeout,
        concurrency=concurrency,
        queue=queue,
        callers=None if callers is None else _names("callers", callers),
        reserved=reserved,
        adaptive=adaptive,
    )
    return _marker(options)


def on_event(
    *patterns: str,
    group: str = "default",
    concurrency: int = 20,
    max_attempts: int = 5,
    retry_delays: Iterable[float] = (0.2, 1.0, 5.0, 30.0),
    timeout: float = 300.0,
    unique_for: float = 0.0,
    ordered: bool = False,
) -> Callable[[F], F]:
    """Take events, at least once, in one instance of the service; see :class:`EventOptions`."""
    return _marker(
        EventOptions(
            patterns=patterns,
            group=group,
            concurrency=concurrency,
            max_attempts=max_attempts,
            retry_delays=tuple(retry_delays),
            timeout=timeout,
            unique_for=unique_for,
            ordered=ordered,
        )
    )


def on_broadcast(*topics: str) -> Callable[[F], F]:
    """Take broadcasts, at most once, in every live instance."""
    return _marker(BroadcastOptions(topics=topics))


def _marker(options: RpcOptions | EventOptions | BroadcastOptions) -> Callable[[F], F]:
    def mark(function: F) -> F:
        if not inspect.iscoroutinefunction(function) and not inspect.isasyncgenfunction(function):
            raise ConfigurationError(f"{function.__qualname__} must be an async function")
        setattr(function, _MARK, options)
        return function

    return mark


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodContract:
    """One method: ``attribute`` is the function's name on the class, ``name`` what callers use. ``returns`` is the type of each
    part if it ``streams``."""

    name: str
    attribute: str
    options: RpcOptions
    arguments: Arguments
    returns: Any
    streams: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class HandlerContract:
    """One event or broadcast handler."""

    attribute: str
    patterns: tuple[str, ...]
    arguments: Arguments
    options: EventOptions | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ServiceContract:
    """Everything that a service class offers."""

    name: str
    version: str
    capabilities: tuple[str, ...]
    methods: Mapping[str, MethodContract]
    events: tuple[HandlerContract, ...]
    broadcasts: tuple[HandlerContract, ...]

    @property
    def announced(self) -> dict[str, dict[str, Any]]:
        """What callers need to know of each method; see ``Instance.methods``."""
        return {
            name: {"idempotent": method.options.idempotent, "timeout": method.options.timeout}
            for name, method in self.methods.items()
        }

    @property
    def groups(self) -> dict[str, list[HandlerContract]]:
        """The event handlers by group."""
        groups: dict[str, list[HandlerContract]] = {}
        for handler in self.events:
            assert handler.options is not None
            groups.setdefault(handler.options.group, []).append(handler)
        return groups


def contract_of(service: type[Any]) -> ServiceContract:
    """The contract of a service class. Read once.

    Raises:
        ConfigurationError: a hint is missing or means nothing to a receiver, two methods share a name.
    """
    found = service.__dict__.get(_CONTRACT)
    if found is None:
        found = _read(service)
        setattr(service, _CONTRACT, found)
    assert isinstance(found, ServiceContract)
    return found


def _read(service: type[Any]) -> ServiceContract:
    methods: dict[str, MethodContract] = {}
    events: list[HandlerContract] = []
    broadcasts: list[HandlerContract] = []
    for attribute, function in inspect.getmembers(service, inspect.isroutine):
        options = getattr(function, _MARK, None)
        if options is not None and isinstance(inspect.getattr_static(service, attribute), (staticmethod, classmethod)):
            raise ConfigurationError(f"{function.__qualname__}: only ordinary methods can be offered, with self")
        match options:
            case RpcOptions():
                contract = _method(attribute, function, options)
                for name in (contract.name, *options.aliases):
                    if name in methods:
                        raise ConfigurationError(f"{service.__qualname__}: two methods are called {name!r}")
                    methods[name] = contract
            case EventOptions():
                arguments = Arguments.of(function, event=True)
                _check_group(service, options, events)
                events.append(
                    HandlerContract(attribute=attribute, patterns=options.patterns, arguments=arguments, options=options)
                )
            case BroadcastOptions():
                arguments = Arguments.of(function, event=True)
                broadcasts.append(HandlerContract(attribute=attribute, patterns=options.topics, arguments=arguments))
    return ServiceContract(
        name=str(getattr(service, "name", "")),
        version=str(getattr(service, "version", "0.1.0")),
        capabilities=_names("capabilities", getattr(service, "capabilities", ())),
        methods=methods,
        events=tuple(events),
        broadcasts=tuple(broadcasts),
    )


def _check_group(service: type[Any], options: EventOptions, others: Iterable[HandlerContract]) -> None:
    def shared(of: EventOptions) -> tuple[Any, ...]:
        return of.max_attempts, of.retry_delays, of.timeout, of.unique_for, of.ordered

    for other in others:
        if other.options is not None and other.options.group == options.group and shared(other.options) != shared(options):
            raise ConfigurationError(
                f"{service.__qualname__}: the event handlers of group {options.group!r} share one queue and must agree on"
                " max_attempts, retry_delays, timeout, unique_for and ordered; give one of them another group"
            )


def _method(attribute: str, function: Callable[..., Any], options: RpcOptions) -> MethodContract:
    returns = hints_of(function).get("return", Any)
    streams = inspect.isasyncgenfunction(function)
    if streams:
        parts = get_args(returns)
        returns = parts[0] if parts else Any
    check_kind(f"{function.__qualname__}: the result", returns)
    return MethodContract(
        name=options.name or attribute,
        attribute=attribute,
        options=options,
        arguments=Arguments.of(function),
        returns=returns,
        streams=streams,
    )
