"""Which of several coordinators leads: one claims the place when nobody alive holds it, and notices when another one does."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from fabric.coordination.journal import Claim, History, Journal
from fabric.errors import FabricError
from fabric.hub import Hub
from fabric.routing.registry import RegistryEvent
from fabric.transports.base import LinkState

_log = logging.getLogger("fabric.coordinator")


@dataclass(frozen=True, slots=True, kw_only=True)
class LeadershipPolicy:
    """All in seconds.

    Attributes:
        watch_interval: between looks at the journal. Shorter notices a newer claim sooner and costs reads.
        greeting: that a coordinator which has just come gives the last leader to announce itself before it counts as lost.
            Longer than an announcement takes, or a leader that is well loses its place to every newcomer, which costs
            nothing but a new epoch.
        pause: after the journal could not be used.
    """

    watch_interval: float = 0.5
    greeting: float = 2.0
    pause: float = 1.0

    def __post_init__(self) -> None:
        if min(self.watch_interval, self.greeting, self.pause) <= 0:
            raise ValueError("all times must be positive seconds")


class Leadership:
    """One coordinator's part in it. ``run`` is a task of its owner.

    That a leader is lost is a guess, and a wrong one does no harm: the newer claim fences the older one, in the journal and
    at the agents.

    Args:
        take: called with the history after a successful claim; leads when it returns.
        leave: called when it leads no longer, with the reason, also when ``take`` failed.
    """

    def __init__(
        self,
        hub: Hub,
        journal: Journal,
        *,
        take: Callable[[History], Awaitable[None]],
        leave: Callable[[str], Awaitable[None]],
        policy: LeadershipPolicy | None = None,
    ) -> None:
        self._hub, self._journal, self._take, self._leave = hub, journal, take, leave
        self._policy = policy or LeadershipPolicy()
        self._news = asyncio.Event()
        self._doubt = ""
        self.claim: Claim | None = None
        """The newest claim that was seen, ours or another's."""

    def doubt(self, reason: str) -> None:
        """Something speaks against our leading: look, and claim anew if we still want to."""
        self._doubt = self._doubt or reason
        self._news.set()

    async def run(self) -> None:
        """Stand by, lead, stand by again; until cancelled."""
        unwatch = self._hub.registry.watch(self._heard)
        try:
            while True:
                try:
                    await self._stand_by()
                    reason = await self._lead()
                except FabricError as error:
                    reason = str(error)
                    await self._leave(reason)
                    await asyncio.sleep(self._policy.pause)
                else:
                    await self._leave(reason)
                _log.warning("%s leads no longer: %s", self._hub.instance, reason)
        finally:
            unwatch()

    def _heard(self, event: RegistryEvent) -> None:
        if event.instance.service == self._hub.name:
            self._news.set()

    async def _stand_by(self) -> None:
        """Until nobody alive leads."""
        now = asyncio.get_running_loop().time
        greeted: dict[Claim, float] = {}
        while True:
            self._news.clear()
            self.claim = claim = await self._journal.leader()
            if claim is None or claim.instance == self._hub.instance:
                return
            if self._is_there(claim) or self._hub.transport.state is not LinkState.READY:
                greeted[claim] = now()
            elif now() - greeted.setdefault(claim, now()) >= (self._policy.greeting if not self._departed(claim) else 0.0):
                _log.warning("%s, which led with epoch %d, is gone", claim.instance, claim.epoch)
                return
            await self._look_again()

    def _is_there(self, claim: Claim) -> bool:
        """Silence counts as absence, unlike for callers: a leader that was stopped keeps its link and leads nobody."""
        known = self._hub.registry.get(claim.instance)
        if known is None or known.instance.incarnation != claim.incarnation:
            return False
        settings = self._hub.settings
        return self._hub.clock.monotonic() - known.seen <= settings.heartbeat_interval * settings.lost_after

    def _departed(self, claim: Claim) -> bool:
        """Its id belongs to a later process: then it is gone for certain."""
        known = self._hub.registry.get(claim.instance)
        return known is not None and known.instance.incarnation > claim.incarnation

    async def _lead(self) -> str:
        """Until another one leads. Returns why not any more."""
        self._doubt = ""
        history = await self._journal.claim(self._hub.instance, self._hub.incarnation)
        self.claim = mine = history.claim
        _log.info("%s leads with epoch %d and a history of %d", mine.instance, mine.epoch, len(history.entries))
        await self._take(history)
        while not self._doubt:
            self._news.clear()
            self.claim = newest = await self._journal.leader()
            if newest != mine:
                return f"{newest.instance if newest else 'nobody'} leads with epoch {newest.epoch if newest else 0}"
            if not self._doubt:
                await self._look_again()
        return self._doubt

    async def _look_again(self) -> None:
        try:
            await asyncio.wait_for(self._news.wait(), self._policy.watch_interval)
        except TimeoutError:
            return
