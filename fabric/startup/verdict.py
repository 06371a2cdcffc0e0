"""How a run ended, from where its services are."""

from __future__ import annotations

from collections.abc import Mapping

from fabric.startup.events import Outcome
from fabric.startup.gates import GateState
from fabric.startup.record import SETTLED, UP, Phase, ServiceRecord, ServiceState
from fabric.startup.scheduler import Scheduler
from fabric.startup.some import some


def verdict(scheduler: Scheduler, services: Mapping[str, ServiceRecord], *, late: bool) -> tuple[Outcome, str]:
    """The outcome and why; RUNNING while anything is under way that the run waits for.

    Args:
        late: the run has ended before; then what it left behind is waited for too before another word is said.
    """
    if scheduler.unsettled or any(gate.state is GateState.CHECKING for gate in scheduler.gates):
        return Outcome.RUNNING, ""
    if late and any(services[name].state not in SETTLED for name in scheduler.plan.rank):
        return Outcome.RUNNING, ""
    down: list[str] = []
    lesser: list[str] = []
    for name in scheduler.plan.rank:
        record = services[name]
        if record.state not in UP:
            (down if record.definition.critical else lesser).append(name)
        elif record.missing or record.count(Phase.FAILED):
            lesser.append(name)
    if down:
        # What failed by itself before what waits for it.
        down.sort(key=lambda name: (services[name].state is not ServiceState.FAILED, name))
        return Outcome.FAILED, f"critical services are not up: {some(down)}"
    skipped = [gate.stage.name for gate in scheduler.gates if gate.state is not GateState.OPEN]
    if lesser or skipped:
        parts = [f"not whole: {some(sorted(lesser))}"] if lesser else []
        parts += [f"gates not open: {some(skipped)}"] if skipped else []
        return Outcome.DEGRADED, "; ".join(parts)
    return Outcome.SUCCEEDED, "every service is ready"
