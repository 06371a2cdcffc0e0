"""A hub that is watched. One that is not pays nothing: it is another class."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, aclosing, contextmanager
from functools import wraps
from inspect import isasyncgenfunction
from typing import Any, cast

from fabric.caller import Caller
from fabric.context import current_call
from fabric.contract import contract_of
from fabric.hub import Hub
from fabric.inflow import Inflow
from fabric.observe.observer import End, Gauge, Observer, Step, StepKind
from fabric.routing.instance import Instance
from fabric.routing.route import Route
from fabric.served import Served
from fabric.transports.base import LinkEvent
from fabric.wire.message import Priority

_log = logging.getLogger("fabric.observed")


def observed(*observers: Observer) -> type[Hub]:
    """The hub to connect with in place of ``Hub``, watched by ``observers``.

    ```python
    async with observed(Metrics(), Tracing()).connect("checkout") as hub:
    ```
    """
    return type("ObservedHub", (ObservedHub,), {"observers": observers, "__module__": __name__}) if observers else Hub


class ObservedHub(Hub):
    """Made by ``observed``. Tells its observers of each call, event and handler, and where it stands."""

    observers: Sequence[Observer] = ()

    async def _open(self, stack: AsyncExitStack) -> None:
        self._caller = cast(Caller, _ObservedCaller(self._caller, self.observers))
        stack.callback(self.transport.watch(self._link_changed))
        for observer in self.observers:
            stack.callback(observer.watch(f"{self.name}/{self.instance}", self._gauges))
        await super()._open(stack)

    def _link_changed(self, event: LinkEvent) -> None:
        for observer in self.observers:
            observer.link(f"{self.name}/{self.instance}", "consumer restored" if event.consumer else event.state)

    def progressed(self, subject: str, name: str, state: str) -> None:
        """For whoever leads a start-up: something in it is in another state."""
        for observer in self.observers:
            observer.progress(subject, name, state)

    def _gauges(self) -> Iterable[Gauge]:
        yield Gauge(name="fabric_hub_pending_requests", labels=(), value=self.pending)
        yield Gauge(name="fabric_hub_late_answers", labels=(), value=self.late_answers)
        yield Gauge(name="fabric_hub_link_epoch", labels=(), value=self.transport.epoch)
        yield Gauge(name="fabric_hub_load", labels=(), value=self._served.load if self._served is not None else 0)
        for target, state in self.traffic.open_circuits.items():
            yield Gauge(name="fabric_hub_breaker_not_closed", labels=(("target", target), ("state", state)), value=1)

    async def publish(
        self,
        topic: str,
        payload: Any = None,
        *,
        priority: Priority = Priority.NORMAL,
        timeout: float = 10.0,
        headers: dict[str, Any] | None = None,
        id: str | None = None,
        key: str | None = None,
        delay: float | None = None,
    ) -> str:
        """As that of ``Hub``."""
        step = Step(kind=StepKind.PUBLISH, service=self.name, method=topic, headers=dict(headers or {}))
        with _Watched(self.observers, step):
            return await super().publish(
                topic, payload, priority=priority, timeout=timeout, headers=step.headers or None, id=id, key=key, delay=delay
            )

    async def serve(self, service: object, describe: Callable[[], Instance] | None = None) -> Served:
        """As that of ``Hub``. The handlers of ``service`` itself are replaced by watched ones."""
        contract = contract_of(type(service))
        methods = {method.attribute: method.name for method in contract.methods.values()}
        for attribute, name in methods.items():
            setattr(service, attribute, self._watched(service, attribute, StepKind.HANDLE, name))
        for handler in (*contract.events, *contract.broadcasts):
            patterns = " ".join(handler.patterns)
            setattr(service, handler.attribute, self._watched(service, handler.attribute, StepKind.CONSUME, patterns))
        return await super().serve(service, describe)

    def _watched(self, service: object, attribute: str, kind: StepKind, method: str) -> Callable[..., Any]:
        # From the class, so that an object that is served again is not watched twice.
        handler = getattr(type(service), attribute).__get__(service)

        def step() -> Step:
            call = current_call()
            if call is None:
                return Step(kind=kind, service=self.name, method=method, headers={})
            return Step(
                kind=kind,
                service=self.name,
                method=method,
                headers=dict(call.headers),
                attempt=call.attempt,
                caller=call.source,
            )

        @wraps(handler)
        async def whole(*args: Any, **values: Any) -> Any:
            with _Watched(self.observers, step()):
                return await handler(*args, **values)

        @wraps(handler)
        async def in_parts(*args: Any, **values: Any) -> AsyncIterator[Any]:
            with _Watched(self.observers, step()):
                async with aclosing(handler(*args, **values)) as parts:
                    async for part in parts:
                        yield part

        return in_parts if isasyncgenfunction(handler) else whole


class _ObservedCaller:
    """In front of a hub's caller."""

    def __init__(self, caller: Caller, observers: Sequence[Observer]) -> None:
        self._caller, self._observers = caller, observers

    async def call(
        self,
        route: Route,
        method: str,
        payload: Any,
        timeout: float | None = None,
        priority: Priority = Priority.NORMAL,
        idempotent: bool | None = None,
        headers: dict[str, Any] | None = None,
        instance: str | None = None,
        key: str | None = None,
        window: int = 0,
    ) -> Any | Inflow:
        step = Step(kind=StepKind.CALL, service=route.label, method=method, headers=dict(headers or {}))
        with _Watched(self._observers, step):
            return await self._caller.call(
                route, method, payload, timeout, priority, idempotent, step.headers or None, instance, key, window
            )

    def close(self) -> None:
        self._caller.close()


class _Watched:
    """A step from its beginning to its end."""

    __slots__ = ("_ends", "_observers", "_step")

    def __init__(self, observers: Sequence[Observer], step: Step) -> None:
        self._observers, self._step = observers, step
        self._ends: list[End] = []

    def __enter__(self) -> None:
        self._ends = [observer.begin(self._step) for observer in self._observers]

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        for end in reversed(self._ends):
            end(error)


@contextmanager
def observed_by_environment() -> Iterator[type[Hub]]:
    """The hub that ``FABRIC_METRICS`` (host:port at which scrapes are answered meanwhile) and ``FABRIC_TRACING`` (1) ask for.

    Raises:
        ConfigurationError: what is asked for is not installed, or the address can't be used.
    """
    observers: list[Observer] = []
    with ExitStack() as stack:
        if address := os.environ.get("FABRIC_METRICS", ""):
            # Loaded only by who asks for it.
            from fabric.observe.metrics import Metrics

            metrics = Metrics()
            stack.callback(metrics.serve(address))
            _log.info("metrics are at http://%s/metrics", metrics.address)
            observers.append(metrics)
        if os.environ.get("FABRIC_TRACING", "") in ("1", "true", "yes"):
            from fabric.observe.tracing import Tracing

            observers.append(Tracing())
        yield observed(*observers)
