"""Three RabbitMQ nodes on this machine that are one cluster."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager

from tests.brokers.container import Seat, network, start_container
from tests.brokers.node import IMAGES, BrokerNode, BrokerUnavailable
from tests.brokers.private import start_private

SIZE = 3


class Cluster:
    """The nodes, and the harm that can be done to a cluster as such. All methods block."""

    def __init__(self, nodes: Sequence[BrokerNode], names: Sequence[str]) -> None:
        self.nodes, self._names = tuple(nodes), dict(zip(names, nodes, strict=True))

    @property
    def version(self) -> str:
        return self.nodes[0].version

    @property
    def urls(self) -> list[str]:
        return [node.url for node in self.nodes]

    def form(self) -> None:
        """Make one cluster of the nodes."""
        first = next(iter(self._names))
        for node in self.nodes[1:]:
            node.ctl("stop_app")
            node.ctl("join_cluster", first)
            node.ctl("start_app")

    def leader_of(self, queue: str, *, asked: BrokerNode) -> BrokerNode:
        """Where the leader of a quorum queue is, as ``asked`` knows it."""
        listed = json.loads(asked.ctl("list_queues", "name", "leader", "--formatter", "json"))
        return next(self._names[found["leader"]] for found in listed if found["name"] == queue)

    def isolate(self, node: BrokerNode) -> None:
        """No other member of the cluster reaches ``node`` any more, and clients still do."""
        away = [name for name, other in self._names.items() if other is not node]
        steps = [f"erlang:set_cookie('{name}', nobodys), erlang:disconnect_node('{name}')" for name in away]
        node.ctl("eval", ", ".join(steps) + ".")

    def rejoin(self, node: BrokerNode) -> None:
        """The reverse of ``isolate``."""
        away = [name for name, other in self._names.items() if other is not node]
        steps = [f"erlang:set_cookie('{name}', erlang:get_cookie()), net_adm:ping('{name}')" for name in away]
        node.ctl("eval", ", ".join(steps) + ".")


@contextmanager
def _of_containers(version: str | None) -> Iterator[Cluster]:
    mark, cookie = uuid.uuid4().hex[:8], uuid.uuid4().hex
    with ExitStack() as stack:
        shared = stack.enter_context(network())
        seats = [Seat(network=shared, name=f"fabric-{mark}-{number}", cookie=cookie) for number in range(1, SIZE + 1)]
        with ThreadPoolExecutor(SIZE) as threads:
            starting = [threads.submit(start_container, version, seat=seat) for seat in seats]
        for start in starting:
            if start.exception() is None:
                stack.callback(start.result().stop)
        nodes = [start.result() for start in starting]
        yield Cluster(nodes, [f"rabbit@{seat.name}" for seat in seats])


@contextmanager
def _of_private_nodes(version: str | None, *, install: bool) -> Iterator[Cluster]:
    with ExitStack() as stack:
        first = start_private(install=install)
        stack.callback(first.stop)
        if version is not None and not first.version.startswith(f"{version}."):
            raise BrokerUnavailable(f"found RabbitMQ {first.version}, not {version}")
        with ThreadPoolExecutor(SIZE) as threads:
            starting = [threads.submit(start_private, beside=first) for _ in range(SIZE - 1)]
        for start in starting:
            if start.exception() is None:
                stack.callback(start.result().stop)
        nodes = [first, *(start.result() for start in starting)]
        yield Cluster(nodes, [node.name for node in nodes])


@contextmanager
def start_cluster(version: str | None = None) -> Iterator[Cluster]:
    """A cluster for us alone: of containers, else of private nodes.

    Args:
        version: one of ``IMAGES``; by default ``FABRIC_TEST_RABBITMQ``, else any.

    Raises:
        BrokerUnavailable: none could be had, and why.
    """
    version = version or os.environ.get("FABRIC_TEST_RABBITMQ") or None
    if version is not None and version not in IMAGES:
        raise BrokerUnavailable(f"FABRIC_TEST_RABBITMQ is {version!r}; it can be {', '.join(IMAGES)}")
    reasons = []
    ways: tuple[Callable[[], AbstractContextManager[Cluster]], ...] = (
        lambda: _of_containers(version),
        lambda: _of_private_nodes(version, install=False),
        lambda: _of_private_nodes(version, install=True),
    )
    for way in ways:
        with ExitStack() as stack:
            try:
                cluster: Cluster = stack.enter_context(way())
            except BrokerUnavailable as error:
                reasons.append(str(error))
                continue
            cluster.form()
            yield cluster
            return
    raise BrokerUnavailable("no RabbitMQ cluster:\n" + "\n".join(f"- {reason}" for reason in reasons))
