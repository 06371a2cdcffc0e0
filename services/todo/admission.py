"""Who may come in over HTTP: those with the token, as often as the limit allows."""

from __future__ import annotations

import hmac

from pydantic import SecretStr

from fabric import Hub
from fabric.clock import Clock
from fabric.errors import FabricError
from services.todo.problems import Refused

WINDOW = 60.0


class RateLimit:
    """Requests per minute and client, counted in the cache that all gateways share.

    A fixed window: at its turn a client may briefly have twice the rate. Without the cache everybody is let in: a limit
    guards against too much work, and is not worth refusing all work.

    Args:
        per_minute: 0 is no limit.
    """

    RETRY_CACHE_SECONDS = 5.0

    def __init__(self, hub: Hub, per_minute: int, clock: Clock) -> None:
        self._hub, self._per_minute, self._clock = hub, per_minute, clock
        self._no_cache_until = 0.0

    async def admit(self, client: str) -> None:
        """Count one request.

        Raises:
            Refused: 429, with the seconds until the next window.
        """
        if not self._per_minute or self._clock.monotonic() < self._no_cache_until:
            return
        now = self._clock.time()
        window = int(now // WINDOW)
        payload = {"namespace": "gateway-rate", "key": f"{client}/{window}", "ttl": 2 * WINDOW}
        try:
            count = await self._hub.call("cache-manager", "incr", payload, returns=int, timeout=0.5)
        except FabricError:
            self._no_cache_until = self._clock.monotonic() + self.RETRY_CACHE_SECONDS
            return
        if count > self._per_minute:
            raise Refused(429, f"more than {self._per_minute} requests in a minute", retry_after=(window + 1) * WINDOW - now)


def check_token(expected: SecretStr | None, header: str | None) -> None:
    """Compare in constant time.

    Raises:
        Refused: 401.
    """
    if expected is None:
        return
    scheme, _, given = (header or "").partition(" ")
    if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), expected.get_secret_value().encode()):
        raise Refused(401, "this gateway needs a token")
