"""A private RabbitMQ node from an installed server: its own name, ports, folders and port mapper; no root needed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

from tests.brokers.node import CLUSTERED_VM, BrokerUnavailable, free_port, wait_for_amqp

_SCRIPTS = ("/usr/lib/rabbitmq/bin", "/usr/local/lib/rabbitmq/bin", "/opt/rabbitmq/sbin")
_START_SECONDS = 60.0
_STOP_SECONDS = 15.0


class PrivateNode:
    """A node whose every file is in one temporary folder."""

    ours = True

    def __init__(self, scripts: Path, *, beside: PrivateNode | None = None) -> None:
        """``beside``: another one, whose cluster it may be told to join."""
        self._scripts = scripts
        self._folder = Path(tempfile.mkdtemp(prefix="fabric-rabbitmq-"))
        self._port, self.tls_port = free_port(), free_port()
        self.url = f"amqp://guest:guest@127.0.0.1:{self._port}/"
        self.version = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._mapper: subprocess.Popen[bytes] | None = beside._mapper if beside is not None else None
        self._environment: dict[str, str] = {
            "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
            "LANG": "C.UTF-8",
            "HOME": str(self._folder),
            "ERL_EPMD_PORT": beside._environment["ERL_EPMD_PORT"] if beside is not None else str(free_port()),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": f"fabric{self._port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self._port),
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_MNESIA_BASE": str(self._folder / "data"),
            "RABBITMQ_LOG_BASE": str(self._folder / "log"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self._folder / "enabled_plugins"),
            "RABBITMQ_CONF_ENV_FILE": str(self._folder / "none.conf"),
            "RABBITMQ_CONFIG_FILE": str(self._folder / "none"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": CLUSTERED_VM,
        }
        (self._folder / "enabled_plugins").write_text("[].\n")
        cookie = self._folder / ".erlang.cookie"
        cookie.write_text((beside._folder / ".erlang.cookie").read_text() if beside is not None else uuid.uuid4().hex)
        cookie.chmod(0o400)

    @property
    def name(self) -> str:
        """As the members of a cluster know it."""
        return self._environment["RABBITMQ_NODENAME"]

    def ctl(self, *arguments: str, timeout: float = 60.0) -> str:
        command = [str(self._scripts / "rabbitmqctl"), "--quiet", *arguments]
        done = subprocess.run(
            command, env=self._environment, timeout=timeout, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
        )
        text = done.stdout.decode(errors="replace")
        if done.returncode:
            raise RuntimeError(f"rabbitmqctl {' '.join(arguments)}: exit code {done.returncode}: {text.strip()}")
        return text

    def _signal(self, number: signal.Signals) -> None:
        """To its process group: the server's shell and the Erlang machine under it."""
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, number)

    def pause(self) -> None:
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait(_STOP_SECONDS)

    def shut_down(self) -> None:
        self._signal(signal.SIGTERM)
        if self._process is not None:
            self._process.wait(2 * _STOP_SECONDS)

    def start(self) -> None:
        if self._mapper is None:
            self._mapper = subprocess.Popen(
                [_find_mapper()],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        with open(self._folder / "output", "ab") as output:
            self._process = subprocess.Popen(
                [str(self._scripts / "rabbitmq-server")],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        if not wait_for_amqp("127.0.0.1", self._port, timeout=_START_SECONDS):
            tail = (self._folder / "output").read_text(errors="replace")[-2000:]
            self.stop()
            raise BrokerUnavailable(f"a private RabbitMQ node did not answer within {_START_SECONDS:g} s:\n{tail}")

    def stop(self) -> None:
        self._signal(signal.SIGCONT)
        self.kill()
        if self._mapper is not None:
            self._mapper.kill()
            self._mapper.wait(_STOP_SECONDS)
            self._mapper = None
        shutil.rmtree(self._folder, ignore_errors=True)


def _find_mapper() -> str:
    """Erlang's port mapper. The node would start one by itself, as a daemon that nobody ends."""
    found = shutil.which("epmd") or next((str(path) for path in Path("/usr/lib/erlang").glob("erts-*/bin/epmd")), None)
    if found is None:
        raise BrokerUnavailable("rabbitmq-server is installed, but Erlang's epmd is not where it was looked for")
    return found


def find_scripts() -> Path | None:
    """The folder with ``rabbitmq-server`` and ``rabbitmqctl`` themselves: the ones in /usr/sbin insist on a system user."""
    return next((Path(folder) for folder in _SCRIPTS if os.access(f"{folder}/rabbitmq-server", os.X_OK)), None)


@contextlib.contextmanager
def _no_services() -> Iterator[None]:
    """Packages ask this file whether they may start their services: answer no, unless somebody answers already."""
    policy = Path("/usr/sbin/policy-rc.d")
    if policy.exists():
        yield
        return
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
    try:
        yield
    finally:
        policy.unlink(missing_ok=True)


def install_package() -> Path:
    """The distribution's package, once per machine, without a system node.

    Raises:
        BrokerUnavailable: not root, no apt-get, or it failed.
    """
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise BrokerUnavailable("rabbitmq-server is not installed, and only root with apt-get could install it")
    with open(Path(tempfile.gettempdir()) / "fabric-rabbitmq-install.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if scripts := find_scripts():
            return scripts
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        with _no_services():
            for command in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", "rabbitmq-server"]):
                try:
                    subprocess.run(["apt-get", *command], env=environment, check=True, capture_output=True, timeout=300)
                except subprocess.SubprocessError as error:
                    raise BrokerUnavailable(f"apt-get {' '.join(command)} failed: {error}") from error
    scripts = find_scripts()
    if scripts is None:
        raise BrokerUnavailable("the package rabbitmq-server has no server where one was expected")
    return scripts


def start_private(*, install: bool = False, beside: PrivateNode | None = None) -> PrivateNode:
    """Start a private node, installing the distribution's package first if ``install``; see ``PrivateNode`` for ``beside``.

    Raises:
        BrokerUnavailable: not installed, or it did not start.
    """
    scripts = find_scripts()
    if scripts is None and not install:
        raise BrokerUnavailable("rabbitmq-server is not installed")
    node = PrivateNode(scripts or install_package(), beside=beside)
    try:
        node.start()
        node.version = node.ctl("version").strip()
    except BaseException:
        node.stop()
        raise
    return node
