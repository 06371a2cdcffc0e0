"""Taking the policies that a service hands out, now and whenever they change.

That service announces the revision of its policies as ``policies`` in its metadata, and answers ``traffic_policies`` with
them. So there is nothing to broadcast and nothing to miss: whoever joins late hears of the revision like everybody else.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final

from fabric.caller import Caller
from fabric.config import Settings
from fabric.errors import ConfigurationError, FabricError
from fabric.identity import Identity
from fabric.presence import Presence
from fabric.routing.instance import Instance
from fabric.routing.registry import RegistryEvent, ServiceRegistry
from fabric.routing.traffic import Traffic
from fabric.tasks import Tasks

_log = logging.getLogger("fabric.follower")

METHOD: Final = "traffic_policies"
REVISION: Final = "policies"
TIMEOUT: Final = 5.0
FIRST_PAUSE: Final = 0.5
LONGEST_PAUSE: Final = 30.0


class PolicyFollower:
    """Keeps the policies of one hub at what ``settings.policies_from`` hands out. A set with anything wrong in it is refused as
    a whole, and the one before stays in force.

    Attributes:
        refused: sets that were not taken.
    """

    def __init__(
        self,
        settings: Settings,
        me: Identity,
        caller: Caller,
        traffic: Traffic,
        registry: ServiceRegistry,
        presence: Presence,
    ) -> None:
        self._service = settings.policies_from if settings.policies_from != me.service else ""
        self._caller, self._traffic = caller, traffic
        self._registry, self._presence = registry, presence
        self._own = traffic.policies
        self._seen = self._own.revision
        self._tasks = Tasks(f"policies of {self._service}")
        self._taking: asyncio.Task[None] | None = None
        self._unwatch = registry.watch(self._changed)
        self.refused = 0

    def start(self) -> None:
        """Look for the service, if there is to be one. It may come later."""
        if self._service:
            self._tasks.start(self._look(), "look for it")

    async def _look(self) -> None:
        deadline = asyncio.get_running_loop().time() + TIMEOUT
        await self._presence.find(self._service, None, lambda: bool(self._registry.instances(self._service)), deadline=deadline)
        for instance in self._registry.instances(self._service):
            self._consider(instance)

    def _changed(self, event: RegistryEvent) -> None:
        if event.instance.service == self._service:
            self._consider(event.instance)

    def _consider(self, instance: Instance) -> None:
        revision = instance.metadata.get(REVISION)
        if type(revision) is not int or revision <= self._seen or not instance.takes_calls:
            return
        if self._taking is None or self._taking.done():
            self._taking = self._tasks.start(self._take(), "take them")

    async def _take(self) -> None:
        """Ask until there is an answer; what is announced meanwhile is in it, or asked for next."""
        pause = FIRST_PAUSE
        while True:
            try:
                plain = await self._caller.call(self._traffic.to(self._service), METHOD, None, timeout=TIMEOUT, idempotent=True)
                break
            except FabricError as error:
                _log.warning("no policies from %s: %s", self._service, error)
            await asyncio.sleep(pause)
            pause = min(2.0 * pause, LONGEST_PAUSE)
        self._adopt(plain)

    def _adopt(self, plain: Any) -> None:
        revision = plain.get("revision") if isinstance(plain, dict) else None
        self._seen = max(self._seen, revision if type(revision) is int else 0)
        try:
            self._traffic.adopt(self._own.overlaid(plain))
        except ConfigurationError as error:
            self.refused += 1
            _log.error("the policies of %s are refused, the old ones stay: %s", self._service, error)

    async def aclose(self) -> None:
        self._unwatch()
        await self._tasks.aclose()
