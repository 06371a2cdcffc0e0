"""Which broker the tests get, in this order:

1. ``FABRIC_TEST_BROKER_URL``: one that is there already. It is never harmed, so tests of its faults are skipped.
2. A container on a Docker engine.
3. A private node of an installed rabbitmq-server.
4. The same, after installing the distribution's package, as root.

``FABRIC_TEST_RABBITMQ`` (``3.10``, ``4.0`` or ``4.3``) asks for that version; another one is then no answer.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from tests.brokers.container import start_container
from tests.brokers.node import IMAGES, BrokerNode, BrokerUnavailable
from tests.brokers.private import start_private


@dataclass(frozen=True, slots=True)
class ExternalNode:
    """Somebody else's broker."""

    url: str
    version: str = "unknown"
    ours: bool = False
    tls_port: int = 0

    def _refuse(self) -> RuntimeError:
        return RuntimeError("the broker of FABRIC_TEST_BROKER_URL is not ours to harm")

    def ctl(self, *arguments: str, timeout: float = 60.0) -> str:
        raise self._refuse()

    def pause(self) -> None:
        raise self._refuse()

    def resume(self) -> None:
        raise self._refuse()

    def kill(self) -> None:
        raise self._refuse()

    def shut_down(self) -> None:
        raise self._refuse()

    def start(self) -> None:
        raise self._refuse()

    def stop(self) -> None:
        return


def start_broker(version: str | None = None) -> BrokerNode:
    """A broker by the order above; ``stop`` it at the end.

    Args:
        version: overrules ``FABRIC_TEST_RABBITMQ``.

    Raises:
        BrokerUnavailable: none could be had, and why.
    """
    version = version or os.environ.get("FABRIC_TEST_RABBITMQ") or None
    if version is not None and version not in IMAGES:
        raise BrokerUnavailable(f"FABRIC_TEST_RABBITMQ is {version!r}; it can be {', '.join(IMAGES)}")
    if (url := os.environ.get("FABRIC_TEST_BROKER_URL")) and version is None:
        return ExternalNode(url)
    ways: tuple[Callable[[], BrokerNode], ...] = (
        lambda: start_container(version),
        start_private,
        lambda: start_private(install=True),
    )
    reasons = []
    for way in ways:
        try:
            node = way()
        except BrokerUnavailable as error:
            reasons.append(str(error))
            continue
        if version is None or node.version.startswith(f"{version}."):
            return node
        reasons.append(f"found RabbitMQ {node.version}, not {version}")
        node.stop()
    raise BrokerUnavailable("no RabbitMQ:\n" + "\n".join(f"- {reason}" for reason in reasons))
