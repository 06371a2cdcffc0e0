"""Remote calls in the shape of local methods."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from pydantic import ValidationError

from fabric.contract import ServiceContract
from fabric.errors import ValidationFailed
from fabric.values import problems
from fabric.wire.message import Priority

Call = Callable[..., Awaitable[Any]]


class Proxy:
    """Remote calls in the shape of a service's methods; see ``Hub.proxy``."""

    def __init__(
        self, call: Call, stream: Callable[..., Any], contract: ServiceContract, timeout: float | None, priority: Priority
    ) -> None:
        self._call, self._stream, self._contract = call, stream, contract
        self._timeout, self._priority = timeout, priority
        self._methods = {method.attribute: method for method in contract.methods.values()}

    def __getattr__(self, attribute: str) -> Callable[..., Any]:
        method = self._methods.get(attribute)
        if method is None:
            raise AttributeError(f"{self._contract.name} has no method {attribute!r} marked with @rpc")

        def payload(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            try:
                return method.arguments.write(args, kwargs)
            except (ValidationError, TypeError) as error:
                raise ValidationFailed(
                    f"the arguments do not fit: {error if isinstance(error, TypeError) else ''}".rstrip(": "),
                    errors=problems(error) if isinstance(error, ValidationError) else (),
                    service=self._contract.name,
                    method=method.name,
                ) from None

        options = {
            "returns": method.returns,
            "timeout": self._timeout,
            "priority": self._priority,
            "idempotent": method.options.idempotent,
        }

        async def call(*args: Any, **kwargs: Any) -> Any:
            return await self._call(self._contract.name, method.name, payload(args, kwargs), **options)

        def stream(*args: Any, **kwargs: Any) -> Any:
            return self._stream(self._contract.name, method.name, payload(args, kwargs), **options)

        return stream if method.streams else call
