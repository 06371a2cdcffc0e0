"""``fabric profile``: which run is meant, and what is said of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fabric.cli.exits import ExitCode
from fabric.cli.record import FleetDirectory
from fabric.cli.runs import recorded_runs
from fabric.errors import ConfigurationError, UnknownName
from fabric.startup.history import ProfileHistory
from tests.unit.cli.conftest import Cli
from tests.unit.cli.profiles import SHOP, at


def record(root: Path, fleet: str, *numbers: int, **own: float) -> None:
    """Runs of a fleet, the last one with other times."""
    place = FleetDirectory(root, fleet)
    place.path.mkdir(parents=True, exist_ok=True)
    with ProfileHistory(place.history) as history:
        for number in numbers:
            history.add(fleet, at(number, **(own if number == numbers[-1] else {})))


def test_runs_by_their_place_and_name(shop: Path) -> None:
    """last, last~N, an id and its beginning name a run, also from a directory below; what names none or several is refused."""
    record(shop, "shop", 1, 2, 30, 31)
    (shop / "below").mkdir()
    with recorded_runs(None, shop / "below") as runs:
        assert [runs.chosen(name).run for name in ("last", "last~1", "last~3", "shop-2", "shop-31")] == [
            "shop-31",
            "shop-30",
            "shop-1",
            "shop-2",
            "shop-31",
        ]
        with pytest.raises(ConfigurationError, match="only 4 runs of shop"):
            runs.chosen("last~4")
        with pytest.raises(ConfigurationError, match="the beginning of 2 runs"):
            runs.chosen("shop-3")
        with pytest.raises(UnknownName, match="the run 'web', which is not defined"):
            runs.chosen("web")


def test_which_fleet_is_meant(shop: Path) -> None:
    """The only fleet that has runs here, or the one that is named; none, several and an unknown one are refused."""
    with pytest.raises(ConfigurationError, match="no run is recorded here"), recorded_runs(None, shop):
        pass
    record(shop, "shop", 1)
    record(shop, "mall", 2)
    with pytest.raises(ConfigurationError, match="several fleets are recorded here: mall, shop"), recorded_runs(None, shop):
        pass
    with recorded_runs("mall", shop) as runs:
        assert runs.chosen("last").run == "shop-2"
    with pytest.raises(ConfigurationError, match="no run of bazaar is recorded here"), recorded_runs("bazaar", shop):
        pass


BLAME = """\
     own     retry    waited  service
    1.50      1.00      1.50  web
    1.00         -      1.00  cache
    1.00         -         -  store
       -      0.50         -  mail     failed
"""
CHAIN = """\
      at      took
    0.00      1.00  store
    1.00      0.50  the gate of base, after its services were ready
    1.50      1.00  failed attempts of web
    2.50      1.50  web
    4.00            degraded
"""


def test_blame_and_critical_chain(cli: Cli, shop: Path) -> None:
    """S17 (systemd PR#8834): work stands apart from waiting, the parts of the chain add up to the whole, also as JSON."""
    record(shop, "shop", 1)
    assert cli("profile", "blame").out == BLAME
    assert cli("profile", "critical-chain").out == CHAIN
    told = json.loads(cli("profile", "critical-chain", "--json").out)
    assert sum(part["seconds"] for part in told["critical_path"]) == told["makespan"] == 4.0
    blamed = json.loads(cli("profile", "blame", "--json").out)
    assert [(one["service"], one["own"]) for one in blamed] == [("web", 1.5), ("cache", 1.0), ("store", 1.0), ("mail", 0.0)]


def test_a_profile_from_a_file(cli: Cli, shop: Path) -> None:
    """What --profile-out wrote is read where no run is recorded; a file that is no profile is refused with its name."""
    (shop / "one.json").write_text(SHOP.to_json())
    assert cli("profile", "blame", "--from", "one.json").out == BLAME
    for text in ("no JSON", "{}", "[1]"):
        (shop / "bad.json").write_text(text)
        ran = cli("profile", "blame", "--from", "bad.json")
        assert ran.code == ExitCode.CONFIGURATION
        assert "bad.json" in ran.err
    assert cli("profile", "blame", "--from", "none.json").code == ExitCode.CONFIGURATION


def test_a_plot(cli: Cli, shop: Path) -> None:
    """SVG goes to a file or to standard output, text to the terminal."""
    record(shop, "shop", 1)
    assert cli("profile", "plot").out.startswith("<svg ")
    assert cli("profile", "plot", "--out", "start.svg").out == "written to start.svg\n"
    assert (shop / "start.svg").read_text() == cli("profile", "plot", "last").out
    assert "* on the critical path" in cli("profile", "plot", "--text").out


def test_comparing_runs_and_files(cli: Cli, shop: Path) -> None:
    """Without arguments the last two runs are compared; a file may stand for a run."""
    record(shop, "shop", 1, 2, web=2.5)
    assert cli("profile", "compare").out.startswith("makespan 4.00 s -> 5.00 s, +1.00 s (+25%)\n")
    (shop / "old.json").write_text(at(1, web=3.5).to_json())
    told = json.loads(cli("profile", "compare", "old.json", "last", "--json").out)
    assert told["makespan"] == [6.0, 5.0]


def test_a_trend(cli: Cli, shop: Path) -> None:
    """A start that was slower than usual is named, and with --strict it is an exit code."""
    record(shop, "shop", *range(1, 7))
    assert cli("profile", "trend", "--strict").code == ExitCode.OK
    record(shop, "shop", 7, web=4.0)
    ran = cli("profile", "trend", "--strict")
    assert ran.code == ExitCode.FAILED
    assert "slower than usual: web took 4.00 s, usually 1.50 s over 6 runs" in ran.out
    told = json.loads(cli("profile", "trend", "--json", "-n", "5").out)
    assert told["runs"] == [f"shop-{number}" for number in range(3, 8)]
    assert {one["service"] for one in told["slower"]} == {"", "web"}
