"""The broker of a measurement: started for it alone, with the processor time of that one and of no other."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

import psutil

from benchmarks.measure import note
from tests.brokers.find import start_broker
from tests.brokers.node import BrokerNode, BrokerUnavailable
from tests.brokers.private import start_private

SERVERS = ("beam.smp", "nats-server")


def cpu_of(processes: Sequence[psutil.Process]) -> float:
    """Seconds of processor time so far; a process that has ended counts nothing."""
    total = 0.0
    for process in processes:
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += float(times.user + times.system)
    return total


def listening_on(port: int) -> list[psutil.Process]:
    """The brokers that take connections there; none where they can't be seen, as in a container."""
    found = []
    for process in psutil.process_iter(["name"]):
        if process.info["name"] not in SERVERS:
            continue
        try:
            links = process.net_connections("tcp")
        except psutil.Error:
            continue
        if any(link.status == psutil.CONN_LISTEN and link.laddr.port == port for link in links):
            found.append(process)
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Broker:
    """Where it is, and its processes."""

    url: str
    version: str
    processes: tuple[psutil.Process, ...]

    @classmethod
    def at(cls, url: str, version: str) -> Broker:
        return cls(url=url, version=version, processes=tuple(listening_on(urlsplit(url).port or 5672)))

    def cpu(self) -> float:
        """Seconds; stays 0 where its processes can't be seen."""
        return cpu_of(self.processes)


@contextmanager
def rabbitmq() -> Iterator[Broker]:
    """A RabbitMQ node for as long as the context lasts."""
    node = _start()
    try:
        broker = Broker.at(node.url, node.version)
        if not broker.processes:
            note("the broker's processes can't be seen from here: its processor time is shown as 0")
        yield broker
    finally:
        node.stop()


def _start() -> BrokerNode:
    """A process on this machine before a container: a container's port is reached through one more process, which only those
    peers would pay for that need this broker. ``FABRIC_TEST_BROKER_URL`` and ``FABRIC_TEST_RABBITMQ`` overrule that."""
    if "FABRIC_TEST_BROKER_URL" in os.environ or "FABRIC_TEST_RABBITMQ" in os.environ:
        return start_broker()
    try:
        return start_private(install=True)
    except BrokerUnavailable:
        return start_broker()
