"""The life of a link as a small state machine that can be watched."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable

from fabric.transports.base import LinkEvent, LinkState

_log = logging.getLogger("fabric.transports.amqp")

_NEXT = {
    LinkState.CLOSED: {LinkState.CONNECTING},
    LinkState.CONNECTING: {LinkState.READY, LinkState.CLOSED},
    LinkState.READY: {LinkState.BLOCKED, LinkState.RECONNECTING, LinkState.CLOSED},
    LinkState.BLOCKED: {LinkState.READY, LinkState.RECONNECTING, LinkState.CLOSED},
    LinkState.RECONNECTING: {LinkState.READY, LinkState.CLOSED},
}


class LinkLife:
    """State, epoch, and who wants to know.

    Attributes:
        counts: of what happened, for metrics: each state entered, ``consumer-restored`` and ``consumer-refused``.
    """

    def __init__(self) -> None:
        self.state = LinkState.CLOSED
        self.epoch = 0
        self.counts: Counter[str] = Counter()
        self._listeners: list[Callable[[LinkEvent], None]] = []

    @property
    def connected(self) -> bool:
        return self.state in (LinkState.READY, LinkState.BLOCKED)

    def watch(self, listener: Callable[[LinkEvent], None]) -> Callable[[], None]:
        self._listeners.append(listener)

        def stop() -> None:
            if listener in self._listeners:
                self._listeners.remove(listener)

        return stop

    def enter(self, state: LinkState, reason: str = "") -> None:
        """Go to ``state`` and tell; being there already is no news. ``READY`` after anything but ``BLOCKED`` is a new epoch."""
        if state is self.state:
            return
        if state not in _NEXT[self.state]:
            raise RuntimeError(f"a link that is {self.state} can't become {state}")
        if state is LinkState.READY and self.state is not LinkState.BLOCKED:
            self.epoch += 1
        self.state = state
        self.counts[state.value] += 1
        self._tell(LinkEvent(state=state, epoch=self.epoch, reason=reason))

    def consumer_restored(self, address: str, reason: str) -> None:
        """One consumer was lost, by the broker's word, and consumes again."""
        self.counts["consumer-restored"] += 1
        self._tell(LinkEvent(state=self.state, epoch=self.epoch, reason=reason, consumer=address))

    def consumer_refused(self, address: str, reason: str) -> None:
        """One consumer can't be restored as things are on the broker; it is tried again, ever more rarely."""
        self.counts["consumer-refused"] += 1
        self._tell(LinkEvent(state=self.state, epoch=self.epoch, reason=reason, consumer=address))

    def _tell(self, event: LinkEvent) -> None:
        for listener in tuple(self._listeners):
            try:
                listener(event)
            except Exception:
                _log.exception("a listener of the link failed on %s", event)
