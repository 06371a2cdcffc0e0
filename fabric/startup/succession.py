"""What a new run makes of the services that an earlier one left."""

from __future__ import annotations

from fabric.startup.attempts import Attempts
from fabric.startup.plan import Plan
from fabric.startup.record import PENDING, REST, Phase, ServiceRecord, ServiceState
from fabric.startup.scheduler import Scheduler


def new_record(plan: Plan, name: str, now: float) -> ServiceRecord:
    """A service at the beginning of a run."""
    record = ServiceRecord(
        definition=plan.services[name], quorum=plan.quorum[name], retry=plan.retry[name], job=name in plan.jobs
    )
    record.since = record.booked_to = now
    if name in plan.skipped:
        record.state, record.reason = ServiceState.SKIPPED, "this run leaves out what is optional"
    return record


def adopt(old: ServiceRecord, new: ServiceRecord, attempts: Attempts, scheduler: Scheduler, now: float) -> None:
    """Takes over what an earlier run left of a service: what is up stays up, what is starting goes on.

    What is starting by another definition, or is being stopped, is started anew.
    """
    changed = old.definition != new.definition or old.state is ServiceState.STOPPING
    new.attempt, new.instances = old.attempt, old.instances
    for place in list(new.instances.values()):
        if place.phase is Phase.UP or (place.phase is Phase.STARTING and not changed):
            attempts.adopt(new, place)
        elif place.phase is not Phase.DONE:
            attempts.forget(new, place)
            place.phase, place.failures = Phase.PRESENT, 0
            if place.id == REST:
                del new.instances[REST]
    scheduler.derive(new)
    if new.state in PENDING and new.count(Phase.STARTING, Phase.UP) >= new.definition.instances:
        new.begun_at = now
        scheduler.set(new, ServiceState.STARTING, "it was starting already")
