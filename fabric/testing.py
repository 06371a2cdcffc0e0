"""Test services with: real hubs on a broker in memory, no mocks, no sockets, no process.

```python
async def test_welcome() -> None:
    async with Bench() as bench:
        await bench.start(EmailService())
        hub = await bench.hub("test")
        receipt = await hub.call("email-service", "send_email", {"to": "a@example.org"})
```
"""

from __future__ import annotations

import random
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Self

from fabric.config import Settings
from fabric.coordination.agent import Agent, AgentPolicy
from fabric.hub import Hub
from fabric.routing.instance import InstanceState
from fabric.service import Service
from fabric.transports.memory import MemoryNetwork, MemoryTransport
from fabric.transports.topology import Topology


class Bench:
    """A small fleet in this process on one in-memory network.

    Args:
        network: to inject faults through, or to share; made when None.
        settings: of every hub; fast heartbeats by default.
        policy: of every agent.
        seed: of all chance, so that a run repeats.
    """

    def __init__(
        self,
        *,
        network: MemoryNetwork | None = None,
        settings: Settings | None = None,
        policy: AgentPolicy | None = None,
        seed: int = 0,
    ) -> None:
        self.network = network if network is not None else MemoryNetwork()
        self._settings = settings or Settings(broker_url=None, heartbeat_interval=0.5, call_timeout=5.0, drain_timeout=2.0)
        self._policy = policy or AgentPolicy(check_interval=0.5)
        self._chance = random.Random(seed)
        self._stack = AsyncExitStack()
        self._scopes: dict[str, AsyncExitStack] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def hub(self, name: str = "test", **options: Any) -> Hub:
        """A client. ``options`` as for ``Hub.connect``."""
        return await self._stack.enter_async_context(self._connect(name, self._settings, **options))

    def _connect(self, name: str, settings: Settings, **options: Any) -> Any:
        transport = MemoryTransport(self.network, Topology(settings.namespace))
        chance = random.Random(self._chance.random())
        return Hub.connect(name, transport=transport, settings=settings, chance=chance, **options)

    async def start(self, service: Service, *, managed: bool = False, instance: str = "", **options: Any) -> Agent:
        """Run a service. Unless ``managed`` it has started and says yes to its health check when this returns.

        Raises:
            Exception: whatever its ``start`` raised.
        """
        settings = self._settings.model_copy(update={"instance": instance})
        scope = AsyncExitStack()
        hub = await scope.enter_async_context(self._connect(service.name, settings, **options))
        agent = Agent(hub, service, self._policy)
        scope.push_async_callback(agent.aclose)
        self._scopes[hub.instance] = scope
        await agent.open(managed=managed)
        if not managed:
            await agent.wait_state(InstanceState.RUNNING, timeout=10.0)
        return agent

    async def stop(self, instance: str) -> None:
        """End an instance the orderly way."""
        await self._scopes.pop(instance).aclose()

    async def aclose(self) -> None:
        await self._stack.aclose()
        while self._scopes:
            _, scope = self._scopes.popitem()
            await scope.aclose()
