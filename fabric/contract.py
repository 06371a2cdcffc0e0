"""What a service offers, read from its type hints: one contract for each method, event handler and broadcast handler."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar, get_type_hints, is_typeddict

from pydantic import BaseModel, TypeAdapter, ValidationError

from fabric.errors import ConfigurationError

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
        callers: names of the services that may call it, as the broker vouches for them; None is everyone.
    """

    name: str | None = None
    aliases: tuple[str, ...] = ()
    idempotent: bool = False
    timeout: float | None = None
    concurrency: int = 100
    queue: int = 10_000
    callers: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.timeout is not None and self.timeout <= 0:
            raise ConfigurationError(f"timeout must be positive seconds, not {self.timeout}")
        if self.concurrency < 1:
            raise ConfigurationError(f"concurrency must be at least 1, not {self.concurrency}")
        if self.queue < 0:
            raise ConfigurationError(f"queue must not be negative, not {self.queue}")


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

    Handlers of one group have one queue, so all but ``patterns`` and ``concurrency`` must be the same for them.
    """

    patterns: tuple[str, ...]
    group: str = "default"
    concurrency: int = 20
    max_attempts: int = 5
    retry_delays: tuple[float, ...] = (0.2, 1.0, 5.0, 30.0)
    timeout: float = 300.0
    unique_for: float = 0.0

    def __post_init__(self) -> None:
        if not self.patterns or not all(self.patterns):
            raise ConfigurationError("on_event needs at least one topic")
        if not 1 <= self.concurrency <= 65_535 or self.max_attempts < 1:
            raise ConfigurationError("concurrency must be 1 to 65535, and max_attempts at least 1")
        if not self.retry_delays or not all(0 <= delay < 86_400 for delay in self.retry_delays):
            raise ConfigurationError("retry_delays must be seconds below a day, at least one")
        if not 0 < self.timeout < 1800:
            raise ConfigurationError(f"timeout must be above 0 and below 1800 seconds, not {self.timeout}")
        if not 0 <= self.unique_for < 86_400:
            raise ConfigurationError(f"unique_for must be seconds below a day, not {self.unique_for}")


@dataclass(frozen=True, slots=True, kw_only=True)
class BroadcastOptions:
    """``topics`` as in ``EventOptions.patterns``."""

    topics: tuple[str, ...]


def rpc(
    *,
    name: str | None = None,
    aliases: Iterable[str] = (),
    idempotent: bool = False,
    timeout: float | None = None,
    concurrency: int = 100,
    queue: int = 10_000,
    callers: Iterable[str] | None = None,
) -> Callable[[F], F]:
    """Offer a method to callers; see :class:`RpcOptions`."""
    options = RpcOptions(
        name=name,
        aliases=tuple(aliases),
        idempotent=idempotent,
        timeout=timeout,
        concurrency=concurrency,
        queue=queue,
        callers=None if callers is None else tuple(callers),
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


def plain(value: Any) -> Any:
    """Models and dataclasses as plain data; everything else as it is, for the codec to take or refuse."""
    if isinstance(value, BaseModel):
        return value.model_dump(by_alias=True)
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _adapter(type(value)).dump_python(value)
    return value


@lru_cache(maxsize=1024)
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def checked(kind: Any, value: Any) -> Any:
    """``value`` as a ``kind``.

    Raises:
        pydantic.ValidationError: it does not fit.
    """
    if kind is Any or kind is None:
        return value
    try:
        adapter = _adapter(kind)
    except TypeError:  # an annotation that can't be hashed
        adapter = TypeAdapter(kind)
    return adapter.validate_python(value)


def problems(error: ValidationError) -> list[dict[str, Any]]:
    """What does not fit, without the input values, which may be secret."""
    return [
        {"loc": [str(part) for part in item["loc"]], "msg": item["msg"], "type": item["type"]}
        for item in error.errors(include_url=False, include_context=False, include_input=False)
    ]


def _takes_whole_payload(kind: Any) -> bool:
    return isinstance(kind, type) and (issubclass(kind, BaseModel) or dataclasses.is_dataclass(kind) or is_typeddict(kind))


@dataclass(frozen=True, slots=True, kw_only=True)
class Arguments:
    """How a payload becomes the arguments of a function, and back.

    A function with one parameter that is a model, dataclass or TypedDict takes the payload as that; any other takes a map
    with its parameters by name.
    """

    whole: Any = None
    whole_name: str = ""
    names: tuple[str, ...] = ()
    model: type[BaseModel] | None = None

    @classmethod
    def of(cls, function: Callable[..., Any], *, event: bool = False) -> Arguments:
        hints = get_type_hints(function, include_extras=True)
        parameters = list(inspect.signature(function).parameters.values())[1:]
        where = function.__qualname__
        for parameter in parameters:
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
                raise ConfigurationError(f"{where}: *args, **kwargs and positional-only parameters can't be called over the bus")
            if parameter.name not in hints:
                raise ConfigurationError(f"{where}: parameter {parameter.name!r} needs a type hint")
        if event and len(parameters) != 1:
            raise ConfigurationError(f"{where}: an event or broadcast handler takes exactly one parameter")
        if len(parameters) == 1 and (event or _takes_whole_payload(hints[parameters[0].name])):
            return cls(whole=hints[parameters[0].name], whole_name=parameters[0].name)
        from pydantic import ConfigDict, create_model

        fields: dict[str, Any] = {
            p.name: (hints[p.name], ... if p.default is inspect.Parameter.empty else p.default) for p in parameters
        }
        model = create_model(f"{where}.arguments", __config__=ConfigDict(extra="forbid", arbitrary_types_allowed=False), **fields)
        return cls(names=tuple(fields), model=model)

    def read(self, payload: Any) -> dict[str, Any]:
        """The keyword arguments.

        Raises:
            pydantic.ValidationError: the payload does not fit.
        """
        if self.whole is not None:
            return {self.whole_name: checked(self.whole, payload)}
        if not self.names and payload is None:
            return {}
        assert self.model is not None
        values = self.model.model_validate({} if payload is None else payload)
        return {name: getattr(values, name) for name in self.names}

    def write(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """The payload for a call with these arguments, checked first.

        Raises:
            pydantic.ValidationError: they do not fit.
            TypeError: too many, or unknown.
        """
        if self.whole is not None:
            given = (*args, *kwargs.values())
            if len(given) != 1 or any(name != self.whole_name for name in kwargs):
                raise TypeError(f"takes exactly one argument, {self.whole_name!r}")
            return plain(checked(self.whole, given[0]))
        if len(args) > len(self.names):
            raise TypeError(f"takes {len(self.names)} arguments, not {len(args)}")
        named = {**dict(zip(self.names, args, strict=False)), **kwargs}
        assert self.model is not None
        return self.model.model_validate(named).model_dump(by_alias=True, exclude_unset=True)

    def schema(self) -> dict[str, Any]:
        if self.whole is not None:
            return _adapter(self.whole).json_schema()
        assert self.model is not None
        return self.model.model_json_schema()


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodContract:
    """One method: ``attribute`` is the function's name on the class, ``name`` what callers use."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
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
        ConfigurationError: a hint is missing, two methods share a name.
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
    for attribute, function in inspect.getmembers(service, inspect.isfunction):
        options = getattr(function, _MARK, None)
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
        capabilities=tuple(getattr(service, "capabilities", ())),
        methods=methods,
        events=tuple(events),
        broadcasts=tuple(broadcasts),
    )


def _check_group(service: type[Any], options: EventOptions, others: Iterable[HandlerContract]) -> None:
    def shared(of: EventOptions) -> tuple[Any, ...]:
        return of.max_attempts, of.retry_delays, of.timeout, of.unique_for

    for other in others:
        if other.options is not None and other.options.group == options.group and shared(other.options) != shared(options):
            raise ConfigurationError(
                f"{service.__qualname__}: the event handlers of group {options.group!r} share one queue and must agree on"
                " max_attempts, retry_delays, timeout and unique_for; give one of them another group"
            )


def _method(attribute: str, function: Callable[..., Any], options: RpcOptions) -> MethodContract:
    returns = get_type_hints(function, include_extras=True).get("return", Any)
    return MethodContract(
        name=options.name or attribute,
        attribute=attribute,
        options=options,
        arguments=Arguments.of(function),
        returns=returns,
        streams=inspect.isasyncgenfunction(function),
    )
