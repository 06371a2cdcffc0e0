"""The code that measures: what it computes, what it writes, and that what needs no broker runs."""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks import __main__ as commands
from benchmarks import compiled, decision, memory, pauses, plan, report, topologies
from benchmarks.gates import Member, fleet, overheads
from benchmarks.hubs import called_by, service_of
from benchmarks.load import Call, closed, open_loop, quantile
from benchmarks.measure import Result, Table, medians, ratio, spread
from benchmarks.plot import bars, lines
from benchmarks.targets import TARGETS, against_targets, kept
from benchmarks.waits import FLEET, WAITS, with_waits
from fabric import caller
from fabric.coordination.fleet import load_fleet, parse_fleet


@pytest.mark.parametrize(("share", "expected"), [(0.0, 1.0), (0.5, 51.0), (0.99, 100.0), (1.0, 100.0)])
def test_a_quantile_is_one_of_the_values(share: float, expected: float) -> None:
    """Of 1 to 100 the median is the upper of the two in the middle, and no share asks beyond the largest."""
    assert quantile([float(value) for value in range(1, 101)], share) == expected


def test_ratios_are_taken_within_each_round() -> None:
    """A round in which the whole machine was slow changes no ratio, though it changes the medians."""
    rounds = {"a": [{"x": 10.0}, {"x": 1.0}, {"x": 40.0}], "b": [{"x": 5.0}, {"x": 0.5}, {"x": 20.0}]}
    assert ratio(rounds, "a", "b", "x") == 2.0
    assert medians(rounds) == {"a": {"x": 10.0}, "b": {"x": 5.0}}
    assert (spread([1000.0, 20.0]), spread([0.5, 0.25])) == ("20–1,000", "0.25–0.5")


async def test_a_closed_load_keeps_as_many_in_flight_as_asked() -> None:
    """With seven calls given, seven run at once and never more."""
    running, most = 0, 0

    async def call() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1

    measured = await closed([Call(call, None)] * 7, 0.02)
    assert most == 7
    assert len(measured.latencies) >= 7
    assert list(measured.latencies) == sorted(measured.latencies)


async def test_an_open_load_does_not_wait_for_answers() -> None:
    """All calls of the schedule are started while not one of them is answered yet, and each counts."""
    started, go = 0, asyncio.Event()

    async def call() -> None:
        nonlocal started
        started += 1
        if started == 40:
            go.set()
        await go.wait()

    measured = await open_loop(Call(call, None), rate=2000, seconds=0.02)
    assert started == len(measured.latencies) == 40


async def test_an_open_load_starts_no_call_before_its_time() -> None:
    """However fast the answers come, a call waits until it is due, and all of the schedule are made."""
    started: list[float] = []
    begin = time.perf_counter()

    async def call() -> None:
        started.append(time.perf_counter() - begin)
        await asyncio.sleep(0)

    measured = await open_loop(Call(call, None), rate=5000, seconds=0.04)
    assert len(measured.latencies) == len(started) == 200
    assert all(at >= number / 5000 for number, at in enumerate(started, 1))


async def test_an_open_load_counts_the_time_in_which_a_call_could_not_start() -> None:
    """A call that blocks the loop for 50 ms costs those that were due meanwhile: no coordinated omission."""
    begun = 0

    async def call() -> None:
        nonlocal begun
        begun += 1
        if begun == 1:
            clock = asyncio.get_running_loop().time
            end = clock() + 0.05
            while clock() < end:
                pass

    measured = await open_loop(Call(call, None), rate=1000, seconds=0.03)
    assert len(measured.latencies) == 30
    assert quantile(measured.latencies, 0.5) > 0.02


async def test_an_open_load_ends_with_the_error_of_a_call() -> None:
    """A call that fails ends the measurement with what it raised."""

    async def call() -> None:
        raise LookupError("gone")

    with pytest.raises(LookupError, match="gone"):
        await open_loop(Call(call, None), rate=1000, seconds=0.05)


async def test_another_answer_ends_a_load() -> None:
    """A wrong answer is an error in either load, not a fast call."""

    async def call() -> str:
        return "other"

    with pytest.raises(RuntimeError, match="another answer than 'right': 'other'"):
        await closed([Call(call, "right")], 0.02)
    with pytest.raises(RuntimeError, match="another answer"):
        await open_loop(Call(call, "right"), rate=1000, seconds=0.05)


def _result(name: str, values: dict[str, float]) -> Result:
    return Result(
        name=name,
        machine={"at": "2026-01-02T03:04:05Z", "cores": 2, "load_before": 0.5, "loop": "uvloop for everybody", "packages": {}}
        | {"python": "3.11.7", "system": "Linux x86_64"},
        options=argparse.Namespace(rounds=5, fleet=Path("fleet.yaml")),
        notes=("A sentence.",),
        tables=(Table(title="Calls", head=("", "calls/s"), rows=[["Fabric", "1,000"]]),),
        values=values,
        rounds={},
        plots={name: bars("calls", {"Fabric": 1000.0, "a < b": 10.0})},
    )


def test_what_is_kept_becomes_markdown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A result is printed, written as JSON and SVG, and found again by the report with its table and its targets."""
    assert _result("rpc", {"to_nats": 2.0, "to_grpc_asyncio": 9.5}).finish(tmp_path) == 0
    assert "Fabric    1,000" in capsys.readouterr().out
    assert json.loads((tmp_path / "rpc.json").read_text())["options"] == {"rounds": 5, "fleet": "fleet.yaml"}
    page = report.markdown(kept(tmp_path))
    assert "| Fabric | 1,000 |" in page
    assert "| ≥ 1.5 × nats-py | 2 × nats-py | reached |" in page
    assert "| ≥ 10 × gRPC asyncio | 9.5 × gRPC asyncio | not reached |" in page
    assert "| ≤ 1 s | — | not measured |" in page
    assert ElementTree.parse(tmp_path / "rpc.svg").getroot().tag.endswith("svg")


def test_targets_of_one_benchmark() -> None:
    """After a benchmark only its own targets are shown; every target belongs to one that exists."""
    assert {target.value[0] for target in TARGETS} <= set(commands.NAMES)
    assert [row[0] for row in against_targets({}, only="events").rows] == ["confirmed durable events/s, acknowledged"]
    limits = {"memory": {"values": {"resident_mb": 60.0, "cpu_percent": 0.6, "import_ms": 251.0}}}
    assert [row[3] for row in against_targets(limits, only="memory").rows] == ["reached", "not reached", "not reached"]


def test_what_the_compiled_package_reaches_stands_beside_the_rest() -> None:
    """The verdict is about the package as it is installed; a target that only the compiled one reaches stays not reached."""
    values = {"to_aio_pika_rpc": 30.0, "compiled_to_aio_pika_rpc": 41.0}
    rows = against_targets({"rpc": {"values": values}}, only="rpc").rows
    assert rows[0][2:] == ["30 × aio-pika RPC", "not reached", "41", "reached"]
    assert rows[1][2:] == ["—", "not measured", "", ""]


def test_what_is_compiled_of_other_sources_takes_no_part(tmp_path: Path) -> None:
    """Nothing built, sources that were changed since, and those that fit; only its own sides look into its folder."""
    sources, folder = tmp_path / "sources", tmp_path / "compiled"
    (folder / "fabric").mkdir(parents=True)
    sources.mkdir()
    (sources / "hub.py").write_text("new")
    assert "not built" in str(compiled.lack(folder, sources))
    (folder / "fabric/hub.so").touch()
    (folder / "fabric/hub.py").write_text("old")
    assert "hub.py" in str(compiled.lack(folder, sources))
    (folder / "fabric/hub.py").write_text("new")
    assert compiled.lack(folder, sources) is None
    assert (compiled.environment_of(compiled.NAME, folder) or {})["PYTHONPATH"] == str(folder)
    assert compiled.environment_of("fabric", folder) is None


def test_a_plot_of_lines_is_svg() -> None:
    """Also with a single size and with nothing but zeros."""
    for xs in ([1.0, 10.0, 100.0], [10.0]):
        drawing = lines("title & more", "in flight", xs, {"one": [0.0] * len(xs), "two": [0.0] * len(xs)})
        assert len(ElementTree.fromstring(drawing).findall("{http://www.w3.org/2000/svg}polyline")) == 2


def test_simulated_hubs_call_a_fixed_number_of_others() -> None:
    """Whom a hub calls exists, is never itself, and does not become more when the fleet grows."""
    for of in (10, 50, 500):
        services = {service_of(hub) for hub in range(of)}
        for hub in range(of):
            called = set(called_by(hub, of))
            assert called <= services - {service_of(hub)}
            assert len(called) == min(3, len(services) - 1)


@pytest.mark.processes
def test_what_needs_no_broker_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """``--quick`` of plan and memory goes through and leaves their results."""
    monkeypatch.chdir(tmp_path)
    assert plan.run(["--quick"]) == 0
    assert memory.run(["--quick", "--without-broker"]) == 0
    results = kept()
    assert set(results) == {"plan", "memory"}
    assert [row[0] for row in results["plan"]["tables"][0]["rows"]] == ["10", "100"]
    assert results["memory"]["values"]["import_ms"] > 0
    assert "Time to load" in capsys.readouterr().out


@pytest.mark.skipif(not str(caller.__file__).endswith(".py"), reason="it watches a breaker from a class below it")
def test_no_decision_of_a_breaker_comes_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``--quick`` of decision goes through: each of its trips opens the breaker in the turn of the loop that decided it."""
    monkeypatch.chdir(tmp_path)
    assert decision.run(["--quick"]) == 0
    rows = kept()["decision"]["tables"][0]["rows"]
    assert [row[:3] for row in rows] == [["1", "100", "0"], ["100", "20", "0"]]


@pytest.mark.skipif(not topologies.ROOT.is_dir(), reason=f"no topologies at {topologies.ROOT}; set FABRIC_TOPOLOGIES")
def test_public_fleets_are_started_on_paper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``topologies --quick`` goes through: no way is shorter than the bound, and orchestrated is never longer than by level."""
    monkeypatch.chdir(tmp_path)
    assert topologies.run(["--quick"]) == 0
    fleets = kept()["topologies"]["rounds"]
    assert len(fleets) == len(topologies.FILES)
    for sizes in fleets.values():
        for slots in ("4", "8", "no limit"):
            one = sizes[slots]
            assert one["bound"] <= one["ours"] <= one["levels"] * 1.01 <= one["sequential"] * 1.02


def test_the_fleet_with_waits_is_the_reference_fleet(tmp_path: Path) -> None:
    """Same services, edges and gates; every service waits, and embedding the longest."""
    waiting, known = load_fleet(with_waits(tmp_path / "fleet.yaml", 0.5)), load_fleet(FLEET)
    assert set(WAITS) == set(known.graph)
    assert [str(edge) for edge in waiting.graph.edges] == [str(edge) for edge in known.graph.edges]
    assert [stage.services for stage in waiting.stages] == [stage.services for stage in known.stages]


def test_an_unknown_name_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The error names what there is, and the exit code is that of wrong usage."""
    monkeypatch.setattr("sys.argv", ["benchmarks", "nothing"])
    assert commands.main() == 2
    assert "rpc, latency, events" in capsys.readouterr().err


def test_a_gate_counts_from_its_last_vote_to_the_last_command_behind_it() -> None:
    """Of each gate one number; the votes and commands in between do not shorten it."""
    text, stages = fleet(3, 2)
    assert [stage.health_gate.required for stage in parse_fleet(text, "f.yaml").stages] == [tuple(stage) for stage in stages]
    members: dict[str, Member] = {}
    for at, name in enumerate(name for stage in stages for name in stage):
        member: Member = type("Named", (Member,), {"name": name})()
        members[name] = member
        member.told, member.voted = float(at), at + 0.5
    assert overheads(members, stages) == [1.5, 1.5]


def test_a_pause_is_what_a_loop_took_too_long_for(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter((10.0, 10.0001, 10.0002, 10.0052, 10.0053, 10.6, 11.2))
    monkeypatch.setattr(pauses, "monotonic", lambda: next(times))
    assert pauses.watch(1.0) == pytest.approx([0.005, 0.5947, 0.6])


def test_pauses_are_looked_for_in_two_processes_at_once() -> None:
    found = pauses.pauses(0.05)
    assert 0.0 <= found["share"] <= pauses.BESIDE * 2
    assert (found["longest_ms"] == 0) is (found["share"] == 0)


def test_what_the_host_took_is_a_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """The share is that of the processors' time since the beginning, and nothing where no host says so."""
    seen = iter([(10.0, 100.0), (14.0, 200.0)])
    monkeypatch.setattr(pauses, "_times", lambda: next(seen))
    assert pauses.Host().share() == pytest.approx(0.04)
    monkeypatch.undo()
    assert 0.0 <= pauses.Host().share() <= 1.0
