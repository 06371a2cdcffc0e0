"""What the optimizer has to say."""

from __future__ import annotations

from dataclasses import dataclass

from fabric.startup.contention import Contention
from fabric.startup.stages import StartupStage

WORTH = 0.005
"""Less than this part is not worth a change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """The makespan before and after, in seconds, simulated over the observed durations.

    Attributes:
        before, after: the means.
        low, high: the 5th and the 95th percentile of what is saved.
    """

    before: float
    after: float
    low: float
    high: float

    @property
    def gain(self) -> float:
        """Seconds saved, in the mean."""
        return self.before - self.after

    @property
    def share(self) -> float:
        """The part of the run that is saved."""
        return self.gain / self.before if self.before else 0.0

    def __str__(self) -> str:
        return f"{self.before:.1f} s -> {self.after:.1f} s, saves {self.gain:.1f} s ({self.low:.1f} to {self.high:.1f})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """A change that was simulated and is part of the advice.

    Attributes:
        kind: ``barrier`` (services go before a gate that no dependency asks them to wait for) or ``slots``.
        subject: the stage whose gate it is, or the number of slots (``unlimited`` for none).
        services: those that move.
        text: the change in one sentence, with what it gives up.
        estimate: what it alone saves.
    """

    kind: str
    subject: str
    services: tuple[str, ...]
    text: str
    estimate: Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class CostlyEdge:
    """An edge that makes the run longer. Whether it is needed only its owner knows, so it is asked, not changed."""

    dependent: str
    dependency: str
    estimate: Estimate
    source: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedUp:
    """What a faster service would buy.

    Attributes:
        seconds: its mean own time.
        gain: seconds that the advised run would be shorter if the service took no time at all.
        slack: seconds by which it may take longer, at least, in the observed runs.
    """

    name: str
    seconds: float
    gain: float
    slack: float

    def __str__(self) -> str:
        if self.gain < WORTH * self.seconds:
            return f"{self.seconds:.1f} s off {self.name} buys nothing: {self.slack:.1f} s of slack"
        return f"{self.name} takes {self.seconds:.1f} s, and up to {self.gain:.1f} s of it can be saved"


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """What to change.

    Attributes:
        optimized_stages: the stages to use; those that were in use if nothing is better.
        slots: the limit to use; None is no limit.
        proposals: what was changed, in the order of what it saves.
        costly_edges: edges to think about.
        speed_ups: services worth speeding up, and long ones that are not.
        estimate: everything together.
        contention: how much starts slow each other down, as learned.
        model_error: by which part the simulation of the runs as they were differs from what they took; large errors mean
            that the estimates are to be trusted less.
        notes: what would make the advice better.
    """

    optimized_stages: tuple[StartupStage, ...]
    slots: int | None
    proposals: tuple[Proposal, ...]
    costly_edges: tuple[CostlyEdge, ...]
    speed_ups: tuple[SpeedUp, ...]
    estimate: Estimate
    contention: Contention
    model_error: float
    notes: tuple[str, ...]
