"""How a payload becomes the arguments of a method, and back."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, NotRequired, Required, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter
from pydantic.fields import FieldInfo
from typing_extensions import TypedDict, is_typeddict

from fabric.errors import ConfigurationError
from fabric.values import adapter_of, checked, first_line, plain

_typed_dict: Any = TypedDict
"""Under another name, because type checkers want to know the fields of one that is made by its own."""


def _takes_whole_payload(kind: Any) -> bool:
    if get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    return isinstance(kind, type) and (issubclass(kind, BaseModel) or dataclasses.is_dataclass(kind) or is_typeddict(kind))


def hints_of(function: Callable[..., Any]) -> dict[str, Any]:
    """The hints of a function, with postponed ones evaluated.

    Raises:
        ConfigurationError: one names what is not there.
    """
    try:
        return get_type_hints(function, include_extras=True)
    except Exception as error:  # whatever evaluating an annotation raises
        raise ConfigurationError(
            f"{function.__qualname__}: a type hint can't be read: {error}; define or import what it names at the top of the"
            " module, not inside a function or under TYPE_CHECKING"
        ) from error


def check_kind(where: str, kind: Any) -> None:
    """A hint that nothing can be checked against is found here, not by the first call.

    Raises:
        ConfigurationError: ``kind`` is such a hint.
    """
    try:
        adapter_of(kind)
    except Exception as error:
        raise ConfigurationError(
            f"{where}: {getattr(kind, '__name__', kind)} can't be sent; use plain types, a pydantic model, a dataclass or"
            f" a TypedDict ({first_line(error)})"
        ) from error


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
    named: TypeAdapter[dict[str, Any]] | None = None
    check: Callable[[Any], Any] | None = None

    @classmethod
    def of(cls, function: Callable[..., Any], *, event: bool = False) -> Arguments:
        hints = hints_of(function)
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
            if isinstance(parameter.default, FieldInfo):
                raise ConfigurationError(
                    f"{where}: parameter {parameter.name!r} has a Field as default; write Annotated[..., Field(...)] = default"
                )
            check_kind(f"{where}: parameter {parameter.name!r}", hints[parameter.name])
        if event and len(parameters) != 1:
            raise ConfigurationError(f"{where}: an event or broadcast handler takes exactly one parameter")
        if len(parameters) == 1 and (event or _takes_whole_payload(hints[parameters[0].name])):
            only = parameters[0]
            whole = hints[only.name]
            check = adapter_of(whole).validator.validate_python
            return cls(whole=whole, whole_name=only.name, optional=only.default is not inspect.Parameter.empty, check=check)
        fields = {
            p.name: Required[hints[p.name]]
            if p.default is inspect.Parameter.empty
            else NotRequired[Annotated[hints[p.name], Field(default=p.default)]]
            for p in parameters
        }
        kind: Any = _typed_dict(f"{where}.arguments", fields)
        kind.__pydantic_config__ = ConfigDict(extra="forbid")
        named = TypeAdapter(kind)
        # Each request passes here; the adapter's own method only adds options that nobody gives.
        return cls(names=tuple(fields), named=named, check=named.validator.validate_python)

    def read(self, payload: Any) -> dict[str, Any]:
        """The keyword arguments.

        Raises:
            pydantic.ValidationError: the payload does not fit.
        """
        check = self.check
        assert check is not None
        if self.whole is not None:
            return {} if payload is None and self.optional else {self.whole_name: check(payload)}
        if payload is None:
            return check({}) if self.names else {}
        named: dict[str, Any] = check(payload)
        return named

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
        assert self.named is not None
        values = self.named.validate_python(named)
        return plain(self.named.dump_python({name: values[name] for name in named}, by_alias=True))

    @property
    def adapter(self) -> TypeAdapter[Any]:
        """What a payload is checked against."""
        if self.whole is not None:
            return adapter_of(self.whole)
        assert self.named is not None
        return self.named

    def schema(self) -> dict[str, Any]:
        return self.adapter.json_schema()
