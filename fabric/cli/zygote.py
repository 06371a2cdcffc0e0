"""The fork server: has Fabric loaded, and makes processes of itself that need not load it again.

It has one thread, no event loop and no connection. It reads orders from a socket, one JSON document a line, and says there
what came of them; when the socket closes it ends. It owns nothing: who watches, restarts and stops is the supervisor.

``python -m fabric.cli.zygote DESCRIPTOR ROOM MODULE…``: the socket, bytes that make room for a title, modules to load too.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import signal
import socket
import sys
from collections.abc import Iterable, Iterator
from importlib import import_module
from typing import Any

from fabric.cli import guard
from fabric.cli.order import Order
from fabric.cli.shown import Shown

LOADED = (
    "fabric.cli.main",
    "fabric.coordination.coordinator",
    "fabric.coordination.fleet",
    "fabric.coordination.host",
    "fabric.transports.embedded_server",
)
TRANSPORTS = {"unix": "fabric.transports.embedded", "amqp": "fabric.transports.amqp", "amqps": "fabric.transports.amqp"}


class Zygote:
    """Reads orders, forks, reaps."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._wake, self._woken = os.pipe()
        self._unread = b""

    def serve(self) -> Order | None:
        """Returns in each child what it is to be, and None in the fork server when nobody wants it any more."""
        os.set_blocking(self._woken, False)
        os.set_blocking(self._wake, False)
        signal.set_wakeup_fd(self._woken, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        while True:
            for descriptor, _ in poll.poll():
                if descriptor == self._wake:
                    with contextlib.suppress(BlockingIOError):
                        os.read(self._wake, 4096)
                    self._reap()
                    continue
                received = self._control.recv(1 << 16)
                if not received:
                    return None
                for order in self._orders(received):
                    child = os.fork()
                    if not child:
                        self._forget()
                        return order
                    self.tell(id=order.id, pid=child)

    def tell(self, **facts: Any) -> None:
        self._control.sendall(json.dumps(facts).encode() + b"\n")

    def _orders(self, received: bytes) -> Iterator[Order]:
        *lines, self._unread = (self._unread + received).split(b"\n")
        for line in lines:
            yield Order.read(line)

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG)) != (0, 0):
                self.tell(ended=ended[0], code=os.waitstatus_to_exitcode(ended[1]))

    def _forget(self) -> None:
        """In a child: nothing of the fork server is left open."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._control.close()
        os.close(self._wake)
        os.close(self._woken)
        self._unread = b""


def become(order: Order, shown: Shown, parent: int) -> None:
    """Be the process that was ordered. Exits with 127 where that can't be.

    Random numbers need nothing: Python seeds its own anew after a fork, and the rest asks the system each time.
    """
    os.setsid()
    try:
        output = os.open(order.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.close(output)
        os.chdir(order.directory)
    except OSError as error:
        sys.exit(_refuse(f"can't start fabric {' '.join(order.arguments)}: {error}"))
    os.environ.clear()
    os.environ.update(order.environment)
    shown.remark(order.environment[guard.MARK])
    shown.title(" ".join(("fabric", *order.arguments)))
    sys.argv = ["fabric", *order.arguments]
    sys.path[0] = order.directory  # as `python -m` has it
    if os.getppid() != parent:  # nobody was told of this process, and another may be started in its place
        os._exit(1)


def load(modules: Iterable[str]) -> None:
    """Import what the processes will need, those of the services only if they can be."""
    for module in LOADED:
        import_module(module)
    if transport := TRANSPORTS.get(os.environ.get("FABRIC_BROKER_URL", "").partition(":")[0]):
        import_module(transport)
    with contextlib.suppress(ImportError):
        import_module("uvloop")
    for module in modules:
        try:
            import_module(module)
        except Exception as error:  # the process that needs it says it better
            sys.stderr.write(f"{module} was not loaded in advance: {error!r}\n")


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    zygote = Zygote(socket.socket(fileno=int(sys.argv[1])))
    gc.disable()
    shown = Shown.find(guard.MARK, os.environ[guard.MARK])
    load(sys.argv[3:])
    if (threads := len(os.listdir("/proc/self/task"))) > 1:
        sys.exit(_refuse(f"importing {', '.join(sys.argv[3:])} started threads ({threads - 1}), which a fork would lose"))
    shown.title("fabric fork-server")
    command = import_module("fabric.cli.main")
    run = import_module("typer.main").get_command(command.app)
    gc.freeze()  # so that collections in the children do not touch, and thereby copy, what they share
    me = os.getpid()
    order = zygote.serve()
    if order is None:
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    gc.enable()
    become(order, shown, me)
    command.main(order.arguments, run=run)


def _refuse(why: str) -> int:
    sys.stderr.write(why + "\n")
    return 127


if __name__ == "__main__":
    main()
