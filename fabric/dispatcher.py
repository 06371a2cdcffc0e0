"""The server's side of a call: admit, order, run within limits, answer, cancel."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final

from pydantic import ValidationError

from fabric.clock import Clock
from fabric.config import Settings
from fabric.context import CallContext, enter
from fabric.contract import ServiceContract
from fabric.contracts import description
from fabric.deadlines import TICK, Lookout
from fabric.errors import FabricError, InvalidMessage
from fabric.identity import Identity
from fabric.lane import Lane
from fabric.outflow import WINDOW, Misfit, Outflow, returned
from fabric.refusals import Refusals
from fabric.replies import Replies
from fabric.routing import outcomes
from fabric.transports.base import Delivery, Transport
from fabric.transports.topology import Topology
from fabric.values import LEAVES, problems
from fabric.wire import batch, codec
from fabric.wire.message import MessageType, ServiceMessage
from fabric.workers import Workers

_log = logging.getLogger("fabric.dispatcher")

LONGEST = 86_400.0
"""Seconds that a request may take when its sender gave no deadline, or one beyond reason."""
STOP_PATIENCE = 1.0
"""Seconds that cancelled handlers get to clean up when the instance goes."""
MOST_CANCELLED = 4096
MARK = "fabric.mark"
_REQUEST: Final = MessageType.REQUEST


class Request:
    """A request that this instance has taken and not answered.

    Attributes:
        deadline: in the loop's time.
        due: when it is stopped for that; a little later, since its caller has the first word. Infinite afterwards.
        stop: the error to answer when its handler has been told to stop; empty when nobody waits for one.
        placed: it has got one of its method's places, and a task that runs it or is about to.
        task: what runs it. From its first step on, so that cancelling reaches the handler.
        started: in the loop's time; 0 before.
        flow: of the parts of its answer; None where that is one whole.
    """

    __slots__ = ("deadline", "due", "flow", "lane", "message", "placed", "started", "stop", "task", "user")

    def __init__(self, message: ServiceMessage, lane: Lane[Request], user: str | None, deadline: float) -> None:
        self.message, self.lane, self.user = message, lane, user
        self.deadline, self.due = deadline, deadline + TICK
        self.task: asyncio.Task[None] | None = None
        self.stop: dict[str, Any] | None = None
        self.placed = False
        self.started = 0.0
        self.flow = Outflow.asked_by(message) if lane.streams else None

    def context(self) -> CallContext:
        """What its handler may know of it."""
        id, _, source, instance, _, method, _, priority, _, deadline, attempt, _, _, headers = self.message
        return CallContext(id, source, instance, method, deadline, attempt, priority, self.user, headers or {})


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
        about: Callable[[], dict[str, Any]],
    ) -> None:
        """``about``: what it says to those who ask for its contract."""
        self._about, self._instance, self._ids, self._clock = about, me.instance, me.ids, clock
        self._limits = codec.Limits(message_bytes=min(settings.max_message_bytes, transport.max_body))
        self._lanes: dict[str, Lane[Request]] = {}
        lanes: dict[str, Lane[Request]] = {}
        for name, method in contract.methods.items():
            self._lanes[name] = lanes.setdefault(method.name, Lane(contract.name, method, getattr(service, method.attribute)))
        self._now = asyncio.get_running_loop().time
        self._requests: dict[str, Request] = {}
        self._cancelled: dict[str, None] = {}
        self._abandoned: set[asyncio.Task[None]] = set()
        self._lookout: Lookout[Request] = Lookout(self._requests, self._expire)
        self._workers: Workers[Request] = Workers(self._run, f"{contract.name} handlers", begin=enter)
        self._replies = Replies(transport, topology.rpc, me, contract.name, settings)
        # one operating-system user owns everything on the other brokers: there callers are believed
        self._vouches = transport.name == "amqp"
        self._refusals = Refusals(_log, clock)
        self._accepting = False
        self._settling: asyncio.Event | None = None
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
        now, wall, user = self._now(), self._clock.time(), delivery.user_id
        for message in batch.messages(delivery.body, delivery.content_type, self._limits):
            if isinstance(message, InvalidMessage):
                self.invalid += 1
                self._refusals.tell("%s refused a request: %s", self._instance, message)
            elif message.type is _REQUEST:
                self._admit(message, user, now, wall)
            elif message.type is MessageType.CANCEL:
                self._cancel(message.correlation_id or "")
            elif message.type is MessageType.STREAM_CREDIT:
                self._grant(message)
            elif message.type is MessageType.PROBE:
                self._tell_unknown(message)

    # ------------------------------------------------------------ admission

    def _admit(self, message: ServiceMessage, user: str | None, now: float, wall: float) -> None:
        """
        Args:
            now: in the loop's time.
            wall: the same in seconds since 1970.
        """
        id, _, _, _, _, method, _, priority, _, deadline, _, _, _, headers = message
        if id in self._requests:
            return  # doubled on the way: it is answered once
        if id in self._cancelled:
            del self._cancelled[id]
            self.cancelled += 1
            return
        left = deadline - wall if deadline is not None and deadline - wall < LONGEST else LONGEST
        lane = self._lanes.get(method)
        # Nearly all pass by these; whether there is an objection indeed costs more to ask.
        if lane is None or lane.particular or left <= 0 or headers is not None or not self._accepting:
            error = self._objection(message, lane, user, left)
            if error is not None or lane is None:
                described = self._about() if lane is None and method == description.METHOD else None
                error = None if described else error
                self._replies.answer(message, now + max(left, 1.0), len(self._requests), described, error)
                return
        self._requests[id] = request = Request(message, lane, user, now + left)
        if request.due < self._lookout.next:
            self._lookout.expect(request.due)
        if lane.running < lane.open or lane.has_room(priority):
            # As _start does, which costs each request a call.
            lane.running += 1
            request.placed = True
            self._workers.put(request)
            return
        shed = lane.waiting.put(priority, request)
        if shed is not None:
            why = f"{lane.waiting.size} requests wait for {method} already"
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
        if lane.callers is not None:
            caller = user if user is not None or self._vouches else message.source
            if caller not in lane.callers:
                return outcomes.not_allowed("the broker does not say who calls" if caller is None else f"not for {caller!r}")
        if left <= 0:
            self.expired += 1
            return outcomes.expired()
        headers = message.headers
        if lane.streams is not (headers is not None and WINDOW in headers):
            use = "in parts: use hub.stream" if lane.streams else "once: use hub.call"
            return outcomes.invalid(f"{message.method} answers {use}", [])
        return None

    def _refuse(self, request: Request, error: dict[str, Any]) -> None:
        self.refused += 1
        self._forget(request)
        self._reply(request, error=error)

    # ------------------------------------------------------------ running

    def _start(self, request: Request) -> None:
        request.lane.running += 1
        request.placed = True
        self._workers.put(request)

    async def _run(self, request: Request, task: asyncio.Task[None]) -> None:
        """Run the handler and answer, whatever it does. Each way out passes ``_end`` once."""
        now = self._now()
        stop = request.stop
        if stop is None and now >= request.deadline:
            self._expire(request)
            stop = request.stop
        if stop is not None:  # told to stop before the first step, where cancelling would have skipped all this
            self._end(request, error=stop)
            return
        request.task, request.started = task, now
        message, contract = request.message, request.lane.contract
        try:
            try:
                arguments = request.lane.read(message.payload)
            except ValidationError as error:
                self._end(request, error=outcomes.invalid(_summary(error), problems(error)))
                return
            result = request.lane.handler(**arguments)
            if request.flow is None:
                payload = await result
                if type(payload) is not contract.returns or type(payload) not in LEAVES:
                    payload = returned(contract.returns, payload)
            else:
                await request.flow.pour(result, contract.returns, self._replies, message, request.deadline)
                payload = None
        except Misfit as error:
            _log.error("%s returned what its type does not allow: %s", request.lane.name, error)
            self._end(request, error=outcomes.invalid_result(str(error), error.problems))
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

    def _end(self, request: Request, payload: Any = None, *, error: dict[str, Any] | None = None) -> None:
        lane = request.lane
        if request.started:
            lane.ended(self._now() - request.started)
        lane.running -= 1
        message = request.message
        if self._requests.get(message.id) is request:
            # As _forget and _reply do, which cost each answer two calls.
            del self._requests[message.id]
            if self._settling is not None and not self._requests:
                self._settling.set()
            if request.flow is None and error is None:
                self._replies.answer(message, request.deadline, len(self._requests), payload)
            elif error is None or error:
                self._reply(request, payload, error=error)
        while lane.waiting.size and (following := lane.following()) is not None:
            self._start(following)

    def _forget(self, request: Request) -> None:
        self._requests.pop(request.message.id, None)
        if self._settling is not None and not self._requests:
            self._settling.set()

    # ------------------------------------------------------------ stopping

    def _expire(self, request: Request) -> None:
        self.expired += 1
        self._stop(request, outcomes.late() if request.task is not None else outcomes.expired())

    def _grant(self, message: ServiceMessage) -> None:
        request = self._requests.get(message.correlation_id or "")
        if request is not None and request.flow is not None:
            request.flow.grant(message.payload)

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
                self._reply(request, error=answer)
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
        if self._settling is None or self._settling.is_set():
            self._settling = asyncio.Event()
        try:
            async with asyncio.timeout(timeout):
                await self._settling.wait()
        except TimeoutError:
            return not self._requests
        return True

    def _abandon(self) -> None:
        for request in list(self._requests.values()):
            _log.error("%s goes on although it was cancelled; its caller is told that it is lost", request.lane.name)
            self._forget(request)
            if request.stop != {}:
                self._reply(request, error=outcomes.stopped())
            if request.task is not None:
                self._abandoned.add(request.task)
                request.task.add_done_callback(self._abandoned.discard)

    async def aclose(self) -> None:
        """Stop everything at once. What was drained before has nothing left to stop."""
        await self.drain(0.0)
        self._lookout.close()
        await self._workers.aclose()
        self._replies.close()

    # ------------------------------------------------------------ answers

    def _tell_unknown(self, probe: ServiceMessage) -> None:
        """Somebody waits for answers to these requests. Those that are not here were lost, or their answers were."""
        if probe.method == MARK:
            self.marked.set()
        if not isinstance(probe.payload, list):
            return
        unknown = [id for id in probe.payload if isinstance(id, str) and id not in self._requests]
        if unknown:
            self._replies.send(probe, MessageType.PROBE, self._now() + 1.0, unknown)

    def _reply(self, request: Request, payload: Any = None, *, error: dict[str, Any] | None = None) -> None:
        if request.flow is None:
            self._replies.answer(request.message, request.deadline, len(self._requests), payload, error)
        else:
            request.flow.end(self._replies, request.message, request.deadline, error)


def _summary(error: ValidationError) -> str:
    return "; ".join(f"{'.'.join(item['loc']) or 'value'}: {item['msg']}" for item in problems(error)[:3])
