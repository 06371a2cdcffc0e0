"""From a fleet to the processes that make it up: what is started, with which arguments and environment."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fabric.cli.fork_server import ForkServerSpec
from fabric.cli.process import FABRIC, ProcessSpec, Restart
from fabric.coordination.fleet import Fleet, RunSpec
from fabric.coordination.health_checks import VARIABLE, dump_checks
from fabric.errors import ConfigurationError
from fabric.startup.definition import HealthCheck, RetryPolicy

BROKER, COORDINATOR = "broker", "coordinator"
_INFRASTRUCTURE = Restart(attempts=3, delay=0.2, max_delay=5.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """How the processes of one fleet find each other.

    Attributes:
        root: where they are started, and where their modules are looked for.
        history: the file where the profiles of all runs are kept; None keeps none.
    """

    fleet: Fleet
    broker_url: str = field(repr=False)
    namespace: str
    root: Path
    history: Path | None = None

    def environment(self) -> Mapping[str, str]:
        """What every process of the fleet is told."""
        modules = [str(self.root), *filter(None, [os.environ.get("PYTHONPATH")])]
        return {
            "FABRIC_BROKER_URL": self.broker_url,
            "FABRIC_BROKER_URL_FILE": "",
            "FABRIC_NAMESPACE": self.namespace,
            **self._policies(),
            "PYTHONPATH": os.pathsep.join(modules),
            # so that `command: [python, ...]` is the Python that runs the fleet
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
        }

    def _policies(self) -> Mapping[str, str]:
        """As far as the file says anything of them; otherwise what our own environment says holds."""
        fleet = self.fleet
        said = {} if fleet.policies is None else {"FABRIC_POLICIES": json.dumps(fleet.policies)}
        return said | ({"FABRIC_POLICIES_FROM": fleet.policies_from} if fleet.policies_from else {})

    def fork_server(self) -> ForkServerSpec:
        """What makes them, where that is wanted."""
        modules = (run.target.partition(":")[0] for run in self.fleet.runs.values() if run.target and self.fleet.preload)
        return ForkServerSpec(environment=self.environment(), cwd=self.root, modules=tuple(dict.fromkeys(modules)))

    def broker(self, socket: Path) -> ProcessSpec:
        """The embedded broker."""
        return self._fabric(BROKER, "broker", "--socket", str(socket))

    def coordinator(self) -> ProcessSpec:
        history = ("--history", str(self.history)) if self.history else ()
        return self._fabric(COORDINATOR, "coordinator", str(self.fleet.path), *history)

    def services(self) -> Iterator[ProcessSpec]:
        """One process an instance: stage by stage, in each stage what others need first.

        Raises:
            ConfigurationError: the file does not say how a service is started.
        """
        stages = {name: index for index, stage in enumerate(self.fleet.stages) for name in stage.services}
        order = {name: index for index, name in enumerate(self.fleet.graph.order())}
        for name in sorted(order, key=lambda name: (stages.get(name, len(stages)), order[name])):
            run = self.fleet.runs[name]
            for number in range(1, run.instances + 1):
                yield self.instance(f"{name}-{number}", run)

    def instance(self, instance: str, run: RunSpec) -> ProcessSpec:
        """The process of one instance, run as ``run`` says.

        Raises:
            ConfigurationError: that does not say how.
        """
        name = run.service
        if not run.is_ours:
            raise ConfigurationError(
                f"service {name} has neither run nor command, so it can't be started here", source=self.fleet.graph[name].source
            )
        return ProcessSpec(
            name=instance,
            service=name,
            argv=(*FABRIC, "run", run.target) if run.target else run.command,
            env={
                **self.environment(),
                **self._checks(name),
                **run.env,
                "FABRIC_INSTANCE": instance,
                "FABRIC_INSTANCE_NUMBER": instance.rpartition("-")[2],
                "FABRIC_MANAGED": "1",
            },
            cwd=run.cwd or self.root,
            restart=self._restart(name),
        )

    def _checks(self, name: str) -> Mapping[str, str]:
        """The health checks that the file names. A class that has only its own needs no word of it."""
        checks = self.fleet.graph[name].health_checks
        usual = HealthCheck(source=checks[0].source if checks else None)
        return {} if checks == (usual,) else {VARIABLE: dump_checks(checks)}

    def _restart(self, name: str) -> Restart:
        stage = next((stage for stage in self.fleet.stages if name in stage.services), None)
        retry = self.fleet.graph[name].retry_policy or (stage.retry_policy if stage else None) or RetryPolicy()
        return Restart(
            on_failure=self.fleet.runs[name].restart,
            attempts=retry.attempts,
            delay=min(retry.delay, retry.max_delay),
            factor=retry.factor,
            max_delay=retry.max_delay,
            reset_after=retry.reset_after,
        )

    def _fabric(self, name: str, *arguments: str) -> ProcessSpec:
        return ProcessSpec(
            name=name,
            service=name,
            argv=(*FABRIC, *arguments),
            env={**self.environment(), "FABRIC_INSTANCE": f"{name}-1"},
            cwd=self.root,
            restart=_INFRASTRUCTURE,
        )
