"""How much starts slow each other down when many run at once, learned from runs of different width."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fabric.startup.profile import StartupProfile


@dataclass(frozen=True, slots=True, kw_only=True)
class Contention:
    """Starts that share a machine.

    Up to ``cores`` starts each go at full speed; more share the cores evenly, and each one over costs ``overhead`` more.

    Attributes:
        cores: starts that run at full speed; infinite means that they don't slow each other down.
        overhead: what each start over ``cores`` takes from all, as a part of their speed.
    """

    cores: float = math.inf
    overhead: float = 0.0

    def speed(self, active: int) -> float:
        """The speed of each of ``active`` starts, 1 is full."""
        if active <= self.cores:
            return 1.0
        return self.cores / active / (1.0 + self.overhead * (active - self.cores))


def works(profile: StartupProfile, contention: Contention) -> dict[str, float]:
    """For each service that came up, the seconds that its last attempt would have taken alone."""
    spans = [(part.start, part.end) for one in profile.services for part in one.stretches if part.kind in ("start", "retry")]
    times = sorted({time for span in spans for time in span})
    steps = sorted([(start, 1) for start, _ in spans] + [(end, -1) for _, end in spans])
    done: dict[float, float] = {}
    total, active, at = 0.0, 0, 0
    for index, time in enumerate(times):
        if index:
            total += (time - times[index - 1]) * contention.speed(max(1, active))
        done[time] = total
        while at < len(steps) and steps[at][0] <= time:
            active += steps[at][1]
            at += 1
    return {
        one.name: sum(done[part.end] - done[part.start] for part in one.stretches if part.kind == "start")
        for one in profile.services
        if one.up and one.begun is not None
    }


def learn(profiles: Sequence[StartupProfile], *, cores: float | None = None) -> Contention:
    """The contention under which the same service did the same work in every run, as nearly as can be.

    Runs of one width only tell nothing; then starts are taken not to slow each other down, unless ``cores`` says otherwise.

    Args:
        cores: of the machine, if known.
    """
    fallback = Contention(cores=cores) if cores else Contention()
    if len({profile.width for profile in profiles}) < 2:
        return fallback
    most = max(profile.width for profile in profiles)
    choices = [cores] if cores else [float(count) for count in _steps(most)]
    found = [Contention(), *(Contention(cores=count, overhead=share) for count in choices for share in _OVERHEADS)]
    errors = {contention: _disagreement(profiles, contention) for contention in found}
    best = min(found, key=lambda contention: (errors[contention], contention.overhead, -contention.cores))
    # A model with two more free numbers always fits a little better; it has to fit much better to be believed.
    return best if errors[best] < 0.5 * errors[Contention()] else fallback


_OVERHEADS = (0.0, 0.005, 0.01, 0.02, 0.03, 0.05, 0.08, 0.12)


def _steps(most: int) -> list[int]:
    """1, 2, 3, 4, 6, 8, 12, 16, ... up to ``most``."""
    counts = [1, 2, 3]
    while counts[-1] < most:
        counts.append(counts[-2] * 2)
    return [count for count in counts if count < most]


def _disagreement(profiles: Sequence[StartupProfile], contention: Contention) -> float:
    """By how much the work of one service differs between runs: the mean variance of its logarithm."""
    seen: dict[str, list[float]] = {}
    for profile in profiles:
        for name, seconds in works(profile, contention).items():
            if seconds > 0:
                seen.setdefault(name, []).append(math.log(seconds))
    variances = [statistics.pvariance(values) for values in seen.values() if len(values) > 1]
    return statistics.fmean(variances) if variances else 0.0


def mean_by_service(samples: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each service over the samples that have it."""
    names = {name for sample in samples for name in sample}
    return {name: statistics.fmean([sample[name] for sample in samples if name in sample]) for name in sorted(names)}
