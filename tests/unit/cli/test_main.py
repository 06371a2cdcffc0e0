"""The command line as a whole: quick help, errors as one block, exit codes that scripts can rely on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fabric import __version__, errors
from fabric.cli.exits import ExitCode, exit_code, report
from tests.unit.cli.conftest import Cli

FACTS: dict[str, Any] = {"service": "s", "method": "m"}


def test_help_loads_nothing_heavy() -> None:
    """`fabric --help` is quick because it imports neither brokers, graphs, models nor YAML."""
    code = (
        "import sys\nfrom fabric.cli.main import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)\n"
        "print(*sorted(name for name in sys.modules if name.startswith('fabric.')), file=sys.stderr)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    packages, ours = (set(line.split()) for line in ran.stderr.splitlines())
    assert "up " in ran.stdout
    heavy = {
        "aio_pika",
        "aiormq",
        "pamqp",
        "networkx",
        "pydantic",
        "pydantic_core",
        "pydantic_settings",
        "yaml",
        "psutil",
        "msgpack",
    }
    assert packages & (heavy | {"aiobreaker", "asyncio_mqtt", "structlog", "orjson"}) == set()
    assert {name for name in ours if not name.startswith("fabric.cli")} == {"fabric.errors"}


def test_help_names_the_exit_codes(cli: Cli) -> None:
    """Exit codes are part of the interface, and the help says what each means."""
    ran = cli("--help")
    assert ran.code == 0
    assert "Exit codes: 0 done; 1 done, and it went wrong; 2 command line" in " ".join(ran.out.split())


def test_version(cli: Cli) -> None:
    """The version, for people and for programs."""
    assert f"fabric {__version__}, Python 3." in cli("version").out
    assert json.loads(cli("version", "--json").out)["fabric"] == __version__


@pytest.mark.parametrize("arguments", [("nonsense",), ("graph",), ("call", "a"), ("up", "x.yaml", "--slots", "0")])
def test_a_wrong_command_line_is_a_usage_error(cli: Cli, arguments: tuple[str, ...]) -> None:
    """What is no command line ends with code 2 and a word on standard error."""
    ran = cli(*arguments)
    assert ran.code == ExitCode.CONFIGURATION
    assert ran.err


def test_an_error_is_one_block_without_traceback(cli: Cli, shop: Path) -> None:
    """A fleet file that is wrong is told with its line on standard error, and nothing goes to standard output."""
    (shop / "bad.yaml").write_text("name: bad\nservices:\n  a: {dependencies: [b]}\n  b: {dependencies: [a]}\n")
    ran = cli("graph", "bad.yaml")
    assert ran.code == ExitCode.CONFIGURATION
    assert ran.out == ""
    assert ran.err.startswith("error: dependency cycle: a -> b -> a\n  a needs b   bad.yaml:3\n")
    assert "Traceback" not in ran.err


def test_an_error_as_json(cli: Cli, shop: Path) -> None:
    """With --json an error is one JSON document on standard error, with its typed facts."""
    (shop / "bad.yaml").write_text("name: bad\nservices:\n  a: {dependencies: [b]}\n")
    ran = cli("check", "bad.yaml", "--json")
    told = json.loads(ran.err)
    assert told["exit_code"] == ran.code == ExitCode.CONFIGURATION
    assert (told["error"]["type"], told["error"]["name"], told["error"]["source"]) == ("UnknownName", "b", "bad.yaml:3")


def test_without_a_fleet_it_says_what_to_do(cli: Cli, shop: Path) -> None:
    """Commands that need a running fleet say how to get one."""
    for command in (("status",), ("down",), ("call", "a", "b")):
        ran = cli(*command)
        assert ran.code == ExitCode.CONFIGURATION
        assert "no fleet runs here; start one with `fabric up FLEET`" in ran.err


def test_arguments_that_are_not_json(cli: Cli, shop: Path) -> None:
    """A payload that is not JSON is a usage error before anything is connected."""
    ran = cli("call", "a", "b", "{text: 1}", "--broker-url", "unix:///nowhere")
    assert ran.code == ExitCode.CONFIGURATION
    assert "not JSON" in ran.err


def test_a_broker_that_is_not_there(cli: Cli, shop: Path) -> None:
    """Code 3: the broker is not reached, and nothing was done."""
    ran = cli("call", "a", "b", "--broker-url", f"unix://{shop}/nobody.sock", "--timeout", "0.2")
    assert ran.code == ExitCode.UNREACHABLE
    assert ran.err.startswith("error: ")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.ConfigurationError("x"), ExitCode.CONFIGURATION),
        (errors.UnknownName("a", "b", used_by="c"), ExitCode.CONFIGURATION),
        (errors.NotAllowed(**FACTS), ExitCode.CONFIGURATION),
        (errors.ConnectionLost("x"), ExitCode.UNREACHABLE),
        (errors.NoInstance(**FACTS), ExitCode.UNREACHABLE),
        (errors.Overloaded(**FACTS), ExitCode.UNREACHABLE),
        (errors.CircuitOpen(**FACTS), ExitCode.UNREACHABLE),
        (errors.ExpiredInQueue(**FACTS), ExitCode.UNREACHABLE),
        (errors.DeadlineExceeded(**FACTS), ExitCode.UNKNOWN),
        (errors.InstanceLost(**FACTS), ExitCode.UNKNOWN),
        (errors.LinkLost(**FACTS), ExitCode.UNKNOWN),
        (errors.RemoteError("x", **FACTS), ExitCode.FAILED),
        (errors.ValidationFailed(**FACTS), ExitCode.FAILED),
        (errors.StartupError("x"), ExitCode.FAILED),
        (ValueError("x"), ExitCode.FAILED),
    ],
)
def test_exit_codes_say_whether_it_was_done(error: BaseException, code: ExitCode) -> None:
    """Each error has the exit code that says whether the work was not done, done, or unknown."""
    assert exit_code(error) is code


def test_a_refusal_of_the_coordinator_speaks_for_itself(capsys: pytest.CaptureFixture[str]) -> None:
    """That it was a call, on which instance and for how long, is told of services and not of the coordinator's refusals."""
    refusal = errors.RemoteError("there is no ghost", type="ServiceError", expected=True, service="coordinator", method="explain")
    assert report(refusal) is ExitCode.FAILED
    assert capsys.readouterr().err == "error: there is no ghost\n"
    report(errors.RemoteError("no stock", type="ServiceError", expected=True, service="store", method="take"))
    assert "store.take: the handler failed: ServiceError: no stock [attempt 1" in capsys.readouterr().err


def test_check_prints_what_is_risky(cli: Cli, shop: Path) -> None:
    """S7: `fabric check` names what the lint of the plan finds, and what is in no stage; --strict makes that a failure."""
    ran = cli("check", "shop.yaml")
    assert ran.code == 0
    *found, total = ran.out.splitlines()
    assert [(line.partition(": ")[0], line.rpartition(" ")[2]) for line in found] == [
        ("shop.yaml:5", "[ungated-critical]"),
        ("shop.yaml:8", "[risky-edge]"),
        ("shop.yaml:11", "[no-stage]"),
    ]
    assert "web is critical and needs schema, which is not" in found[1]
    assert total == "shop: 5 services, 2 stages, 3 findings"
    strict = cli("check", "shop.yaml", "--strict", "--json")
    assert strict.code == ExitCode.FAILED
    assert [finding["rule"] for finding in json.loads(strict.out)["findings"]] == ["ungated-critical", "risky-edge", "no-stage"]
