"""Spans for OpenTelemetry. Needs the extra ``observe`` and, to send them anywhere, an SDK that the program sets up.

The context travels as ``traceparent`` in the headers of messages (W3C Trace Context), so other languages can join in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from fabric.errors import ConfigurationError
from fabric.observe.observer import End, Gauge, Step, StepKind

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider


class Tracing:
    """An observer that makes a span of each step.

    A call and what handles it are one trace. An event is handled in a trace of its own, linked to the one it was published
    in: it may be handled hours later, and many times.

    Args:
        provider: makes the tracer; the global one otherwise.

    Raises:
        ConfigurationError: opentelemetry-api is not installed.
    """

    def __init__(self, provider: TracerProvider | None = None) -> None:
        try:
            from opentelemetry import context, trace
            from opentelemetry.trace.propagation import tracecontext
        except ImportError as error:
            raise ConfigurationError("tracing needs opentelemetry-api: pip install 'fabric-mesh[observe]'") from error
        self._trace, self._context = trace, context
        self._tracer = trace.get_tracer("fabric", tracer_provider=provider)
        self._headers = tracecontext.TraceContextTextMapPropagator()
        self._kinds = {
            StepKind.CALL: trace.SpanKind.CLIENT,
            StepKind.HANDLE: trace.SpanKind.SERVER,
            StepKind.PUBLISH: trace.SpanKind.PRODUCER,
            StepKind.CONSUME: trace.SpanKind.CONSUMER,
        }

    def begin(self, step: Step) -> End:
        trace, context = self._trace, self._context
        parent, links = None, []
        if step.kind in (StepKind.HANDLE, StepKind.CONSUME):
            sent = self._headers.extract({key: value for key, value in step.headers.items() if isinstance(value, str)})
            sender = trace.get_current_span(sent).get_span_context()
            parent = sent if step.kind is StepKind.HANDLE else context.Context()
            links = [trace.Link(sender)] if step.kind is StepKind.CONSUME and sender.is_valid else []
        span = self._tracer.start_span(
            f"{step.service}.{step.method}" if step.kind is not StepKind.PUBLISH else f"publish {step.method}",
            context=parent,
            kind=self._kinds[step.kind],
            links=links,
            attributes=self._attributes(step),
        )
        current = trace.set_span_in_context(span, parent)
        if step.kind in (StepKind.CALL, StepKind.PUBLISH):
            self._headers.inject(step.headers, current)
        token = context.attach(current)

        def end(error: BaseException | None) -> None:
            context.detach(token)
            if error is not None:
                span.set_attribute("error.type", type(error).__name__)
                span.set_status(trace.StatusCode.ERROR, str(error))
            span.end()

        return end

    def watch(self, hub: str, gauges: Callable[[], Iterable[Gauge]]) -> Callable[[], None]:
        """Spans have no use for where a hub stands."""
        return lambda: None

    def link(self, hub: str, state: str) -> None:
        """A change of the link is noted in the span that is current, if there is one."""
        self._trace.get_current_span().add_event("fabric.link", {"hub": hub, "state": state})

    def progress(self, subject: str, name: str, state: str) -> None:
        """A start-up has a profile of its own, which says more."""

    def _attributes(self, step: Step) -> dict[str, str | int]:
        if step.kind in (StepKind.PUBLISH, StepKind.CONSUME):
            found: dict[str, str | int] = {"messaging.system": "fabric", "messaging.destination.name": step.method}
        else:
            found = {"rpc.system": "fabric", "rpc.service": step.service, "rpc.method": step.method}
        if step.caller:
            found |= {"fabric.caller": step.caller, "fabric.attempt": step.attempt}
        return found
