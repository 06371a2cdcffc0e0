"""``fabric optimize``."""

from __future__ import annotations

import json
import random
from pathlib import Path

from fabric.cli.advice_text import predicted_and_achieved
from fabric.cli.exits import ExitCode
from fabric.cli.record import FleetDirectory
from fabric.coordination.fleet import Fleet, load_fleet
from fabric.startup.advice import Estimate
from fabric.startup.events import RunRequested
from fabric.startup.history import ProfileHistory
from fabric.startup.measure import profile_of
from fabric.startup.profile import StartupProfile
from fabric.startup.simulation import Behaviour, Simulation
from fabric.startup.stages import RunOptions
from tests.unit.cli.conftest import Cli

FLEET = """\
name: mall
services:
  store: {run: "x:Store", critical: true}
  web: {run: "x:Web", critical: true, dependencies: [store]}
  search: {run: "x:Search"}  # slow, and needs nobody
  print: {run: "x:Print", dependencies: [search]}
stages:
  - {name: base, services: [store, web], gate: {required: [web]}}
  - {name: more, services: [search, print], gate: {optional: [print]}, timeout: 90s}
"""


def simulated(fleet: Fleet, seed: int) -> StartupProfile:
    rng = random.Random(seed)
    usual = {"store": 3.0, "web": 2.0, "search": 4.0, "print": 0.5}
    seconds = {name: value * rng.uniform(0.9, 1.1) for name, value in usual.items()}
    simulation = Simulation(lambda name, instance, attempt: Behaviour(seconds=seconds[name]))
    simulation.run(RunRequested(run=f"run-{seed}", services=fleet.definitions, stages=fleet.stages, options=RunOptions()))
    return profile_of(simulation.engine)


def record(root: Path, count: int) -> Fleet:
    (root / "mall.yaml").write_text(FLEET)
    fleet = load_fleet(root / "mall.yaml")
    place = FleetDirectory(root, "mall")
    place.path.mkdir(parents=True)
    with ProfileHistory(place.history) as history:
        for seed in range(count):
            history.add("mall", simulated(fleet, seed))
    return fleet


def test_a_better_fleet_file(cli: Cli, shop: Path) -> None:
    """What no dependency orders goes before the gate; the new file keeps the old one's text, and simulates as predicted."""
    before = record(shop, 5)
    ran = cli("optimize", "mall.yaml")
    assert ran.code == ExitCode.OK, ran.err
    assert "from 5 recorded starts" in ran.out
    assert "search, print no longer wait for the gate of base" in ran.out
    assert "written to mall.optimized.yaml" in ran.out
    after = load_fleet("mall.optimized.yaml")
    assert after.stage_of("search") == "base"
    assert "# slow, and needs nobody" in (shop / "mall.optimized.yaml").read_text()
    assert after.prediction is not None
    fresh = [simulated(fleet, 99).makespan for fleet in (before, after)]
    saved = fresh[0] - fresh[1]
    assert after.prediction.low * 0.8 <= saved <= after.prediction.high * 1.2
    assert "as predicted" in predicted_and_achieved(after.prediction, after.prediction.after)


def test_as_json_from_files(cli: Cli, shop: Path) -> None:
    """Profiles may come from files, and the advice is data with --json."""
    fleet = record(shop, 1)
    for seed in range(2):
        (shop / f"{seed}.json").write_text(simulated(fleet, seed).to_json())
    told = json.loads(cli("optimize", "mall.yaml", "--from", "0.json", "--from", "1.json", "--out", "new.yaml", "--json").out)
    assert (told["runs"], told["written"]) == (2, "new.yaml")
    assert told["advice"]["estimate"]["after"] < told["advice"]["estimate"]["before"]


def test_nothing_to_change(cli: Cli, shop: Path) -> None:
    """Where nothing is better no file is written; without a recorded start there is no advice."""
    fleet = record(shop, 2)
    assert cli("optimize", "shop.yaml").code == ExitCode.CONFIGURATION
    cli("optimize", "mall.yaml")
    better = load_fleet("mall.optimized.yaml")
    with ProfileHistory(FleetDirectory(shop, fleet.name).history) as history:
        for seed in range(10, 30):
            history.add("mall", simulated(better, seed))
    (shop / "mall.optimized.yaml").unlink()
    ran = cli("optimize", "mall.yaml", "-n", "5")
    assert "nothing to change" in ran.out
    assert not (shop / "mall.optimized.yaml").exists()


def test_predicted_against_achieved() -> None:
    """A start is held against what was predicted of it."""
    gain = Estimate(before=10.0, after=7.0, low=2.0, high=4.0)
    assert predicted_and_achieved(gain, 7.5).endswith("achieved 7.50 s, 2.50 s less: as predicted")
    assert predicted_and_achieved(gain, 5.0).endswith(": better than predicted")
    assert ": worse than predicted" in predicted_and_achieved(gain, 9.0)
