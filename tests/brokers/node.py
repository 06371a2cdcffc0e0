"""What a RabbitMQ node can be asked for, whoever started it."""

from __future__ import annotations

import socket
import time
from typing import Protocol

IMAGES = {
    "3.10": "rabbitmq:3.10-management",
    "4.0": "rabbitmq:4.0-management",
    "4.3": "rabbitmq:4.3-management",
}
"""The versions that Fabric is tested on, and the image of each."""

QUIET_VM = "+sbwt none +sbwtdcpu none +sbwtdio none"
"""The broker's schedulers sleep instead of spinning: on two cores they would take the time of the tests."""


CLUSTERED_VM = f"{QUIET_VM} -rabbit cluster_partition_handling pause_minority"
"""A member that can't see most of its cluster stops serving, so that its clients go elsewhere. 4.3 decides that by itself."""


class BrokerUnavailable(Exception):
    """No broker could be had; the text says why, one line for each way that was tried."""


class BrokerNode(Protocol):
    """One RabbitMQ node. All methods block and have a limit; async code calls them in a thread."""

    @property
    def url(self) -> str:
        """``amqp://user:password@host:port/``"""
        ...

    @property
    def version(self) -> str: ...

    @property
    def tls_port(self) -> int:
        """Of 127.0.0.1, where ``tls.listen`` makes it speak TLS."""
        ...

    @property
    def ours(self) -> bool:
        """Started by us for us alone: the faults below may be used. False: only ``url``, ``version`` and ``stop`` work."""
        ...

    def ctl(self, *arguments: str, timeout: float = 60.0) -> str:
        """Run ``rabbitmqctl``, and return what it printed.

        Raises:
            RuntimeError: it failed; with its output.
        """
        ...

    def pause(self) -> None:
        """Stop its process with SIGSTOP: links stay open and silent."""
        ...

    def resume(self) -> None: ...

    def kill(self) -> None:
        """End it without a word to anyone."""
        ...

    def shut_down(self) -> None:
        """Ask it to end, and wait until it has: links are closed in order, and all is on disk."""
        ...

    def start(self) -> None:
        """After ``kill`` or ``shut_down``: the same node again, on the same port. Returns when it takes connections."""
        ...

    def stop(self) -> None:
        """End it and remove what it left. Does nothing to a node that is not ours. Idempotent."""
        ...


def restart(node: BrokerNode) -> None:
    """End it in order and have it again on the same port, with everything durable."""
    node.shut_down()
    node.start()


def crash(node: BrokerNode) -> None:
    """Kill it and have it again on the same port.

    A single node that is killed within seconds of declaring a quorum queue may come back with that queue empty, confirmed
    messages and all ("configured member of queue was not found on this node", seen on 4.3.6): the register of its queues is
    not yet on disk. Elsewhere in a cluster the messages would be there.
    """
    node.kill()
    node.start()


def raise_memory_alarm(node: BrokerNode) -> None:
    """Any memory use is too much: publishing connections are blocked."""
    node.ctl("set_vm_memory_high_watermark", "0.000001")


def clear_memory_alarm(node: BrokerNode) -> None:
    node.ctl("set_vm_memory_high_watermark", "0.6")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def speaks_amqp(host: str, port: int, *, timeout: float) -> bool:
    """Whether a broker answers the protocol header with its first frame."""
    try:
        with socket.create_connection((host, port), timeout=timeout) as link:
            link.sendall(b"AMQP\x00\x00\x09\x01")
            return link.recv(1) == b"\x01"
    except OSError:
        return False


def wait_for_amqp(host: str, port: int, *, timeout: float) -> bool:
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        if speaks_amqp(host, port, timeout=1.0):
            return True
        time.sleep(0.1)
    return False
