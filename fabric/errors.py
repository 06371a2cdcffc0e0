"""Every error that Fabric raises, and what each says about the work that was asked for.

```
FabricError
├── ConfigurationError              a setting, policy or fleet file is wrong; nothing was started
│   ├── UnknownName                 a service, stage or method that nobody defines
│   └── DependencyCycle             services that wait for each other; carries the full path
├── MessageError                    bytes or values that are not a Fabric message
│   ├── InvalidMessage              hostile, damaged or of another protocol
│   └── PayloadTooLarge             over the configured limit; also an outcome of a call
├── TransportError                  the link to the broker
│   ├── NotSent                     the broker never had it
│   ├── NoRoute                     the broker had nowhere to put it
│   ├── ConnectionLost              the link broke after sending: unknown whether it arrived
│   ├── TransportClosed             closed by us
│   └── TopologyConflict            the broker has a queue of this name with other properties
├── CallError                       the outcome of one call, with its facts
│   ├── NoInstance                  nobody alive offers it              not executed
│   ├── CallNotSent                 could not leave this process        not executed
│   ├── ExpiredInQueue              its deadline passed before it ran   not executed
│   ├── Overloaded                  refused by the callee, retry later  not executed
│   ├── CircuitOpen                 not tried: it failed too often      not executed
│   ├── NotAllowed                  the method is not for this caller   not executed
│   ├── ValidationFailed            the arguments or the result do not fit the contract
│   ├── Cancelled                   the handler was cancelled           unknown: in part, or not at all
│   ├── InstanceLost                the callee died with it             unknown
│   ├── LinkLost                    our link died with it               unknown
│   ├── DeadlineExceeded            no answer in time                   unknown
│   └── RemoteError                 the handler raised                  executed
├── ServiceError                    what a handler raises to choose what the caller sees
└── StartupError                    a run of the fleet did not reach its goal
    ├── StartupFailed               something critical did not come up; carries the profile
    ├── StaleCommand                from a coordinator that no longer leads
    └── IllegalTransition           a life-cycle step that does not exist
```

``executed`` is ``False`` when the work provably did not run, ``True`` when it ran, ``None`` when nobody can know.
Only what provably did not run is retried without asking.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar


class FabricError(Exception):
    """The root. ``advice`` says what to do next and is part of the text."""

    advice: ClassVar[str] = ""

    @property
    def text(self) -> str:
        """What happened, without the advice."""
        return super().__str__()

    def __str__(self) -> str:
        return f"{self.text} ({self.advice})" if self.advice else self.text

    def __reduce__(self) -> tuple[Any, ...]:
        """With its attributes, so that it can leave a worker process: constructors differ too much for the default."""
        return _restored, (type(self), self.args, self.__dict__)


def _restored(kind: type[FabricError], args: tuple[Any, ...], state: dict[str, Any]) -> FabricError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(state)
    return error


class ConfigurationError(FabricError):
    """A setting, a policy or a fleet file is wrong. ``source`` is ``file:line`` where it is known."""

    def __init__(self, message: str, *, source: str | None = None) -> None:
        super().__init__(f"{source}: {message}" if source else message)
        self.source = source


class UnknownName(ConfigurationError):
    """``name`` is used but defined nowhere; ``known`` lists what is."""

    def __init__(self, kind: str, name: str, *, used_by: str, known: Sequence[str] = (), source: str | None = None) -> None:
        self.kind, self.name, self.used_by, self.known = kind, name, used_by, tuple(known)
        from difflib import get_close_matches

        near = get_close_matches(name, self.known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; known are: {', '.join(sorted(self.known)) or 'none'}"
        super().__init__(f"{used_by} names the {kind} {name!r}, which is not defined{hint}", source=source)


class DependencyCycle(ConfigurationError):
    """Services that wait for each other.

    ``path`` starts and ends with the same service: ``("a", "b", "a")`` says that a needs b and b needs a. ``sources`` has
    the ``file:line`` of each edge, or ``None``. ``others`` are the paths of further cycles; making the edges ``relax``
    optional breaks them all, and ``exact`` says that no smaller set does.
    """

    def __init__(
        self,
        path: Sequence[str],
        *,
        sources: Sequence[str | None] = (),
        others: Sequence[Sequence[str]] = (),
        relax: Sequence[tuple[str, str]] = (),
        exact: bool = False,
    ) -> None:
        self.path, self.sources = tuple(path), tuple(sources)
        self.others, self.relax, self.exact = tuple(tuple(other) for other in others), tuple(relax), exact
        lines = [f"dependency cycle: {' -> '.join(self.path)}"]
        for a, b, source in zip(self.path, self.path[1:], (*sources, *[None] * len(path)), strict=False):
            lines.append(f"  {a} needs {b}" + (f"   {source}" if source else ""))
        if others:
            lines.append(f"and {len(others)} more:")
            lines.extend(f"  {' -> '.join(other)}" for other in self.others[:20])
        if relax:
            edges = ", ".join(f"{a} -> {b}" for a, b in self.relax)
            fewest = "no fewer will do" if exact else "fewer may do"
            lines.append(f"make optional or remove {edges}, which breaks every cycle ({fewest})")
        else:
            lines.append("make one of these edges optional or remove it")
        super().__init__("\n".join(lines))


class MessageError(FabricError):
    """Bytes or values that are not a Fabric message."""


class InvalidMessage(MessageError):
    """Refused before anything in it was used. ``reason`` names the rule that it broke."""

    advice = "correct it where it is sent"

    def __init__(self, reason: str) -> None:
        super().__init__(f"not a valid message: {reason}")
        self.reason = reason


class PayloadTooLarge(MessageError):
    """``size`` and ``limit`` in bytes. Nothing was sent."""

    advice = "send less, stream it in parts, or raise max_message_bytes on both sides"
    executed: ClassVar[bool | None] = False

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(f"a message of {size} bytes is over the limit of {limit}")
        self.size, self.limit = size, limit


class TransportError(FabricError):
    """The link to the broker."""


class NotSent(TransportError):
    """The broker never had it."""

    advice = "it may be sent again without harm"


class NoRoute(TransportError):
    """The broker had nowhere to put it: no queue is bound to ``exchange`` with ``key``."""

    advice = "start what should receive it, or check the name and the namespace"

    def __init__(self, exchange: str, key: str) -> None:
        super().__init__(f"nothing is bound to {exchange or 'the default exchange'!r} with key {key!r}")
        self.exchange, self.key = exchange, key


class ConnectionLost(TransportError):
    """The link broke after sending: nobody knows whether it arrived."""

    advice = "is the broker reachable? what was being sent may have arrived"


class TransportClosed(TransportError):
    """We closed it ourselves; nothing more can be sent."""

    advice = "make a new connection"


class TopologyConflict(TransportError):
    """The broker has ``name`` with other properties, which can't be changed in place."""

    advice = "drain and delete the old one, or give the new one another name; fabric doctor shows what is there"

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name!r} is on the broker with other properties: {reason}")
        self.name, self.reason = name, reason


class CallError(FabricError):
    """The outcome of one call, with its facts.

    Attributes:
        service: the name that was called, or ``capability:NAME``.
        instance: the instance that had it last, if any.
        method: the method.
        attempt: how many instances had been tried, from 1.
        elapsed: seconds since the call began.
        remaining: seconds that were left of its deadline.
        executed: whether the handler ran; ``None`` is unknown.
        ended_at: how far it got: ``caller``, ``link``, ``callee`` (refused before it ran) or ``handler``.
    """

    executed: bool | None = None
    summary: ClassVar[str] = "the call failed"
    ended_at: ClassVar[str] = "caller"

    def __init__(
        self,
        reason: str = "",
        *,
        service: str,
        method: str,
        instance: str | None = None,
        attempt: int = 1,
        elapsed: float = 0.0,
        remaining: float = 0.0,
    ) -> None:
        self.reason, self.service, self.method = reason, service, method
        self.instance, self.attempt, self.elapsed, self.remaining = instance, attempt, elapsed, remaining
        at = f" on {instance}" if instance else ""
        super().__init__(
            f"{service}.{method}{at}: {self.summary}{': ' + reason if reason else ''} "
            f"[attempt {attempt}, {elapsed * 1000:.0f} ms]"
        )

    @property
    def retryable(self) -> bool:
        """Whether another attempt is safe without knowing the method."""
        return self.executed is False


class NoInstance(CallError):
    """Nobody alive offers it. Known within one round trip, not at the timeout."""

    executed = False
    summary = "no live instance"
    advice = "start it, or check the name and the namespace; fabric status shows who is there"


class CallNotSent(CallError):
    """It could not leave this process before its deadline."""

    executed = False
    summary = "not sent"
    advice = "it may be called again without harm; fabric doctor examines the broker"


class ExpiredInQueue(CallError):
    """Its deadline passed before a handler was free. It did not run."""

    executed = False
    summary = "expired before it ran"
    ended_at = "callee"
    advice = "add instances, raise the method's concurrency or give the call more time"


class Overloaded(CallError):
    """Refused by the callee. ``retry_after`` in seconds; ``draining`` says that it takes no calls at all at present."""

    executed = False
    summary = "refused by an overloaded or draining instance"
    ended_at = "callee"
    advice = "call again later, add instances or raise the method's concurrency"

    def __init__(self, reason: str = "", *, retry_after: float = 0.0, draining: bool = False, **facts: Any) -> None:
        super().__init__(reason, **facts)
        self.retry_after, self.draining = retry_after, draining


class CircuitOpen(CallError):
    """Not tried, because it failed too often lately. ``retry_after`` in seconds."""

    executed = False
    summary = "circuit open"
    advice = "call again after retry_after seconds, or answer without it"

    def __init__(self, reason: str = "", *, retry_after: float = 0.0, **facts: Any) -> None:
        super().__init__(reason, **facts)
        self.retry_after = retry_after

    @property
    def retryable(self) -> bool:
        return False


class NotAllowed(CallError):
    """The method names who may call it, and this caller is not among them."""

    executed = False
    summary = "not allowed"
    advice = "call as a user whom its @rpc(callers=...) names; fabric permissions prints how to make users"
    ended_at = "callee"

    @property
    def retryable(self) -> bool:
        return False


class ValidationFailed(CallError):
    """The arguments or the result do not fit the contract. ``errors`` are pydantic's, without the input values.

    ``executed`` is ``True`` when it is the result that does not fit.
    """

    summary = "does not fit the contract"
    advice = "compare it with the method's type hints in the version that runs there"
    ended_at = "callee"

    def __init__(
        self, reason: str = "", *, errors: Sequence[Mapping[str, Any]] = (), executed: bool = False, **facts: Any
    ) -> None:
        super().__init__(reason, **facts)
        self.errors = tuple(errors)
        self.executed = executed

    @property
    def retryable(self) -> bool:
        return False


class Cancelled(CallError):
    """The handler was cancelled by something else than the end of its deadline: it ran in part, or not at all."""

    summary = "cancelled"
    advice = "call again if it may run twice and is still wanted"
    ended_at = "handler"

    @property
    def retryable(self) -> bool:
        return False


class InstanceLost(CallError):
    """The instance died while it had the call: it may have run."""

    summary = "the instance was lost"
    ended_at = "link"
    advice = "declare the method idempotent to have such calls retried"


class LinkLost(CallError):
    """Our link to the broker broke while the call was under way: it may have run."""

    summary = "the link to the broker was lost"
    ended_at = "link"
    advice = "declare the method idempotent to have such calls retried"


class DeadlineExceeded(CallError):
    """No answer in time: it may have run."""

    summary = "no answer before the deadline"
    ended_at = "link"
    advice = "is the callee slow or stuck? fabric status shows its load; a larger timeout= gives it more time"


class RemoteError(CallError):
    """The handler raised.

    Attributes:
        type: the class name of the exception there.
        code: a stable name for programs, if the service gave one.
        details: whatever the service added, plain data.
        expected: the service refused on purpose, with a ``ServiceError``: nothing is wrong with it.
        retried_below: it comes of a call that the service made itself, and tried again as far as its budget went. Whoever
            tries this one again multiplies that, so it is not done without asking.
    """

    executed = True
    summary = "the handler failed"
    ended_at = "handler"
    advice = "the log of the service has more"

    def __init__(
        self,
        reason: str = "",
        *,
        type: str = "Exception",
        code: str | None = None,
        retryable: bool = False,
        details: Mapping[str, Any] | None = None,
        expected: bool = False,
        retried_below: bool = False,
        **facts: Any,
    ) -> None:
        super().__init__(f"{type}: {reason}", **facts)
        self.type, self.code, self.details, self.expected = type, code, dict(details or {}), expected
        self.retried_below = retried_below
        self.remote_reason = reason
        self._retryable = retryable

    @property
    def retryable(self) -> bool:
        return self._retryable


class ServiceError(FabricError):
    """Raise this in a handler to choose what the caller sees.

    Args:
        message: for people.
        code: a stable name for programs, such as ``todo.not-found``.
        retryable: whether the same call may succeed elsewhere or later.
        details: plain data.
    """

    def __init__(
        self, message: str, *, code: str | None = None, retryable: bool = False, details: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(message)
        self.message, self.code, self.retryable, self.details = message, code, retryable, dict(details or {})


class StartupError(FabricError):
    """A run of the fleet did not reach its goal."""


class StartupFailed(StartupError):
    """Something critical did not come up. ``profile`` has all the facts, ``profile.report`` the causes."""

    advice = "correct the cause that is named first, and start again"

    def __init__(self, message: str, *, profile: Any) -> None:
        super().__init__(message)
        self.profile = profile


class StaleCommand(StartupError):
    """From a coordinator that no longer leads: ``epoch`` is below ``highest``."""

    advice = "ask the coordinator that leads"

    def __init__(self, epoch: int, highest: int) -> None:
        super().__init__(f"a command of epoch {epoch} was refused: epoch {highest} leads")
        self.epoch, self.highest = epoch, highest


class IllegalTransition(StartupError):
    """A life-cycle step that does not exist."""

    def __init__(self, subject: str, current: str, wanted: str, allowed: Sequence[str]) -> None:
        super().__init__(
            f"{subject} is {current} and can't become {wanted}; from there it can become: {', '.join(allowed) or 'nothing'}"
        )
        self.subject, self.current, self.wanted, self.allowed = subject, current, wanted, tuple(allowed)
