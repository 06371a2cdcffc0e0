"""One round through a running fleet, as its users would use it: each stop shows one way to reach a service, and proves it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
import urllib.parse
import urllib.request
from collections.abc import Callable
from typing import Any

from fabric import Hub, Service, on_broadcast, on_event
from fabric.coordination.coordinator import PROGRESS
from fabric.coordination.status import FleetStatus, InstanceStatus
from fabric.errors import FabricError
from fabric.routing.instance import Instance
from services.todo.aggregate import COMPLETED
from services.todo.contracts import RecordedEvent, TextInsight, TodoPage, TodoQuery
from services.todo.fleet_contracts import POLICY_CHANGED, GatewayAddress, PolicyChange, TrafficPolicy

Say = Callable[[str], None]

CALLERS = 8
CALLS_BEFORE, CALLS_AFTER = 100, 300


class TourFailed(Exception):
    """Something that the tour shows did not happen; the text says what."""


class Visitor(Service):
    """Hears the events and broadcasts that the tour causes."""

    name = "demo-visitor"

    def __init__(self) -> None:
        self.completed: asyncio.Queue[RecordedEvent] = asyncio.Queue()
        self.policies: asyncio.Queue[TrafficPolicy] = asyncio.Queue()
        self.progress: asyncio.Queue[FleetStatus] = asyncio.Queue()

    @on_event(COMPLETED)
    async def on_completed(self, event: RecordedEvent) -> None:
        self.completed.put_nowait(event)

    @on_broadcast(POLICY_CHANGED)
    async def on_policy(self, policy: TrafficPolicy) -> None:
        self.policies.put_nowait(policy)

    @on_broadcast(PROGRESS)
    async def on_progress(self, status: FleetStatus) -> None:
        self.progress.put_nowait(status)


class Tour:
    """Its stops, in the order of :meth:`go`.

    Args:
        hub: one that serves ``visitor``.
        say: takes one line for people.
    """

    def __init__(self, hub: Hub, visitor: Visitor, say: Say) -> None:
        self._hub, self._visitor, self._say = hub, visitor, say

    async def go(self) -> None:
        """All of it.

        Raises:
            TourFailed: a stop did not show what it should.
            FabricError, OSError: a call failed.
        """
        gateway = await self._hub.call("api-gateway", "where", returns=GatewayAddress)
        id = await self._todo_over_http(gateway.url)
        await self._event(id)
        await self._found_by_meaning(gateway.url, id)
        await self._capability()
        await self._broadcast()
        await self._a_gateway_dies()

    async def _todo_over_http(self, url: str) -> str:
        new = {"title": "Buy milk for the kittens", "notes": "The vet said so"}
        created = await http("POST", f"{url}/todos", new)
        done = await http("PATCH", f"{url}/todos/{created['id']}", {"done": True})
        page = await http("GET", f"{url}/todos?status=done&at_least={done['position']}")
        if created["id"] not in [todo["id"] for todo in page["todos"]]:
            raise TourFailed(f"the to-do {created['id']} was completed, but is not among the completed ones")
        self._say(f"HTTP        {url}: created “{created['title']}”, completed it, and read it back")
        return str(created["id"])

    async def _event(self, id: str) -> None:
        async with asyncio.timeout(10.0):
            while id not in (event := await self._visitor.completed.get()).stream:
                pass
        self._say(f"event       {event.type} of {event.stream}, number {event.position}, came from the event store")

    async def _found_by_meaning(self, url: str, id: str) -> None:
        query = "purchase something to drink for my cats"
        began = time.monotonic()
        while True:
            answer = await http("GET", f"{url}/todos/search?q={urllib.parse.quote(query)}")
            score = next((found["score"] for found in answer["found"] if found["todo"]["id"] == id), None)
            if answer["by"] == "meaning" and score is not None:
                break
            if time.monotonic() - began > 15.0:
                raise TourFailed(f"“{query}” does not find the to-do by meaning: {answer}")
            await asyncio.sleep(0.1)  # the index follows the events
        self._say(f"meaning     “{query}” finds it, likeness {score:.2f}")

    async def _capability(self) -> None:
        text = "Urgent: send Grace the lovely photos by Friday"
        insight = await self._hub.call_by_capability("text-analysis", "analyze", {"text": text}, returns=TextInsight)
        seen = f"language {insight.language}, mood {insight.mood}, priority {insight.priority}, due {insight.due}"
        self._say(f"capability  text-analysis of “{text}”: {seen}")

    async def _broadcast(self) -> None:
        change = PolicyChange(service="email-service", balancing="least-connections", timeout=5.0)
        made = await self._hub.call("service-mesh", "set_policy", change, returns=TrafficPolicy)
        async with asyncio.timeout(10.0):
            while (heard := await self._visitor.policies.get()).revision < made.revision:
                pass
        self._say(f"broadcast   every instance was told the policy of {heard.service}: {heard.balancing}, {heard.timeout:g} s")

    async def _a_gateway_dies(self) -> None:
        gateways = [instance for instance in await self._hub.find("api-gateway") if instance.takes_calls]
        if len(gateways) < 2:
            raise TourFailed(f"two gateways should take calls, not {len(gateways)}")
        victim, calls = gateways[0], Calls(self._hub)
        async with asyncio.timeout(60.0), asyncio.TaskGroup() as group:
            for _ in range(CALLERS):
                group.create_task(calls.keep_calling(CALLS_BEFORE + CALLS_AFTER))
            await calls.begun.wait()
            os.kill(victim.pid, signal.SIGKILL)
            killed_at = time.monotonic()
        if calls.failed:
            raise TourFailed(f"{len(calls.failed)} of {calls.ended} calls failed as {victim.id} was killed: {calls.failed[0]}")
        self._say(f"kill -9     {victim.id} while it was being called: all {calls.ended} calls were answered")
        again = await self._whole_again(victim)
        self._say(f"            {again.id} is back after {time.monotonic() - killed_at:.1f} s, as process {again.pid}")

    async def _whole_again(self, victim: Instance) -> InstanceStatus:
        """Waits until the coordinator says that the fleet is usable, with the instance that took the victim's place."""
        try:
            async with asyncio.timeout(30.0):
                while True:
                    status = await self._visitor.progress.get()
                    instances = [instance for service in status.services for instance in service.instances]
                    for instance in instances:
                        if status.state.is_usable and instance.id == victim.id and instance.pid not in (None, victim.pid):
                            return instance
        except TimeoutError:
            raise TourFailed(f"{victim.id} was not started again") from None


class Calls:
    """Calls to the gateways, one after the other by each caller, and how they ended.

    Attributes:
        begun: set when so many calls have ended that both gateways are in use.
        failed: what the callers saw other than an answer.
    """

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self.ended = 0
        self.failed: list[FabricError] = []
        self.begun = asyncio.Event()

    async def keep_calling(self, enough: int) -> None:
        """Until so many calls have ended, of all callers together."""
        while self.ended < enough:
            try:
                await self._hub.call("api-gateway", "list_todos", TodoQuery(limit=1), returns=TodoPage)
            except FabricError as error:
                self.failed.append(error)
            self.ended += 1
            if self.ended >= CALLS_BEFORE:
                self.begun.set()


async def http(method: str, url: str, body: dict[str, Any] | None = None) -> Any:
    """One request, and the JSON that came back.

    Raises:
        OSError: refused, no answer within ten seconds, or a status that is not 2xx.
    """
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, method=method, headers={"Content-Type": "application/json"})

    def ask() -> Any:
        with urllib.request.urlopen(request, timeout=10.0) as answer:
            return json.load(answer)

    return await asyncio.to_thread(ask)
