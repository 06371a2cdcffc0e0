"""The server's side of a call: admit, order, run within limits, answer, cancel."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from pydantic import ValidationError

from fabric.clock import Clock
from fabric.config import Settings
from fabric.context import CallContext, enter
from fabric.contract import MethodContract, ServiceContract, checked, plain, problems
from fabric.errors import FabricError, InvalidMessage, PayloadTooLarge
from fabric.routing import outcomes
from fabric.routing.limits import PriorityQueue
from fabric.transports.base import Delivery, LinkState, Transport
from fabric.transports.topology import Topology
from fabric.wire import batch, codec
from fabric.wire.message import MessageIds, MessageType, Priority, ServiceMessage

_log = logging.getLogger("fabric.dispatcher")


class Request:
    """A request that this instance has taken and not answered."""

    __slots__ = ("deadline", "lane", "message", "task", "timer", "user")

    def __init__(self, message: ServiceMessage, lane: Lane, user: str | None, deadline: float) -> None:
        self.message, self.lane, self.user, self.deadline = message, lane, user, deadline
        self.task: asyncio.Task[None] | None = None
        self.timer: asyncio.TimerHandle | None = None


class Lane:
    """One method: what runs and what waits. Each has its own limits, so a slow method never holds up another."""

    __slots__ = ("contract", "handler", "running", "waiting")

    def __init__(self, contract: MethodContract, handler: Callable[..., Any]) -> None:
        self.contract, self.handler = contract, handler
        self.running = 0
        self.waiting: PriorityQueue[Request] = PriorityQueue(contract.options.queue)


class Dispatcher:
    """Runs the methods of one service in this process. Owned by a hub."""

    def __init__(
        self,
        transport: Transport,
        topology: Topology,
        settings: Settings,
        contract: ServiceContract,
        service: object,
        *,
        instance: str,
        ids: MessageIds,
        clock: Clock,
    ) -> None:
        self._transport, self._topology, self._contract = transport, topology, contract
        self._service_name, self._instance, self._ids, self._clock = contract.name, instance, ids, clock
        self._limits = codec.Limits(message_bytes=settings.max_message_bytes)
        self._max_batch = settings.max_batch_bytes
        lanes: dict[str, Lane] = {}
        self._lanes: dict[str, Lane] = {}
        for name, method in contract.methods.items():
            lane = lanes.setdefault(method.name, Lane(method, getattr(service, method.attribute)))
            self._lanes[name] = lane
        self._requests: dict[str, Request] = {}
        self._replies: dict[tuple[str, Priority], list[bytes]] = {}
        self._accepting = False
        self._idle = asyncio.Event()
        self._idle.set()
        self.refused = self.expired = self.invalid = self.dropped_replies = 0

    @property
    def load(self) -> int:
        """Requests running and waiting."""
        return len(self._requests)

    def accept(self, *, yes: bool) -> None:
        """Take requests from now on, or refuse them so that callers go elsewhere."""
        self._accepting = yes
        if not yes:
            for lane in set(self._lanes.values()):
                for request in lane.waiting.clear():
                    self._refuse(request, "draining")

    def receive(self, delivery: Delivery) -> None:
        for message in batch.messages(delivery.body, delivery.content_type, self._limits):
            if isinstance(message, InvalidMessage):
                self.invalid += 1
                _log.warning("%s refused a request: %s", self._instance, message)
            elif message.type is MessageType.REQUEST:
                self._admit(message, delivery.user_id)
            elif message.type is MessageType.CANCEL:
                self._cancel(message.correlation_id or "")

    def _admit(self, message: ServiceMessage, user: str | None) -> None:
        now = asyncio.get_running_loop().time()
        lane = self._lanes.get(message.method)
        if lane is None:
            known = ", ".join(sorted(self._lanes)[:20])
            self._reply(message, error={"kind": "no-method", "message": f"no method {message.method!r}; there are: {known}"})
            return
        if not self._accepting:
            self.refused += 1
            self._reply(message, error=outcomes.overloaded("not running"))
            return
        callers = lane.contract.options.callers
        if callers is not None and (user or "") not in callers:
            self._reply(message, error=outcomes.invalid(f"{user or message.source!r} may not call {message.method}", []))
            return
        left = (message.deadline - self._clock.time()) if message.deadline is not None else 3600.0
        if left <= 0:
            self.expired += 1
            self._reply(message, error=outcomes.expired())
            return
        request = Request(message, lane, user, now + left)
        self._requests[message.id] = request
        self._idle.clear()
        if lane.running < lane.contract.options.concurrency:
            self._start(request)
            return
        shed = lane.waiting.put(message.priority, request)
        if shed is not None:
            self._refuse(shed, f"{len(lane.waiting)} requests wait for {message.method} already")

    def _refuse(self, request: Request, reason: str) -> None:
        self.refused += 1
        self._forget(request)
        self._reply(request.message, error=outcomes.overloaded(reason))

    def _start(self, request: Request) -> None:
        request.lane.running += 1
        loop = asyncio.get_running_loop()
        request.task = loop.create_task(self._run(request), name=f"{self._service_name}.{request.message.method}")
        request.timer = loop.call_at(request.deadline, request.task.cancel)

    async def _run(self, request: Request) -> None:
        message, contract = request.message, request.lane.contract
        enter(
            CallContext(
                id=message.id,
                source=message.source,
                instance=message.instance,
                method=message.method,
                deadline=message.deadline,
                attempt=message.attempt,
                priority=message.priority,
                user=request.user,
                headers=message.headers or {},
            )
        )
        try:
            arguments = contract.arguments.read(message.payload)
        except ValidationError as error:
            self._finish(request)
            self._reply(message, error=outcomes.invalid(_summary(error), problems(error)))
            return
        try:
            result = await request.lane.handler(**arguments)
            payload = plain(result if _fits(contract.returns, result) else checked(contract.returns, result))
        except asyncio.CancelledError:
            self._finish(request)
            self._reply(message, error=outcomes.cancelled("the caller gave up or the deadline passed"))
        except Exception as error:
            if not isinstance(error, FabricError):
                _log.warning("%s.%s failed: %r", self._service_name, message.method, error, exc_info=error)
            self._finish(request)
            self._reply(message, error=outcomes.failed(error))
        else:
            self._finish(request)
            self._reply(message, payload)

    def _finish(self, request: Request) -> None:
        request.lane.running -= 1
        self._forget(request)
        self._next(request.lane)

    def _forget(self, request: Request) -> None:
        if request.timer is not None:
            request.timer.cancel()
        self._requests.pop(request.message.id, None)
        if not self._requests:
            self._idle.set()

    def _next(self, lane: Lane) -> None:
        now = asyncio.get_running_loop().time()
        while lane.running < lane.contract.options.concurrency and (request := lane.waiting.take()) is not None:
            if request.deadline <= now:
                self.expired += 1
                self._forget(request)
                self._reply(request.message, error=outcomes.expired())
            else:
                self._start(request)

    def _cancel(self, id: str) -> None:
        request = self._requests.get(id)
        if request is None:
            return
        if request.task is not None:
            request.task.cancel()
        elif request.lane.waiting.remove(request):
            self._forget(request)

    def _reply(self, to: ServiceMessage, payload: Any = None, *, error: dict[str, Any] | None = None) -> None:
        if to.reply_to is None:
            return
        try:
            data = self._encode(to, payload, error)
        except (PayloadTooLarge, InvalidMessage) as problem:
            data = self._encode(to, None, outcomes.failed(problem))
        waiting = self._replies.get((to.reply_to, to.priority))
        if waiting is None:
            self._replies[to.reply_to, to.priority] = [data]
            asyncio.get_running_loop().call_soon(self._flush, to.reply_to, to.priority)
        else:
            waiting.append(data)

    def _encode(self, to: ServiceMessage, payload: Any, error: dict[str, Any] | None) -> bytes:
        return codec.encode(
            ServiceMessage(
                self._ids.next(),
                MessageType.RESPONSE,
                self._service_name,
                self._instance,
                to.source,
                to.method,
                payload,
                to.priority,
                to.id,
                None,
                to.attempt,
                None,
                error,
                None,
            ),
            self._limits,
        )

    def _flush(self, address: str, priority: Priority) -> None:
        """Answers to one caller that became ready in the same loop turn travel together."""
        waiting = self._replies.pop((address, priority), [])
        start = 0
        while start < len(waiting):
            end, size = start, 0
            while end < len(waiting) and (end == start or size + len(waiting[end]) <= self._max_batch):
                size += len(waiting[end]) + batch.OVERHEAD
                end += 1
            self._post(address, priority, waiting[start:end])
            start = end

    def _post(self, address: str, priority: Priority, bodies: list[bytes]) -> None:
        body, content_type = (bodies[0], codec.MSGPACK) if len(bodies) == 1 else (batch.join(bodies), batch.BATCH)
        if self._transport.state is LinkState.CLOSED or not self._transport.post(
            self._topology.rpc, address, body, priority=priority, content_type=content_type
        ):
            self.dropped_replies += len(bodies)

    async def drain(self, timeout: float) -> bool:
        """Refuse what is new or waiting and let what runs end. Returns whether all did within ``timeout`` seconds; the rest
        is cancelled and answered so."""
        self.accept(yes=False)
        try:
            await asyncio.wait_for(self._idle.wait(), timeout)
            done = True
        except TimeoutError:
            done = False
        tasks = [request.task for request in self._requests.values() if request.task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=1.0)
        for key in list(self._replies):
            self._flush(*key)
        return done


def _fits(kind: Any, value: Any) -> bool:
    return kind is Any or (isinstance(kind, type) and type(value) is kind)


def _summary(error: ValidationError) -> str:
    return "; ".join(f"{'.'.join(item['loc']) or 'value'}: {item['msg']}" for item in problems(error)[:3])
