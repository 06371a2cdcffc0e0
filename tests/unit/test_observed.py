"""A hub that is watched: what observers are told, as metrics and as spans, and that nobody pays who did not ask."""

from __future__ import annotations

import asyncio
import itertools
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from fabric import Hub, Service, ServiceError, on_event, rpc
from fabric.config import Settings
from fabric.coordination.agent import Agent, AgentPolicy
from fabric.errors import ConfigurationError, NoInstance, RemoteError
from fabric.observe.metrics import Metrics
from fabric.observe.observer import Observer, Step, StepKind
from fabric.observe.tracing import Tracing
from fabric.observed import observed, observed_by_environment
from fabric.routing.instance import InstanceState
from fabric.testing import Bench
from fabric.transports.memory import MemoryNetwork, MemoryTransport
from fabric.transports.topology import Topology

SETTINGS = Settings(broker_url=None, heartbeat_interval=0.5, call_timeout=5.0, drain_timeout=2.0)


class Shop(Service):
    """Orders by asking its stock, and says so."""

    name = "shop"

    @rpc()
    async def order(self, item: str) -> str:
        found = await self.hub.call("stock", "take", {"item": item})
        await self.hub.publish("order.made", {"item": item})
        return str(found)


class Stock(Service):
    name = "stock"

    def __init__(self) -> None:
        self.seen = asyncio.Event()

    @rpc()
    async def take(self, item: str) -> str:
        if item == "none":
            raise ServiceError("sold out", code="stock.none")
        return f"one {item}"

    @rpc()
    async def shelves(self, count: int) -> AsyncIterator[int]:
        for number in range(count):
            yield number

    @on_event("order.*")
    async def made(self, event: dict[str, Any]) -> None:
        self.seen.set()


@asynccontextmanager
async def fleet(*observers: Observer, network: MemoryNetwork) -> AsyncIterator[tuple[Hub, Stock]]:
    """A client, a shop and its stock on one network, all watched."""
    kind = observed(*observers)
    stock = Stock()

    def link() -> MemoryTransport:
        return MemoryTransport(network, Topology(SETTINGS.namespace))

    async with (
        kind.connect("stock", transport=link(), settings=SETTINGS) as second,
        kind.connect("shop", transport=link(), settings=SETTINGS) as first,
        kind.connect("client", transport=link(), settings=SETTINGS) as hub,
    ):
        agents = [Agent(second, stock, AgentPolicy(check_interval=0.5)), Agent(first, Shop(), AgentPolicy(check_interval=0.5))]
        try:
            for agent in agents:
                await agent.open(managed=False)
                await agent.wait_state(InstanceState.RUNNING, timeout=10.0)
            yield hub, stock
        finally:
            for agent in reversed(agents):
                await agent.aclose()


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


async def test_calls_handlers_and_events_are_counted_by_outcome() -> None:
    """Of each method both sides know how often it ended and how, and how long it took; a failure by its class."""
    metrics = Metrics()
    async with Bench() as bench, fleet(metrics, network=bench.network) as (hub, stock):
        assert await hub.call("shop", "order", {"item": "pen"}) == "one pen"
        with pytest.raises(RemoteError):
            await hub.call("stock", "take", {"item": "none"})
        with pytest.raises(NoInstance):
            await hub.call("nobody", "ask", timeout=0.2)
        assert [part async for part in hub.stream("stock", "shelves", {"count": 3}, returns=int)] == [0, 1, 2]
        await asyncio.wait_for(stock.seen.wait(), 5)
        text = metrics.exposition().decode()
    assert value(metrics, "fabric_call_total", service="shop", method="order", outcome="ok") == 1
    assert value(metrics, "fabric_call_total", service="stock", method="take", outcome="ok") == 1
    assert value(metrics, "fabric_call_total", service="stock", method="take", outcome="RemoteError") == 1
    assert value(metrics, "fabric_call_total", service="nobody", method="ask", outcome="NoInstance") == 1
    assert value(metrics, "fabric_handled_total", service="stock", method="take", outcome="ServiceError") == 1
    assert value(metrics, "fabric_handled_total", service="stock", method="shelves", outcome="ok") == 1
    assert value(metrics, "fabric_publish_total", service="shop", method="order.made", outcome="ok") == 1
    assert value(metrics, "fabric_consumed_total", service="stock", method="order.*", outcome="ok") == 1
    assert value(metrics, "fabric_call_seconds_count", service="stock", method="take") == 2
    assert 'fabric_hub_pending_requests{hub="client/' in text
    assert 'fabric_hub_load{hub="stock/' in text


async def test_a_link_that_breaks_and_an_open_breaker_are_seen() -> None:
    """A reconnect is counted by the states of the link; a target whose breaker is open is a gauge for as long as it is."""
    metrics = Metrics()
    async with Bench() as bench, fleet(metrics, network=bench.network) as (hub, _):
        name = f"client/{hub.instance}"
        ready = asyncio.Event()
        hub.transport.watch(lambda event: ready.set() if event.state == "ready" else None)
        bench.network.cut(hub.transport)  # type: ignore[arg-type]
        await asyncio.wait_for(ready.wait(), 5)
        assert (value(metrics, "fabric_link_changes_total", hub=name, state="ready") or 0) >= 1
        assert (value(metrics, "fabric_link_changes_total", hub=name, state="reconnecting") or 0) >= 1
        hub.traffic.isolate("stock")
        assert value(metrics, "fabric_hub_breaker_not_closed", hub=name, target="stock", state="open") == 1
        hub.traffic.restore("stock")
        assert value(metrics, "fabric_hub_breaker_not_closed", hub=name, target="stock", state="open") is None
    assert value(metrics, "fabric_hub_load", hub=name) is None


async def test_spans_of_one_call_are_one_trace_and_events_are_linked() -> None:
    """From the client through both services each span has the one before as its parent; the event's handler is linked."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    async with Bench() as bench, fleet(Tracing(provider), network=bench.network) as (hub, stock):
        await hub.call("shop", "order", {"item": "pen"})
        await asyncio.wait_for(stock.seen.wait(), 5)
    spans = {(span.name, str(span.kind.name)): span for span in exporter.get_finished_spans()}
    way = [("shop.order", "CLIENT"), ("shop.order", "SERVER"), ("stock.take", "CLIENT"), ("stock.take", "SERVER")]
    for before, after in itertools.pairwise(way):
        assert parent_of(spans[after]) == spans[before].get_span_context().span_id  # type: ignore[union-attr]
    published, consumed = spans["publish order.made", "PRODUCER"], spans["stock.order.*", "CONSUMER"]
    assert parent_of(published) == spans["shop.order", "SERVER"].get_span_context().span_id  # type: ignore[union-attr]
    assert consumed.parent is None
    assert [link.context.span_id for link in consumed.links] == [published.get_span_context().span_id]  # type: ignore[union-attr]


def parent_of(span: ReadableSpan) -> int | None:
    return span.parent.span_id if span.parent is not None else None


async def test_a_failed_span_says_so_and_the_next_is_not_below_it() -> None:
    """An error is in the span's status; what comes after it in the same task is a trace of its own."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    async with Bench() as bench, fleet(Tracing(provider), network=bench.network) as (hub, _):
        for _ in range(2):
            with pytest.raises(RemoteError):
                await hub.call("stock", "take", {"item": "none"})
    calls = [span for span in exporter.get_finished_spans() if span.kind.name == "CLIENT"]
    assert [span.status.status_code.name for span in calls] == ["ERROR", "ERROR"]
    assert [span.parent for span in calls] == [None, None]
    assert (calls[0].attributes or {})["error.type"] == "RemoteError"


async def test_an_object_served_again_is_watched_once() -> None:
    """Each connection watches the handlers of the class anew, not those that the last one put there."""
    steps: list[Step] = []

    class Noting:
        def begin(self, step: Step) -> Any:
            steps.append(step)
            return lambda error: None

        def watch(self, hub: str, gauges: Any) -> Any:
            return lambda: None

        def link(self, hub: str, state: str) -> None:
            return None

        def progress(self, subject: str, name: str, state: str) -> None:
            return None

    kind, stock = observed(Noting()), Stock()
    async with Bench() as bench:
        for _ in range(2):
            link = MemoryTransport(bench.network, Topology(SETTINGS.namespace))
            async with kind.connect("stock", transport=link, settings=SETTINGS) as hub:
                agent = Agent(hub, stock, AgentPolicy(check_interval=0.5))
                await agent.open(managed=False)
                await agent.wait_state(InstanceState.RUNNING, timeout=10.0)
                steps.clear()
                client = await bench.hub()
                await client.call("stock", "take", {"item": "pen"}, instance=hub.instance)
                await agent.aclose()
            assert [step.kind for step in steps] == [StepKind.HANDLE]
            assert (steps[0].caller, steps[0].attempt) == ("test", 1)


def test_names_that_come_from_users_do_not_grow_without_end() -> None:
    """After a thousand different topics further ones are counted together."""
    metrics = Metrics()
    for number in range(3000):
        metrics.begin(Step(kind=StepKind.PUBLISH, service="a", method=f"user.{number}", headers={}))(None)
    assert value(metrics, "fabric_publish_total", service="(other)", method="(other)", outcome="ok") == 2000


def test_a_fleet_has_one_state_for_each_service() -> None:
    """The progress of a start-up as gauges: the state that a service left is gone."""
    metrics = Metrics()
    for state in ("waiting", "starting", "ready"):
        metrics.progress("service", "db", state)
        metrics.progress("run", f"run-{state}", state)
    text = metrics.exposition().decode()
    assert text.count('subject="run"') == 1
    assert 'fabric_startup_state{name="db",state="ready",subject="service"} 1.0' in text
    assert 'state="waiting"' not in text


def test_scrapes_are_answered_at_an_address() -> None:
    """Port 0 takes a free one; an address that is none is refused with an example."""
    metrics = Metrics()
    stop = metrics.serve("127.0.0.1:0")
    try:
        metrics.begin(Step(kind=StepKind.CALL, service="a", method="b", headers={}))(None)
        with urllib.request.urlopen(f"http://{metrics.address}/metrics", timeout=5) as answer:
            assert b'fabric_call_total{method="b",outcome="ok",service="a"} 1.0' in answer.read()
        with pytest.raises(ConfigurationError, match="can't be served"):
            Metrics().serve(metrics.address)
    finally:
        stop()
    for wrong in ("9464", "localhost:", "localhost:http"):
        with pytest.raises(ConfigurationError, match=r"such as 127\.0\.0\.1:9464"):
            Metrics().serve(wrong)


def test_the_environment_asks_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """``FABRIC_METRICS`` and ``FABRIC_TRACING`` choose the hub of a process; without them it is the plain one."""
    monkeypatch.delenv("FABRIC_METRICS", raising=False)
    monkeypatch.delenv("FABRIC_TRACING", raising=False)
    with observed_by_environment() as kind:
        assert kind is Hub
    monkeypatch.setenv("FABRIC_METRICS", "127.0.0.1:0")
    monkeypatch.setenv("FABRIC_TRACING", "1")
    with observed_by_environment() as kind:
        assert [type(observer) for observer in getattr(kind, "observers", ())] == [Metrics, Tracing]


@pytest.mark.parametrize("module", ["fabric.observed", "fabric.coordination.host"])
def test_nothing_is_loaded_that_nobody_asked_for(module: str) -> None:
    """Who does not ask for metrics or traces loads neither library."""
    code = f"import sys, {module}; print([name for name in ('prometheus_client', 'opentelemetry') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra the error says what to install."""

    def hidden(names: Iterable[str]) -> None:
        for name in names:
            monkeypatch.setitem(sys.modules, name, None)

    hidden(["prometheus_client", "opentelemetry", "opentelemetry.context", "opentelemetry.trace"])
    for kind in (Metrics, Tracing):
        with pytest.raises(ConfigurationError, match=r"fabric-mesh\[observe\]"):
            kind()
