"""What a service offers, read from its type hints: one contract for each method, event handler and broadcast handler."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, Final, TypeVar, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, SecretBytes, SecretStr, TypeAdapter, ValidationError, create_model
from pydantic.errors import PydanticUserError
from pydantic_core import ErrorDetails, to_jsonable_python
from typing_extensions import is_typeddict

from fabric.errors import ConfigurationError, InvalidMessage
from fabric.transports.topology import check_name
from fabric.wire.codec import DEFAULT_LIMITS, plain_value

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
        if self.timeout is not None and not 0 < self.timeout < math.inf:
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


_MOST_PROBLEMS: Final = 100
_MOST_INPUTS: Final = 1000
_LEAVES: Final = frozenset({type(None), bool, int, float, str, bytes})


def plain(value: Any, depth: int = DEFAULT_LIMITS.depth) -> Any:
    """Models, dataclasses and whatever else pydantic reads back from text as plain data: what can be sent.

    A secret travels as itself. Keys become text, as in JSON.

    Raises:
        InvalidMessage: there is no such form, or it is nested deeper than ``depth``.
    """
    kind = type(value)
    if kind in _LEAVES:
        return value
    if kind is dict:
        return _plain_map(value, depth)
    if isinstance(value, (list, tuple, set, frozenset, deque)):
        _check_depth(depth)
        return [item if type(item) in _LEAVES else plain(item, depth - 1) for item in value]
    if isinstance(value, BaseModel) or (dataclasses.is_dataclass(value) and not isinstance(value, type)):
        return plain(_dumped(value), depth)
    if isinstance(value, Mapping):
        return _plain_map(value, depth)
    if isinstance(value, (SecretStr, SecretBytes)):
        return value.get_secret_value()
    if isinstance(value, (str, int, float, bytes, bytearray, memoryview)):
        return value
    return _jsonable(value)


def _plain_map(value: Mapping[Any, Any], depth: int) -> dict[str, Any]:
    _check_depth(depth)
    made = {
        key if type(key) is str else _key(key): item if type(item) in _LEAVES else plain(item, depth - 1)
        for key, item in value.items()
    }
    if len(made) < len(value):
        raise InvalidMessage("two keys of a map are the same text")
    return made


def _check_depth(depth: int) -> None:
    if depth < 1:
        raise InvalidMessage(f"nested deeper than {DEFAULT_LIMITS.depth}, or it holds itself")


def _key(key: Any) -> str:
    if key is None or isinstance(key, (tuple, frozenset)):
        raise InvalidMessage(f"a {type(key).__name__} can't be the key of a map")
    text: str = next(iter(_jsonable({key: None})))
    return text


def _jsonable(value: Any) -> Any:
    try:
        return to_jsonable_python(value, by_alias=True, fallback=plain_value)
    except (TypeError, ValueError):
        raise InvalidMessage(f"a {type(value).__name__} can't be sent; use plain data, a pydantic model or a dataclass") from None


def _dumped(value: Any) -> Any:
    kind: Any = type(value)
    try:
        if isinstance(value, BaseModel):
            return value.model_dump(by_alias=True)
        return _adapter(kind).dump_python(value, by_alias=True)
    except (PydanticUserError, ValueError) as error:  # no schema for a field; a value that holds itself
        raise InvalidMessage(f"a {kind.__name__} can't be sent: {_first_line(error)}") from None


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
    return _adapter_of(kind).validate_python(value)


def _adapter_of(kind: Any) -> TypeAdapter[Any]:
    try:
        return _adapter(kind)
    except TypeError:  # an annotation that can't be hashed
        return TypeAdapter(kind)


def problems(error: ValidationError) -> list[dict[str, Any]]:
    """What does not fit, the first hundred of it, without the input values, which may be secret."""
    return [
        {"loc": [str(part) for part in item["loc"]], "msg": _without_input(item), "type": item["type"]}
        for item in error.errors(include_url=False)[:_MOST_PROBLEMS]
    ]


def _without_input(item: ErrorDetails) -> str:
    """Validators that a team wrote, and pydantic for the tag of a union, put input into their messages."""
    message = item["msg"]
    given: list[Any] = [item.get("ctx", {}).get("tag")]
    if item["type"] in ("value_error", "assertion_error"):
        given.append(item["input"])
    for _ in range(_MOST_INPUTS):
        if not given:
            return message
        value = given.pop()
        if isinstance(value, str) and len(value) > 2:
            message = message.replace(value, "...")
        elif isinstance(value, dict):
            given.extend(value.values())
        elif isinstance(value, (list, tuple, set)):
            given.extend(value)
    return "does not fit"


def _takes_whole_payload(kind: Any) -> bool:
    if get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    return isinstance(kind, type) and (issubclass(kind, BaseModel) or dataclasses.is_dataclass(kind) or is_typeddict(kind))


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return get_type_hints(function, include_extras=True)
    except Exception as error:  # whatever evaluating an annotation raises
        raise ConfigurationError(
            f"{function.__qualname__}: a type hint can't be read: {error}; define or import what it names at the top of the"
            " module, not inside a function or under TYPE_CHECKING"
        ) from error


def _check_kind(where: str, kind: Any) -> None:
    """A hint that nothing can be checked against is found here, not by the first call."""
    try:
        _adapter_of(kind)
    except Exception as error:
        raise ConfigurationError(
            f"{where}: {getattr(kind, '__name__', kind)} can't be sent; use plain types, a pydantic model, a dataclass or"
            f" a TypedDict ({_first_line(error)})"
        ) from error


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__


@dataclass(frozen=True, slots=True, kw_only=True)
class Arguments:
    """How a payload becomes the arguments of a function, and back.

    A function with one parameter that is a model, dataclass or TypedDict takes the payload as that; any other takes a map
    with its parameters by name. What has a default may be left out.
    """

    whole: Any = None
    whole_name: str = ""
    optional: bool = False
    names: tuple[str, ...] = ()
    model: type[BaseModel] | None = None

    @classmethod
    def of(cls, function: Callable[..., Any], *, event: bool = False) -> Arguments:
        hints = _hints(function)
        where = function.__qualname__
        parameters = list(inspect.signature(function).parameters.values())
        if not parameters:
            raise ConfigurationError(f"{where}: it must be a method, with self as its first parameter")
        parameters = parameters[1:]
        for parameter in parameters:
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
                raise ConfigurationError(f"{where}: *args, **kwargs and positional-only parameters can't be called over the bus")
            if parameter.name not in hints:
                raise ConfigurationError(f"{where}: parameter {parameter.name!r} needs a type hint")
            _check_kind(f"{where}: parameter {parameter.name!r}", hints[parameter.name])
        if event and len(parameters) != 1:
            raise ConfigurationError(f"{where}: an event or broadcast handler takes exactly one parameter")
        if len(parameters) == 1 and (event or _takes_whole_payload(hints[parameters[0].name])):
            only = parameters[0]
            return cls(whole=hints[only.name], whole_name=only.name, optional=only.default is not inspect.Parameter.empty)
        # The fields have names of their own and those of the parameters as aliases: a parameter may be called "schema" or "_id".
        fields: dict[str, Any] = {
            f"field{index}": (hints[p.name], ... if p.default is inspect.Parameter.empty else p.default)
            for index, p in enumerate(parameters)
        }
        names = tuple(parameter.name for parameter in parameters)
        config = ConfigDict(extra="forbid", alias_generator=dict(zip(fields, names, strict=True)).__getitem__)
        return cls(names=names, model=create_model(f"{where}.arguments", __config__=config, **fields))

    def read(self, payload: Any) -> dict[str, Any]:
        """The keyword arguments.

        Raises:
            pydantic.ValidationError: the payload does not fit.
        """
        if self.whole is not None:
            if payload is None and self.optional:
                return {}
            return {self.whole_name: checked(self.whole, payload)}
        if not self.names and payload is None:
            return {}
        assert self.model is not None
        values = self.model.model_validate({} if payload is None else payload)
        return dict(zip(self.names, (getattr(values, field) for field in self.model.model_fields), strict=True))

    def write(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """The payload for a call with these arguments, checked first.

        Raises:
            pydantic.ValidationError: they do not fit.
            TypeError: too many, unknown or twice.
            InvalidMessage: one can't be sent.
        """
        names = (self.whole_name,) if self.whole is not None else self.names
        if len(args) > len(names):
            raise TypeError(f"takes {len(names)} arguments, not {len(args)}")
        named = dict(zip(names, args, strict=False))
        for name, value in kwargs.items():
            if name not in names:
                raise TypeError(f"takes no argument {name!r}; there are: {', '.join(names) or 'none'}")
            if name in named:
                raise TypeError(f"argument {name!r} is given twice")
            named[name] = value
        if self.whole is not None:
            if not named and self.optional:
                return None
            if not named:
                raise TypeError(f"needs the argument {self.whole_name!r}")
            return plain(checked(self.whole, named[self.whole_name]))
        assert self.model is not None
        values = self.model.model_validate(named)
        return plain(values.model_dump(by_alias=True, include=values.model_fields_set))

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
        return of.max_attempts, of.retry_delays, of.timeout, of.unique_for

    for other in others:
        if other.options is not None and other.options.group == options.group and shared(other.options) != shared(options):
            raise ConfigurationError(
                f"{service.__qualname__}: the event handlers of group {options.group!r} share one queue and must agree on"
                " max_attempts, retry_delays, timeout and unique_for; give one of them another group"
            )


def _method(attribute: str, function: Callable[..., Any], options: RpcOptions) -> MethodContract:
    returns = _hints(function).get("return", Any)
    streams = inspect.isasyncgenfunction(function)
    if not streams:
        _check_kind(f"{function.__qualname__}: the result", returns)
    return MethodContract(
        name=options.name or attribute,
        attribute=attribute,
        options=options,
        arguments=Arguments.of(function),
        returns=returns,
        streams=streams,
    )
