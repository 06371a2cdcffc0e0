"""How a running fleet is found: its lock, its record, and which of several is meant."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fabric.cli.record import FleetDirectory, Record, running_fleets, stop_and_wait
from fabric.cli.target import find_target
from fabric.errors import ConfigurationError, StartupError, UnknownName


def record(root: Path, fleet: str = "shop", url: str = "unix:///shop.sock") -> Record:
    return Record(
        fleet=fleet,
        path="shop.yaml",
        root=str(root),
        namespace=f"{fleet}-dev",
        broker_url=url,
        pid=os.getpid(),
        started_at=1.0,
        processes={"store-1": 5},
    )


def test_the_record_is_private_and_gone_with_its_fleet(tmp_path: Path) -> None:
    """It may hold a password: only its owner reads it, no repr shows it, git ignores it, and it goes with the fleet."""
    place = FleetDirectory(tmp_path, "shop")
    with place.claim():
        place.write(record(tmp_path, url="amqp://me:secret@host"))
        assert stat.S_IMODE((place.path / "state.json").stat().st_mode) == 0o600
        assert stat.S_IMODE(place.path.stat().st_mode) == 0o700
        assert (tmp_path / ".fabric" / ".gitignore").read_text() == "*\n"
        assert place.is_running
        assert running_fleets(tmp_path) == [record(tmp_path, url="amqp://me:secret@host")]
        assert "secret" not in repr(place.read())
    assert not place.is_running
    assert place.read() is None


def test_a_fleet_runs_once(tmp_path: Path) -> None:
    """A second supervisor of the same fleet in the same directory is refused, and told who runs it."""
    place = FleetDirectory(tmp_path, "shop")
    with place.claim():
        place.write(record(tmp_path))
        with pytest.raises(ConfigurationError, match=rf"is run by process {os.getpid()} .*`fabric down` stops it"), place.claim():
            pass
    with place.claim():
        assert place.is_running


def test_what_a_kill_left_is_not_taken_for_a_fleet(tmp_path: Path) -> None:
    """A record whose supervisor is gone is not a running fleet, nor is one that can't be read."""
    place = FleetDirectory(tmp_path, "shop")
    place.path.mkdir(parents=True)
    (place.path / "lock").touch()
    place.write(record(tmp_path))
    assert running_fleets(tmp_path) == []
    with place.claim():
        (place.path / "state.json").write_text("{}")
        assert running_fleets(tmp_path) == []


def test_fleets_are_found_from_below(tmp_path: Path) -> None:
    """Commands work in the directories below the one where the fleet was started."""
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    place = FleetDirectory(tmp_path, "shop")
    with place.claim():
        place.write(record(tmp_path))
        assert [found.fleet for found in running_fleets(below)] == ["shop"]


def test_a_long_path_does_not_break_the_socket(tmp_path: Path) -> None:
    """Unix sockets have short paths only: where the directory's is too long, a temporary one is used and removed."""
    with FleetDirectory(Path("/x"), "shop").socket() as near:
        assert near == Path("/x/.fabric/shop/broker.sock")
    with FleetDirectory(tmp_path / ("long" * 30), "shop").socket() as elsewhere:
        assert len(str(elsewhere)) < 100
        assert elsewhere.parent.is_dir()
    assert not elsewhere.parent.exists()


def test_which_fleet_is_meant(tmp_path: Path) -> None:
    """Command line, then environment, then the fleet that runs here; of several one must be named."""
    env: dict[str, str] = {}

    def found(**options: str) -> tuple[str, str, bool]:
        target = find_target(directory=tmp_path, environment=env, **options)
        return target.broker_url, target.namespace, target.record is not None

    with pytest.raises(ConfigurationError, match="no fleet runs here"):
        found()
    assert found(broker_url="amqp://a") == ("amqp://a", "fabric", False)
    shop, shed = FleetDirectory(tmp_path, "shop"), FleetDirectory(tmp_path, "shed")
    with shop.claim():
        shop.write(record(tmp_path))
        assert found() == ("unix:///shop.sock", "shop-dev", True)
        assert found(namespace="other") == ("unix:///shop.sock", "other", True)
        assert found(broker_url="amqp://a") == ("amqp://a", "fabric", False)
        assert found(broker_url="unix:///shop.sock") == ("unix:///shop.sock", "shop-dev", True)
        env["FABRIC_BROKER_URL"] = "amqp://env"
        env["FABRIC_NAMESPACE"] = "env"
        assert found() == ("amqp://env", "env", False)
        assert found(fleet="shop")[0] == "unix:///shop.sock"
        env.clear()
        with shed.claim():
            shed.write(record(tmp_path, "shed", "unix:///shed.sock"))
            with pytest.raises(ConfigurationError, match="several fleets run here: shed, shop; choose one with --fleet"):
                found()
            assert found(fleet="shed") == ("unix:///shed.sock", "shed-dev", True)
            with pytest.raises(UnknownName, match="did you mean 'shop'"):
                found(fleet="shpo")


OWNER = """
import signal, sys, time, os
from pathlib import Path
from fabric.cli.record import FleetDirectory, Record
place = FleetDirectory(Path(sys.argv[1]), "shop")
with place.claim():
    place.write(Record(fleet="shop", path="", root=sys.argv[1], namespace="n", broker_url="u", pid=os.getpid(), started_at=0))
    if sys.argv[2] == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    print("up", flush=True)
    time.sleep(300)
"""


@pytest.mark.processes
def test_stopping_waits_for_the_supervisor(tmp_path: Path) -> None:
    """`fabric down` returns when the supervisor has gone, and says so when it has not."""
    for kind in ("obedient", "deaf"):
        with subprocess.Popen([sys.executable, "-c", OWNER, str(tmp_path), kind], stdout=subprocess.PIPE) as owner:
            assert owner.stdout is not None
            assert owner.stdout.readline() == b"up\n"
            (found,) = running_fleets(tmp_path)
            if kind == "obedient":
                stop_and_wait(found, timeout=60.0)
                assert owner.wait(60.0) == 0
            else:
                began = time.monotonic()
                with pytest.raises(StartupError, match=f"shop is still stopping after 0.2 s; process {owner.pid} sees to it"):
                    stop_and_wait(found, timeout=0.2)
                assert time.monotonic() - began >= 0.2
                owner.send_signal(signal.SIGKILL)
    assert running_fleets(tmp_path) == []
