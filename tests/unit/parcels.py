"""What an outbox is given, as a test makes it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass


@dataclass(eq=False, kw_only=True)
class Wish:
    """Whether it left, and whether anybody still wants it to."""

    left: bool = False
    wanted: bool = True

    @property
    def future(self) -> asyncio.Future[None]:
        """Done when it is not wanted any more."""
        future = asyncio.get_running_loop().create_future()
        if not self.wanted:
            future.cancel()
        return future
