"""Counters and times for Prometheus. Needs the extra ``observe``; nothing of it is loaded or counted unless it is asked for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from fabric.errors import ConfigurationError
from fabric.observe.observer import End, Gauge, Step, StepKind

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.core import GaugeMetricFamily

_MOST = 1000
"""Different services and methods that are told apart; what comes after them is counted together, as names may come from users."""
_OTHER = "(other)"
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_NAMES = {
    StepKind.CALL: ("fabric_call", "Calls that this process made, with all their attempts"),
    StepKind.HANDLE: ("fabric_handled", "Requests that handlers of this process ran"),
    StepKind.PUBLISH: ("fabric_publish", "Events that this process published"),
    StepKind.CONSUME: ("fabric_consumed", "Events and broadcasts that handlers of this process ran"),
}


class Metrics:
    """An observer that counts.

    Args:
        registry: where the metrics are; a new one otherwise, see ``exposition`` and ``serve``.

    Attributes:
        address: host:port at which scrapes are answered; empty before ``serve``.

    Raises:
        ConfigurationError: prometheus-client is not installed.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        try:
            import prometheus_client as prometheus
        except ImportError as error:
            raise ConfigurationError("metrics need prometheus-client: pip install 'fabric-mesh[observe]'") from error
        self.registry = registry if registry is not None else prometheus.CollectorRegistry()
        labels = ("service", "method")
        self._ended = {
            kind: prometheus.Counter(name, text, (*labels, "outcome"), registry=self.registry)
            for kind, (name, text) in _NAMES.items()
        }
        self._seconds = {
            kind: prometheus.Histogram(f"{name}_seconds", f"{text}: seconds", labels, buckets=_SECONDS, registry=self.registry)
            for kind, (name, text) in _NAMES.items()
        }
        self._repeated = prometheus.Counter(
            "fabric_handled_repeats",
            "Requests and events handled that were not the first attempt",
            labels,
            registry=self.registry,
        )
        self._links = prometheus.Counter("fabric_link_changes", "Changes of the link", ("hub", "state"), registry=self.registry)
        self._fleet = prometheus.Gauge(
            "fabric_startup_state", "1 for the state that it is in", ("subject", "name", "state"), registry=self.registry
        )
        self._states: dict[tuple[str, str], str] = {}
        self._known: set[tuple[str, str]] = set()
        self._hubs: dict[int, tuple[str, Callable[[], Iterable[Gauge]]]] = {}
        # A scrape comes from another thread while hubs open and close in the loop's.
        self._lock = threading.Lock()
        self.address = ""
        self.registry.register(_Standing(self._gauges))

    def begin(self, step: Step) -> End:
        service, method = self._names(step)
        counted, seconds = self._ended[step.kind], self._seconds[step.kind].labels(service, method)
        if step.attempt > 1:
            self._repeated.labels(service, method).inc()
        began = time.perf_counter()

        def end(error: BaseException | None) -> None:
            seconds.observe(time.perf_counter() - began)
            counted.labels(service, method, "ok" if error is None else type(error).__name__).inc()

        return end

    def watch(self, hub: str, gauges: Callable[[], Iterable[Gauge]]) -> Callable[[], None]:
        key = id(gauges)
        with self._lock:
            self._hubs[key] = (hub, gauges)

        def stop() -> None:
            with self._lock:
                self._hubs.pop(key, None)

        return stop

    def link(self, hub: str, state: str) -> None:
        self._links.labels(hub, state).inc()

    def progress(self, subject: str, name: str, state: str) -> None:
        if subject == "run":
            # Each has an id of its own, and only one is under way.
            name = ""
        before = self._states.get((subject, name))
        if before is not None:
            self._fleet.remove(subject, name, before)
        self._states[subject, name] = state
        self._fleet.labels(subject, name, state).set(1)

    def exposition(self) -> bytes:
        """All metrics in the text format of Prometheus."""
        from prometheus_client import generate_latest

        return generate_latest(self.registry)

    def serve(self, address: str) -> Callable[[], None]:
        """Answers scrapes at ``host:port`` in a thread of its own until the result is called; port 0 takes a free one.

        There is no password, so keep it on loopback or in a network of its own. It shows names and numbers, no payloads.

        Raises:
            ConfigurationError: the address is none, or is taken.
        """
        from prometheus_client import start_http_server

        host, _, port = address.rpartition(":")
        if not host or not port.isdigit():
            raise ConfigurationError(f"{address!r} is no address for metrics; write host:port, such as 127.0.0.1:9464")
        try:
            server, thread = start_http_server(int(port), host, self.registry)
        except (OSError, OverflowError) as error:
            raise ConfigurationError(f"metrics can't be served at {address}: {error}; choose another port, or 0") from error
        self.address = f"{host}:{server.server_port}"

        def stop() -> None:
            server.shutdown()
            server.server_close()
            thread.join()

        return stop

    def _names(self, step: Step) -> tuple[str, str]:
        names = step.service, step.method
        if names not in self._known:
            if len(self._known) >= _MOST:
                return _OTHER, _OTHER
            self._known.add(names)
        return names

    def _gauges(self) -> list[GaugeMetricFamily]:
        from prometheus_client.core import GaugeMetricFamily

        with self._lock:
            hubs = list(self._hubs.values())
        families: dict[str, GaugeMetricFamily] = {}
        for hub, gauges in hubs:
            for gauge in _read(gauges):
                family = families.get(gauge.name)
                if family is None:
                    labels = ["hub", *(label for label, _ in gauge.labels)]
                    family = families[gauge.name] = GaugeMetricFamily(gauge.name, gauge.name.replace("_", " "), labels=labels)
                family.add_metric([hub, *(value for _, value in gauge.labels)], gauge.value)
        return list(families.values())


def _read(gauges: Callable[[], Iterable[Gauge]]) -> list[Gauge]:
    """The loop goes on while another thread reads; what changed under its hands is read again."""
    for _ in range(3):
        try:
            return list(gauges())
        except RuntimeError:
            continue
    return []


class _Standing:
    """What prometheus-client asks at each scrape."""

    def __init__(self, gauges: Callable[[], list[Any]]) -> None:
        self._gauges = gauges

    def collect(self) -> list[Any]:
        return self._gauges()

    def describe(self) -> list[Any]:
        return []
