"""``fabric up`` and its companions, with real processes on the embedded broker."""

from __future__ import annotations

import json
import os
import secrets
import signal
from pathlib import Path

import psutil
import pytest

from fabric.cli.exits import ExitCode
from fabric.cli.record import running_fleets
from fabric.startup.profile import StartupProfile
from tests.brokers.node import BrokerNode
from tests.e2e.shop import Shop, family, gone, read_until, until

pytestmark = pytest.mark.processes


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


def test_a_fleet_comes_up_is_called_and_goes_down(shop: Shop) -> None:
    """Three services in five processes come up through two gates, are called by name and capability, and leave nothing."""
    with shop.up("--profile-out", "profile.json") as up:
        lines = read_until(up, "Ctrl-C stops it")
        processes = family(up)

        status = shop.run("status", "--json")
        assert status.returncode == ExitCode.OK, status.stderr
        told = json.loads(status.stdout)
        assert (told["state"], told["progress"]) == ("up", 1.0)
        assert {service["name"]: service["state"] for service in told["services"]} == dict.fromkeys(
            ("store", "web", "mail"), "ready"
        )
        assert [stage["state"] for stage in told["stages"]] == ["open", "open"]
        pids = {instance["id"]: instance["pid"] for service in told["services"] for instance in service["instances"]}
        assert pids == {name: pid for name, pid in shop.record.processes.items() if name not in ("broker", "coordinator")}
        assert "web" in shop.run("status").stdout

        bought = shop.run("call", "web", "buy", '{"item": "pen"}')
        assert json.loads(bought.stdout) == {"item": "pen", "sold": 1}
        assert json.loads(shop.run("call", "--capability", "counting", "process").stdout) in pids.values()
        assert json.loads(shop.run("call", "store", "process", "--instance", "store-2").stdout) == pids["store-2"]

        explained = shop.run("explain", "web")
        assert (explained.returncode, explained.stdout.partition(":")[0]) == (ExitCode.OK, "web is ready"), explained.stderr
        nobody = shop.run("explain", "wbe")
        assert nobody.returncode == ExitCode.FAILED
        assert "wbe" in nobody.stderr

        down = shop.run("down")
        assert (down.returncode, down.stdout) == (ExitCode.OK, "shop is down\n")
        assert up.wait(30) == ExitCode.OK
    assert gone(processes)
    assert running_fleets(shop.root) == []
    assert "web stops" in shop.log("web-1")
    order = [line.split("]")[1].split()[:2] for line in lines if "]" in line]
    assert order.index(["store", "ready"]) < order.index(["web", "ready"])
    profile = StartupProfile.from_json((shop.root / "profile.json").read_text())
    assert profile.ok
    assert {service.name for service in profile.services} == {"store", "web", "mail"}
    assert any(line.startswith("critical path, ") for line in lines)
    assert any(line.startswith("gate base ") for line in lines)
    blamed = json.loads(shop.run("profile", "blame", "--json").stdout)
    assert {one["service"]: one["own"] for one in blamed} == profile.durations


def test_calls_that_fail_say_so_by_their_exit_code(shop: Shop) -> None:
    """A handler that raises is 1, a service or method that nobody offers is 3, and the reason is on standard error."""
    with shop.up() as up:
        read_until(up, "Ctrl-C stops it")
        refused = shop.run("call", "web", "buy", '{"item": "moon"}', "--json")
        assert refused.returncode == ExitCode.FAILED
        assert json.loads(refused.stderr)["error"]["code"] == "shop.not-for-sale"
        assert shop.run("call", "web", "buy", '{"itm": 1}').returncode == ExitCode.FAILED
        nobody = shop.run("call", "wbe", "buy")
        assert nobody.returncode == ExitCode.UNREACHABLE
        assert "no live instance" in nobody.stderr


def test_json_is_one_document(shop: Shop) -> None:
    """With --json standard output is the status alone, and the progress goes to standard error."""
    ran = shop.run("up", "fleet.yaml", "--json", "--exit-when-up")
    assert ran.returncode == ExitCode.OK, ran.stderr
    told = json.loads(ran.stdout)
    assert told["state"] == "up"
    assert told["profile"]["outcome"] == "succeeded"
    assert "store  ready 2/2" in ran.stderr


def test_what_is_not_critical_degrades(shop: Shop) -> None:
    """A service that is not critical and fails leaves the rest up, the report names it with its reason, the exit code is 0; what
    was predicted of a start is held against it."""
    with (shop.root / "fleet.yaml").open("a") as fleet:
        fleet.write("prediction: {before: 1000, after: 900, low: 50, high: 150}\n")
    ran = shop.run("up", "fleet.yaml", "--exit-when-up", mail="broken")
    assert ran.returncode == ExitCode.OK, ran.stdout
    assert "mail (not critical): RuntimeError: no mail server at mx.shop" in ran.stdout
    assert "predicted 900.00 s, that is 50.00 to 150.00 s less than 1000.00 s; achieved " in ran.stdout
    assert ": better than predicted\n" in ran.stdout
    assert "shop is up without some of its optional services: 2 of 3" in ran.stdout


def test_a_critical_service_that_dies_at_its_start_fails_the_run(shop: Shop) -> None:
    """S3 (compose#9732): a process that exits before its first vote is named with its last words, and the exit code is 1."""
    shop.write(critical=True)
    with shop.up(mail="crash") as up:
        lines = read_until(up, "shop did not come up: 2 of 3")
        assert up.wait(60) == ExitCode.FAILED
    text = "\n".join(lines)
    assert "mail (critical): " in text
    assert "    mail: the disk is full" in text
    assert "what to do: " in text
    assert running_fleets(shop.root) == []


def test_ctrl_c_in_the_middle_of_a_start(shop: Shop) -> None:
    """S15 (process-compose#145): Ctrl-C while a service is still starting stops all of it and leaves nothing."""
    with shop.up(mail="slow") as up:
        until((shop.root / "mail-is-starting").exists)
        until(lambda: "web-1" in shop.record.processes)
        processes = family(up)
        up.send_signal(signal.SIGINT)
        assert up.wait(60) == ExitCode.INTERRUPTED
    assert gone(processes)
    assert running_fleets(shop.root) == []


def test_ctrl_c_before_anything_runs(shop: Shop) -> None:
    """Ctrl-C before the coordinator answers leaves nothing either."""
    with shop.up() as up:
        until(lambda: running_fleets(shop.root))
        processes = family(up)
        up.send_signal(signal.SIGINT)
        assert up.wait(60) == ExitCode.INTERRUPTED
    assert gone(processes)


def test_a_second_ctrl_c_does_not_wait(shop: Shop) -> None:
    """A service that hangs while it stops is waited for after the first Ctrl-C and killed after the second."""
    with shop.up(mail="stuck") as up:
        read_until(up, "Ctrl-C stops it")
        processes = family(up)
        up.send_signal(signal.SIGINT)
        until((shop.root / "mail-is-stopping").exists)
        assert up.poll() is None
        up.send_signal(signal.SIGINT)
        assert up.wait(60) == ExitCode.OK
    assert gone(processes)


def test_kill_9_of_the_command_line_leaves_nothing(shop: Shop) -> None:
    """When `fabric up` itself is killed with -9, broker, coordinator and services end by themselves."""
    with shop.up() as up:
        read_until(up, "Ctrl-C stops it")
        processes = family(up)
        assert len(processes) == 8  # the guard, the fork server, the broker, the coordinator, four instances
        up.send_signal(signal.SIGKILL)
        until(lambda: gone(processes))
    assert running_fleets(shop.root) == []


def test_a_killed_instance_comes_back(shop: Shop) -> None:
    """M7's neighbour: one of two instances is killed with -9; calls go on, and it is started again under its name."""
    with shop.up() as up:
        read_until(up, "Ctrl-C stops it")
        victim = shop.record.processes["store-1"]
        os.kill(victim, signal.SIGKILL)
        for _ in range(3):
            assert json.loads(shop.run("call", "store", "process").stdout) != victim

        def back() -> bool:
            found = shop.run("call", "store", "process", "--instance", "store-1")
            return found.returncode == 0 and int(found.stdout) != victim

        until(back)
        read_until(up, "store-1: process")


def test_a_killed_coordinator_is_replaced(shop: Shop) -> None:
    """S2's neighbour: when the coordinator is killed with -9 another takes over what runs, and restarts none of it."""
    with shop.up() as up:
        read_until(up, "Ctrl-C stops it")
        before = shop.record.processes
        os.kill(before["coordinator"], signal.SIGKILL)

        def up_again() -> bool:
            found = shop.run("status", "--json")
            return found.returncode == 0 and bool(json.loads(found.stdout)["state"] == "up")

        until(lambda: shop.record.processes.get("coordinator", before["coordinator"]) != before["coordinator"])
        until(up_again)
        after = shop.record.processes
        assert {name for name in before if before[name] != after[name]} == {"coordinator"}
        assert shop.run("down").returncode == ExitCode.OK
        assert up.wait(30) == ExitCode.OK


def test_a_killed_broker_is_replaced(shop: Shop) -> None:
    """When the embedded broker is killed with -9 another takes its place, and the fleet finds together again, none restarted."""
    with shop.up() as up:
        read_until(up, "Ctrl-C stops it")
        before = shop.record.processes
        os.kill(before["broker"], signal.SIGKILL)
        until(lambda: shop.record.processes.get("broker", before["broker"]) != before["broker"])
        until(lambda: shop.run("call", "web", "buy", '{"item": "pen"}').returncode == 0)
        until(lambda: shop.run("status").returncode == 0)
        assert {name for name, pid in shop.record.processes.items() if before[name] != pid} == {"broker"}


def test_a_fleet_on_rabbitmq(shop: Shop, broker: BrokerNode) -> None:
    """With a broker URL no broker is started; commands find the fleet there, and no process shows the URL with its password."""
    namespace = f"shop-{secrets.token_hex(4)}"
    with shop.up("--namespace", namespace, broker_url=broker.url) as up:
        read_until(up, "Ctrl-C stops it")
        processes = family(up)
        assert not any(broker.url in argument for process in processes for argument in process.cmdline())
        assert "broker" not in shop.record.processes
        assert (shop.record.broker_url, shop.record.namespace) == (broker.url, namespace)
        assert json.loads(shop.run("call", "web", "buy", '{"item": "pen"}').stdout) == {"item": "pen", "sold": 1}
        up.send_signal(signal.SIGINT)
        assert up.wait(60) == ExitCode.OK
    assert gone(processes)


def test_a_fleet_in_the_background(shop: Shop) -> None:
    """--detach returns when the fleet is up and leaves it running; a second `up` is refused; `down` stops it."""
    began = shop.run("up", "fleet.yaml", "--detach")
    assert began.returncode == ExitCode.OK, began.stdout + began.stderr
    assert began.stdout.endswith("`fabric down` stops it\n")
    try:
        supervisor = psutil.Process(shop.record.pid)
        processes = [supervisor, *supervisor.children(recursive=True)]
        assert shop.run("call", "web", "buy", '{"item": "pen"}').returncode == ExitCode.OK
        again = shop.run("up", "fleet.yaml")
        assert again.returncode == ExitCode.CONFIGURATION
        assert f"is run by process {supervisor.pid}" in again.stderr
    finally:
        assert shop.run("down").returncode == ExitCode.OK
    until(lambda: gone(processes))


def test_a_fleet_that_fails_in_the_background(shop: Shop) -> None:
    """--detach of a fleet that does not come up returns its exit code and its report, and leaves nothing running."""
    shop.write(critical=True)
    ran = shop.run("up", "fleet.yaml", "--detach", mail="broken")
    assert ran.returncode == ExitCode.FAILED
    assert "mail (critical): RuntimeError: no mail server" in ran.stdout
    assert running_fleets(shop.root) == []


def test_a_wrong_file_starts_nothing(shop: Shop) -> None:
    """S4, S8: a cycle is refused with its path and lines before anything is started."""
    (shop.root / "fleet.yaml").write_text("name: ring\nservices:\n  a: {dependencies: [b]}\n  b: {dependencies: [a]}\n")
    ran = shop.run("up", "fleet.yaml")
    assert ran.returncode == ExitCode.CONFIGURATION
    assert "dependency cycle: a -> b -> a\n  a needs b   fleet.yaml:3\n  b needs a   fleet.yaml:4\n" in ran.stderr
    assert not (shop.root / ".fabric").exists()


def test_a_class_that_is_not_there(shop: Shop) -> None:
    """A run target that can't be imported fails the run at once, with the reason from its log, and is not tried again."""
    text = (shop.root / "fleet.yaml").read_text()
    (shop.root / "fleet.yaml").write_text(text.replace("shop:Web", "shop:Wbe"))
    ran = shop.run("up", "fleet.yaml")
    assert ran.returncode == ExitCode.FAILED
    assert "the module shop has no Wbe" in ran.stdout
    assert "Traceback" not in ran.stdout
