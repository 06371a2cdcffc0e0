"""The server's side of a call: admit, order, run within limits, answer, cancel."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from pydantic import ValidationError

from fabric.clock import Clock
from fabric.config import Settings
from fabric.context import CallContext, enter, leave
from fabric.contract import ServiceContract
from fabric.deadlines import Deadlines
from fabric.errors import FabricError, InvalidMessage, PayloadTooLarge
from fabric.identity import Identity
from fabric.lane import Lane
from fabric.replies import Replies
from fabric.routing import outcomes
from fabric.transports.base import Delivery, Transport
from fabric.transports.topology import Topology
from fabric.values import checked, plain, problems
from fabric.wire import batch, codec
from fabric.wire.message import MessageType, ServiceMessage
from fabric.workers import Workers

_log = logging.getLogger("fabric.dispatcher")

LONGEST = 86_400.0
"""Seconds that a request may take when its sender gave no deadline, or one beyond reason."""
STOP_PATIENCE = 1.0
"""Seconds that cancelled handlers get to clean up when the instance goes."""
MOST_CANCELLED = 4096
TELL_LOAD_EVERY = 8
"""Answers, of which one says how busy the instance is: often enough to balance by, seldom enough to cost nothing."""
MARK = "fabric.mark"


class Request:
    """A request that this instance has taken and not answered.

    Attributes:
        stop: the error to answer when its handler has been told to stop; empty when nobody waits for one.
        placed: it has got one of its method's places, and a task that runs it or is about to.
        task: what runs it. From its first step on, so that cancelling reaches the handler.
        started: in the loop's time; 0 before.
    """

    __slots__ = ("deadline", "lane", "message", "placed", "started", "stop", "task", "user")

    def __init__(self, message: ServiceMessage, lane: Lane[Request], user: str | None, deadline: float) -> None:
        self.message, self.lane, self.user, self.deadline = message, lane, user, deadline
        self.task: asyncio.Task[None] | None = None
        self.stop: dict[str, Any] | None = None
        self.placed = False
        self.started = 0.0


class Dispatcher:
    """Runs the methods of one service in this process. Owned by a hub.

    Attributes:
        marked: set when a message of method ``MARK`` has come: so has all that was sent before it.
        refused, expired, cancelled, invalid: requests that were not run, or not to their end, by the reason.
    """

    def __init__(
        self,
        transport: Transport,
        topology: Topology,
        settings: Settings,
        contract: ServiceContract,
        service: object,
        me: Identity,
        *,
        clock: Clock,
    ) -> None:
        self._contract, self._instance, self._ids, self._clock = contract, me.instance, me.ids, clock
        self._limits = codec.Limits(message_bytes=min(settings.max_message_bytes, transport.max_body))
        self._lanes: dict[str, Lane[Request]] = {}
        lanes: dict[str, Lane[Request]] = {}
        for name, method in contract.methods.items():
            self._lanes[name] = lanes.setdefault(method.name, Lane(contract.name, method, getattr(service, method.attribute)))
        self._requests: dict[str, Request] = {}
        self._cancelled: dict[str, None] = {}
        self._abandoned: set[asyncio.Task[None]] = set()
        self._deadlines: Deadlines[Request] = Deadlines(self._expire)
        self._workers: Workers[Request] = Workers(self._run, f"{contract.name} handlers")
        self._replies = Replies(transport, topology.rpc, max_batch_bytes=settings.max_batch_bytes)
        self._answers = 0
        self._accepting = False
        self._idle = asyncio.Event()
        self._idle.set()
        self.marked = asyncio.Event()
        self.refused = self.expired = self.cancelled = self.invalid = 0

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
                    self._refuse(request, outcomes.draining("it is going away"))

    def receive(self, delivery: Delivery) -> None:
        for message in batch.messages(delivery.body, delivery.content_type, self._limits):
            if isinstance(message, InvalidMessage):
                self.invalid += 1
                _log.warning("%s refused a request: %s", self._instance, message)
            elif message.type is MessageType.REQUEST:
                self._admit(message, delivery.user_id)
            elif message.type is MessageType.CANCEL:
                self._cancel(message.correlation_id or "")
            elif message.type is MessageType.PROBE:
                self._tell_unknown(message)

    # ------------------------------------------------------------ admission

    def _admit(self, message: ServiceMessage, user: str | None) -> None:
        if message.id in self._requests:
            return  # doubled on the way: it is answered once
        if message.id in self._cancelled:
            del self._cancelled[message.id]
            self.cancelled += 1
            return
        now = asyncio.get_running_loop().time()
        lane = self._lanes.get(message.method)
        left = min(message.deadline - self._clock.time(), LONGEST) if message.deadline is not None else LONGEST
        request = Request(message, lane, user, now + left) if lane is not None else None
        error = self._objection(message, lane, user, left)
        if error is not None or request is None:
            self._reply(message, now + max(left, 1.0), error=error)
            return
        self._requests[message.id] = request
        self._idle.clear()
        self._deadlines.add(request, request.deadline)
        lane = request.lane
        if lane.has_room(message.priority):
            self._start(request)
            return
        shed = lane.waiting.put(message.priority, request)
        if shed is not None:
            why = f"{len(lane.waiting)} requests wait for {message.method} already"
            self._refuse(shed, outcomes.overloaded(why, lane.retry_after))

    def _objection(
        self, message: ServiceMessage, lane: Lane[Request] | None, user: str | None, left: float
    ) -> dict[str, Any] | None:
        """Why it is not taken at all."""
        if lane is None:
            known = ", ".join(sorted(self._lanes)[:20])
            return outcomes.no_method(f"no method {message.method[:100]!r}; there are: {known}")
        if not self._accepting:
            self.refused += 1
            return outcomes.draining("it takes no calls at present")
        callers = lane.contract.options.callers
        if callers is not None and (user or "") not in callers:
            return outcomes.invalid(f"{user or message.source!r} may not call {message.method}", [])
        if left <= 0:
            self.expired += 1
            return outcomes.expired()
        return None

    def _refuse(self, request: Request, error: dict[str, Any]) -> None:
        self.refused += 1
        self._forget(request)
        self._reply(request.message, request.deadline, error=error)

    # ------------------------------------------------------------ running

    def _start(self, request: Request) -> None:
        request.lane.running += 1
        request.placed = True
        self._workers.put(request)

    async def _run(self, request: Request, task: asyncio.Task[None]) -> None:
        """Run the handler and answer, whatever it does. Each way out passes ``_end`` once."""
        now = asyncio.get_running_loop().time()
        if request.stop is None and now >= request.deadline:
            self._expire(request)
        if request.stop is not None:  # told to stop before the first step, where cancelling would have skipped all this
            self._end(request, error=request.stop)
            return
        request.task, request.started = task, now
        message, contract = request.message, request.lane.contract
        place = enter(
            CallContext(
                message.id,
                message.source,
                message.instance,
                message.method,
                message.deadline,
                message.attempt,
                message.priority,
                request.user,
                message.headers or {},
            )
        )
        try:
            try:
                arguments = contract.arguments.read(message.payload)
            except ValidationError as error:
                self._end(request, error=outcomes.invalid(_summary(error), problems(error)))
                return
            result = await request.lane.handler(**arguments)
            try:
                payload = plain(result if _fits(contract.returns, result) else checked(contract.returns, result))
            except ValidationError as error:
                _log.error("%s returned what its type does not allow: %s", request.lane.name, _summary(error))
                self._end(request, error=outcomes.invalid_result(_summary(error), problems(error)))
                return
        except asyncio.CancelledError:
            self._end(request, error=outcomes.cancelled("the handler was cancelled") if request.stop is None else request.stop)
        except BaseException as error:
            if not isinstance(error, FabricError):
                _log.warning("%s failed: %r", request.lane.name, error, exc_info=error)
            self._end(request, error=outcomes.failed(error))
            if not isinstance(error, Exception):
                raise
        else:
            self._end(request, payload)
        finally:
            leave(place)

    def _end(self, request: Request, payload: Any = None, *, error: dict[str, Any] | None = None) -> None:
        lane = request.lane
        if request.started:
            lane.ended(asyncio.get_running_loop().time() - request.started)
        lane.running -= 1
        if self._requests.get(request.message.id) is request:
            self._forget(request)
            if error is None or error:
                self._reply(request.message, request.deadline, payload, error=error)
        while (following := lane.following()) is not None:
            self._start(following)

    def _forget(self, request: Request) -> None:
        self._deadlines.remove(request, request.deadline)
        self._requests.pop(request.message.id, None)
        if not self._requests:
            self._idle.set()

    # ------------------------------------------------------------ stopping

    def _expire(self, request: Request) -> None:
        self.expired += 1
        self._stop(request, outcomes.late() if request.task is not None else outcomes.expired())

    def _cancel(self, id: str) -> None:
        """The caller gave up. Nobody waits for an answer."""
        request = self._requests.get(id)
        if request is not None:
            self.cancelled += 1
            self._stop(request, {})
            return
        # It may have overtaken its request, which goes at its own priority.
        self._cancelled[id] = None
        while len(self._cancelled) > MOST_CANCELLED:
            del self._cancelled[next(iter(self._cancelled))]

    def _stop(self, request: Request, answer: dict[str, Any]) -> None:
        """Cancel the handler once: what it does to clean up is not disturbed again."""
        if request.stop is not None:
            return
        request.stop = answer
        if not request.placed:
            request.lane.waiting.remove(request)
            self._forget(request)
            if answer:
                self._reply(request.message, request.deadline, error=answer)
        elif request.task is not None:
            request.task.cancel()

    async def drain(self, timeout: float) -> bool:
        """Refuse what is new or waiting and let what runs end. Returns whether all did within ``timeout`` seconds; the rest
        is cancelled, and answered so even if it ignores that."""
        self.accept(yes=False)
        done = await self._settled(timeout)
        if not done:
            for request in list(self._requests.values()):
                self._stop(request, outcomes.stopped())
            if not await self._settled(STOP_PATIENCE):
                self._abandon()
        self._replies.flush()
        return done

    async def _settled(self, timeout: float) -> bool:
        if not self._requests:
            return True
        try:
            async with asyncio.timeout(timeout):
                await self._idle.wait()
        except TimeoutError:
            return not self._requests
        return True

    def _abandon(self) -> None:
        for request in list(self._requests.values()):
            _log.error("%s goes on although it was cancelled; its caller is told that it is lost", request.lane.name)
            self._forget(request)
            if request.stop != {}:
                self._reply(request.message, request.deadline, error=outcomes.stopped())
            if request.task is not None:
                self._abandoned.add(request.task)
                request.task.add_done_callback(self._abandoned.discard)

    async def aclose(self) -> None:
        """Stop everything at once. What was drained before has nothing left to stop."""
        await self.drain(0.0)
        self._deadlines.close()
        self._replies.close()

    # ------------------------------------------------------------ answers

    def _tell_unknown(self, probe: ServiceMessage) -> None:
        """Somebody waits for answers to these requests. Those that are not here were lost, or their answers were."""
        if probe.method == MARK:
            self.marked.set()
        if probe.reply_to is None or not isinstance(probe.payload, list):
            return
        unknown = [id for id in probe.payload if isinstance(id, str) and id not in self._requests]
        if unknown:
            self._send(probe, MessageType.PROBE, asyncio.get_running_loop().time() + 1.0, unknown, None)

    def _reply(self, to: ServiceMessage, deadline: float, payload: Any = None, *, error: dict[str, Any] | None = None) -> None:
        if to.reply_to is None:
            return
        try:
            self._send(to, MessageType.RESPONSE, deadline, payload, error)
        except (PayloadTooLarge, InvalidMessage) as problem:
            self._send(to, MessageType.RESPONSE, deadline, None, outcomes.failed(problem))

    def _send(self, to: ServiceMessage, type: MessageType, deadline: float, payload: Any, error: dict[str, Any] | None) -> None:
        self._answers += 1
        headers = None if self._answers % TELL_LOAD_EVERY else {"load": len(self._requests)}
        data = codec.encode(
            ServiceMessage(
                self._ids.next(),
                type,
                self._contract.name,
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
                headers,
            ),
            self._limits,
        )
        self._replies.add(str(to.reply_to), to.priority, data, deadline)


def _fits(kind: Any, value: Any) -> bool:
    return kind is Any or (isinstance(kind, type) and type(value) is kind)


def _summary(error: ValidationError) -> str:
    return "; ".join(f"{'.'.join(item['loc']) or 'value'}: {item['msg']}" for item in problems(error)[:3])
