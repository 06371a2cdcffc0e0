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
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Self

from fabric.config import Settings
from fabric.coordination.agent import Agent, AgentPolicy
from fabric.hub import Hub
from fabric.routing.instance import InstanceState
from fabric.service import Service
from fabric.transports.base import Transport
from fabric.transports.memory import MemoryNetwork, MemoryTransport
from fabric.transports.topology import Topology


class Bench:
    """A small fleet in this process on one in-memory network.

    Args:
        network: to inject faults through, or to share; made when None.
        settings: of every hub; fast heartbeats by default.
        policy: of every agent.
        seed: of all chance, so that a run repeats.
        transport: makes the links in place of the network: the same fleet on another broker. ``kill`` and ``cut`` then
            have to be done to that broker.
    """

    def __init__(
        self,
        *,
        network: MemoryNetwork | None = None,
        settings: Settings | None = None,
        policy: AgentPolicy | None = None,
        seed: int = 0,
        transport: Callable[[Settings], Awaitable[Transport]] | None = None,
    ) -> None:
        self.network = network if network is not None else MemoryNetwork()
        self._own_network = network is None
        self._settings = settings or Settings(broker_url=None, heartbeat_interval=0.5, call_timeout=5.0, drain_timeout=2.0)
        self._policy = policy or AgentPolicy(check_interval=0.5)
        self._chance = random.Random(seed)
        self._transport = transport or self._memory_transport
        self._links: dict[str, Transport] = {}
        self._clients = AsyncExitStack()
        self._instances: dict[str, AsyncExitStack] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def hub(self, name: str = "test", *, settings: Settings | None = None, **options: Any) -> Hub:
        """A client that lasts as long as the bench. ``options`` as for ``Hub.connect``."""
        return await self._enter(self._clients, name, settings or self._settings, **options)

    async def start(self, service: Service, *, managed: bool = False, instance: str = "", **options: Any) -> Agent:
        """Run a service. Unless ``managed`` it has started and says yes to its health check when this returns.

        Args:
            instance: its id; made when empty, and then found as ``service.hub.instance``.
            options: as for ``Hub.connect``.

        Raises:
            Exception: whatever its ``start`` raised.
        """
        settings = self._settings.model_copy(update={"instance": instance})
        async with AsyncExitStack() as scope:
            hub = await self._enter(scope, service.name, settings, **options)
            agent = Agent(hub, service, self._policy)
            scope.push_async_callback(agent.aclose)
            await agent.open(managed=managed)
            if not managed:
                await agent.wait_state(InstanceState.RUNNING, timeout=10.0)
            self._instances[hub.instance] = scope.pop_all()
        return agent

    async def stop(self, instance: str) -> None:
        """End an instance the orderly way: it says goodbye, drains and leaves."""
        await self._instances.pop(instance).aclose()

    def kill(self, instance: str) -> None:
        """End an instance as a power cut would: its link breaks for good, and nothing that it still does is seen."""
        self.network.partition(self._link(instance))

    def cut(self, instance: str) -> None:
        """Break the link of an instance or a client; it connects again by itself."""
        self.network.cut(self._link(instance))

    async def aclose(self) -> None:
        """Close the clients, then the instances in the reverse order of their start, then the network if it is ours."""
        async with AsyncExitStack() as everything:
            if self._own_network:
                everything.push_async_callback(self.network.aclose)
            for scope in self._instances.values():
                everything.push_async_callback(scope.aclose)
            self._instances = {}
            everything.push_async_callback(self._clients.aclose)

    async def _enter(self, scope: AsyncExitStack, name: str, settings: Settings, **options: Any) -> Hub:
        link = await self._transport(settings)
        chance = random.Random(self._chance.random())
        hub = await scope.enter_async_context(Hub.connect(name, transport=link, settings=settings, chance=chance, **options))
        self._links[hub.instance] = link
        return hub

    async def _memory_transport(self, settings: Settings) -> Transport:
        chance = random.Random(self._chance.random())
        return MemoryTransport(self.network, Topology(settings.namespace), chance=chance)

    def _link(self, instance: str) -> MemoryTransport:
        link = self._links[instance]
        if not isinstance(link, MemoryTransport):
            raise TypeError(f"{instance} is linked by {link.name}: harm that broker instead")
        return link
