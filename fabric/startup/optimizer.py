"""From the profiles of past runs: what would make the start-up shorter, tried out before it is advised."""

from __future__ import annotations

import dataclasses
import math
import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from fabric.errors import ConfigurationError
from fabric.startup.advice import WORTH, Advice, CostlyEdge, Estimate, Proposal, SpeedUp
from fabric.startup.contention import learn, mean_by_service, works
from fabric.startup.definition import Dependency, Edge, ServiceDefinition
from fabric.startup.events import RunRequested
from fabric.startup.graph import ServiceDependencyGraph
from fabric.startup.paths import DEFAULT_WEIGHT
from fabric.startup.profile import StartupProfile
from fabric.startup.simulation import Behaviour, Simulation
from fabric.startup.stages import RunOptions, StartupStage

_RUNS = 50
"""The latest runs that are looked at."""
_SAMPLES = 24
"""Samples that are simulated at least; every run is one, the others mix them."""
_FEW = 8
"""Samples for what is only reported and not advised."""
_TOLERATED = 0.01
"""A proposal that makes any sampled run longer by more than this part is dropped."""
_LOOKED_AT = 12
"""Services and edges tried for what they cost; those with the longest times come first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Setup:
    """One way to start the fleet."""

    services: Mapping[str, ServiceDefinition]
    stages: tuple[StartupStage, ...]
    options: RunOptions

    def with_slots(self, slots: int | None) -> _Setup:
        return dataclasses.replace(self, options=dataclasses.replace(self.options, slots=slots, parallel=True))


def optimize_startup(
    graph: ServiceDependencyGraph,
    profiles: Sequence[StartupProfile],
    *,
    cores: float | None = None,
    rng: random.Random | None = None,
) -> Advice:
    """Advice for the next run of the fleet that ``profiles`` are of; the last profile's stages are the ones improved on.

    Every proposal is simulated over samples of the observed durations by the engine that will run it, and dropped if it
    makes any sample longer by more than a hundredth or saves next to nothing in the mean.

    Args:
        graph: the fleet.
        profiles: of runs that went well, oldest first. Runs at different slot limits also show whether starts slow each
            other down.
        cores: of the machine, if all starts share one and are bound by it.
        rng: draws the samples; the same one gives the same advice.

    Raises:
        ConfigurationError: there is no profile of a run that went well.
    """
    good = [profile for profile in profiles if profile.ok and profile.makespan > 0][-_RUNS:]
    if not good:
        raise ConfigurationError("advice needs the profile of at least one run in which everything critical came up")
    return _Optimizer(graph, good, cores, rng or random.Random(0)).advice()


class _Optimizer:
    def __init__(
        self, graph: ServiceDependencyGraph, profiles: Sequence[StartupProfile], cores: float | None, rng: random.Random
    ) -> None:
        self._graph, self._profiles, self._jobs = graph, profiles, graph.jobs()
        self._contention = learn(profiles, cores=cores)
        observed = [works(profile, self._contention) for profile in profiles]
        self._samples = _draw(graph, observed, rng)
        self._usual = mean_by_service(self._samples)
        self._widths_seen = len({profile.width for profile in profiles})
        last = profiles[-1]
        known = tuple(_only_known(stage, graph) for stage in last.stages)
        self._now = _Setup(services=graph.services, stages=known, options=last.options)
        # Durations of different runs in one may run into a timeout, and then there is no makespan to compare with.
        self._before = self._makespans(self._now)
        self._drawn = len(self._samples)
        self._samples = [sample for sample, seconds in zip(self._samples, self._before, strict=True) if math.isfinite(seconds)]
        self._before = [seconds for seconds in self._before if math.isfinite(seconds)]
        if not self._samples:
            raise ConfigurationError("with the times of these runs the fleet does not come up: compare its timeouts with them")

    def advice(self) -> Advice:
        before = self._before
        best, proposals = self._improve(self._now, before)
        after = self._makespans(best)
        estimate = _estimate(before, after)
        return Advice(
            optimized_stages=best.stages,
            slots=best.options.width,
            proposals=tuple(sorted(proposals, key=lambda proposal: -proposal.estimate.gain)),
            costly_edges=self._costly_edges(best, after[:_FEW]),
            speed_ups=self._speed_ups(best, after[:_FEW]),
            estimate=estimate,
            contention=self._contention,
            model_error=self._model_error(),
            notes=self._notes(),
        )

    def _improve(self, now: _Setup, before: list[float]) -> tuple[_Setup, list[Proposal]]:
        """Takes what saves most, again and again, until nothing saves anything more."""
        best, times = now, before
        proposals: list[Proposal] = []
        while True:
            tried = []
            for proposal, setup in self._candidates(best):
                after = self._makespans(setup)
                if _is_better(times, after) and _is_better(before, after):
                    tried.append((statistics.fmean(after), proposal.subject, proposal, setup, after))
            if not tried:
                return best, proposals
            _, _, proposal, setup, after = min(tried, key=lambda one: one[:2])
            proposals = [one for one in proposals if one.kind != "slots" or proposal.kind != "slots"]
            proposals.append(dataclasses.replace(proposal, estimate=_estimate(times, after)))
            best, times = setup, after

    def _candidates(self, setup: _Setup) -> list[tuple[Proposal, _Setup]]:
        none = Estimate(before=0.0, after=0.0, low=0.0, high=0.0)
        found = []
        for index, stage in enumerate(setup.stages[:-1]):
            lifted, moved = _lift(self._graph, setup.stages, index)
            if moved:
                text = (
                    f"{', '.join(moved)} no longer wait for the gate of {stage.name}: no dependency asks for it; "
                    f"they may then start though {', '.join(stage.health_gate.required) or 'that stage'} fails"
                )
                proposal = Proposal(kind="barrier", subject=stage.name, services=moved, text=text, estimate=none)
                found.append((proposal, dataclasses.replace(setup, stages=lifted)))
        for slots in self._slot_choices(setup):
            if slots != setup.options.width:
                name = str(slots) if slots else "unlimited"
                text = f"start at most {slots} services at a time" if slots else "start without a limit"
                proposal = Proposal(kind="slots", subject=name, services=(), text=text, estimate=none)
                found.append((proposal, setup.with_slots(slots)))
        return found

    def _slot_choices(self, setup: _Setup) -> list[int | None]:
        """Limits worth a try. Where nothing is known of contention, the limit may be there for a reason and stays."""
        if self._contention.cores == math.inf:
            return [None] if self._widths_seen > 1 else []
        cores = max(1, round(self._contention.cores))
        return [None, *sorted({cores, cores + 1, 2 * cores, 3 * cores, 4 * cores, 8 * cores})]

    def _costly_edges(self, setup: _Setup, times: list[float]) -> tuple[CostlyEdge, ...]:
        redundant = set(self._graph.redundant_edges())
        on_path = {part.name for profile in self._profiles for part in profile.critical_path}
        edges = [
            edge
            for edge in self._graph.edges
            if not edge.optional and edge not in redundant and edge.dependent in on_path and edge.dependency in on_path
        ]
        edges.sort(key=lambda edge: (-self._usual.get(edge.dependency, 0.0), edge.dependent, edge.dependency))
        found = []
        for edge in edges[:_LOOKED_AT]:
            services = {**setup.services, edge.dependent: _without(setup.services[edge.dependent], edge)}
            after = self._makespans(dataclasses.replace(setup, services=services), self._samples[:_FEW])
            if _is_better(times, after):
                found.append(
                    CostlyEdge(
                        dependent=edge.dependent,
                        dependency=edge.dependency,
                        estimate=_estimate(times, after),
                        source=edge.source,
                    )
                )
        return tuple(sorted(found, key=lambda edge: -edge.estimate.gain))

    def _speed_ups(self, setup: _Setup, times: list[float]) -> tuple[SpeedUp, ...]:
        slack = {
            name: min(profile.service(name).slack for profile in self._profiles if name in profile.needs)
            for name in self._usual
            if any(name in profile.needs for profile in self._profiles)
        }
        names = sorted(self._usual, key=lambda name: (-self._usual[name], name))[:_LOOKED_AT]
        found = []
        for name in names:
            after = self._makespans(setup, [{**sample, name: 0.0} for sample in self._samples[:_FEW]])
            gain = max(0.0, statistics.fmean(times) - statistics.fmean(after))
            found.append(SpeedUp(name=name, seconds=self._usual[name], gain=gain, slack=slack.get(name, 0.0)))
        return tuple(sorted(found, key=lambda one: (-one.gain, -one.seconds, one.name)))

    def _model_error(self) -> float:
        errors = []
        for profile in self._profiles:
            setup = _Setup(
                services=self._graph.services,
                stages=tuple(_only_known(stage, self._graph) for stage in profile.stages),
                options=profile.options,
            )
            simulated = self._simulate(setup, self._fill(works(profile, self._contention)))
            errors.append(abs(simulated - profile.makespan) / profile.makespan)
        return statistics.fmean(errors)

    def _notes(self) -> tuple[str, ...]:
        notes = []
        if len(self._samples) < self._drawn:
            notes.append(
                f"{self._drawn - len(self._samples)} of {self._drawn} samples are left out: with these times, drawn from "
                "different runs, something takes longer than its timeout"
            )
        if len(self._profiles) < 3:
            notes.append(f"this rests on {len(self._profiles)} run(s); three or more show how much times vary")
        if self._widths_seen < 2 and self._contention.cores == math.inf:
            width = max(2, self._profiles[-1].width // 2)
            notes.append(f"all runs were of one width: one with slots={width} would show whether starts slow each other down")
        return tuple(notes)

    def _fill(self, sample: Mapping[str, float]) -> dict[str, float]:
        return {name: sample.get(name, self._usual.get(name, DEFAULT_WEIGHT)) for name in self._graph}

    def _makespans(self, setup: _Setup, samples: Sequence[Mapping[str, float]] | None = None) -> list[float]:
        return [self._simulate(setup, sample) for sample in (self._samples if samples is None else samples)]

    def _simulate(self, setup: _Setup, seconds: Mapping[str, float]) -> float:
        """The makespan of one run; infinite if it would not go well."""
        request = RunRequested(
            run="simulated",
            services=tuple(setup.services.values()),
            stages=setup.stages,
            options=setup.options,
            durations=self._usual,
        )
        speed: Callable[[int], float] | None = None if self._contention.cores == math.inf else self._contention.speed

        def behave(service: str, instance: str, attempt: int) -> Behaviour:
            return Behaviour(seconds=seconds[service], exit_code=0 if service in self._jobs else None)

        simulation = Simulation(behave, speed=speed)
        end = simulation.run(request)
        return end.at if end is not None and end.outcome.ok else math.inf


def _draw(graph: ServiceDependencyGraph, observed: Sequence[Mapping[str, float]], rng: random.Random) -> list[dict[str, float]]:
    """The observed runs as they were, and mixtures of them in which each service is drawn by itself."""
    usual = mean_by_service(observed)
    middle = statistics.median(usual.values()) if usual else DEFAULT_WEIGHT
    by_service = {name: [sample[name] for sample in observed if name in sample] or [middle] for name in sorted(graph)}
    samples = [{name: sample.get(name, by_service[name][0]) for name in by_service} for sample in observed]
    while len(samples) < (_SAMPLES if len(observed) > 1 else 1):
        samples.append({name: rng.choice(values) for name, values in by_service.items()})
    return samples


def _estimate(before: Sequence[float], after: Sequence[float]) -> Estimate:
    saved = sorted(one - other for one, other in zip(before, after, strict=True))
    return Estimate(
        before=statistics.fmean(before),
        after=statistics.fmean(after),
        low=saved[round(0.05 * (len(saved) - 1))],
        high=saved[round(0.95 * (len(saved) - 1))],
    )


def _is_better(before: Sequence[float], after: Sequence[float]) -> bool:
    if not all(math.isfinite(seconds) for seconds in after):
        return False
    if any(new > old * (1 + _TOLERATED) for old, new in zip(before, after, strict=True)):
        return False
    return statistics.fmean(after) < statistics.fmean(before) * (1 - WORTH)


def _lift(
    graph: ServiceDependencyGraph, stages: tuple[StartupStage, ...], index: int
) -> tuple[tuple[StartupStage, ...], tuple[str, ...]]:
    """Moves before the gate of stage ``index`` what waits behind it without needing all that it requires."""
    required = set(stages[index].health_gate.required)
    behind = [name for stage in stages[index + 1 :] for name in stage.services]
    moved = tuple(name for name in behind if required and not required <= graph.closure(name) | {name})
    # What a moved one needs has to come along, or the move would only change whom it waits for.
    needed = {need for name in moved for need in graph.closure(name)}
    moved = tuple(name for name in behind if name in moved or name in needed)
    lifted = [
        dataclasses.replace(
            stage,
            services=(*stage.services, *moved) if at == index else tuple(name for name in stage.services if name not in moved),
        )
        if at >= index
        else stage
        for at, stage in enumerate(stages)
    ]
    return tuple(lifted), moved


def _without(service: ServiceDefinition, edge: Edge) -> ServiceDefinition:
    kept = tuple(item for item in service.dependencies if _name(item) != edge.dependency)
    return dataclasses.replace(service, dependencies=kept)


def _name(item: str | Dependency) -> str:
    return item if isinstance(item, str) else item.on


def _only_known(stage: StartupStage, graph: ServiceDependencyGraph) -> StartupStage:
    """A stage of an older profile without services that are no longer in the fleet."""
    gate = stage.health_gate
    return dataclasses.replace(
        stage,
        services=tuple(name for name in stage.services if name in graph),
        health_gate=dataclasses.replace(
            gate,
            required=tuple(name for name in gate.required if name in graph),
            optional=tuple(name for name in gate.optional if name in graph),
            instances={name: count for name, count in gate.instances.items() if name in graph},
        ),
    )
