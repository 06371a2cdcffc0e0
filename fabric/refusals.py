"""Telling of what is refused without filling the log with it: who sends rubbish may send a lot of it."""

from __future__ import annotations

import logging

from fabric.clock import Clock

PAUSE = 1.0
"""Seconds."""


class Refusals:
    """At most one warning in ``PAUSE`` seconds; each says how many were left out since the one before.

    Args:
        log: where to.
        clock: tells the seconds.
    """

    def __init__(self, log: logging.Logger, clock: Clock) -> None:
        self._log, self._clock = log, clock
        self._silent_until = 0.0
        self._left_out = 0

    def tell(self, text: str, *values: object) -> None:
        """``text`` and ``values`` as for ``Logger.warning``."""
        now = self._clock.monotonic()
        if now < self._silent_until:
            self._left_out += 1
            return
        if self._left_out:
            text, values = f"{text} (and %d more before it)", (*values, self._left_out)
        self._silent_until, self._left_out = now + PAUSE, 0
        self._log.warning(text, *values)
