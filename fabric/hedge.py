"""A second attempt for what takes long: the first answer counts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any


async def hedged(
    first: Coroutine[Any, Any, Any], after: float, second: Callable[[], Coroutine[Any, Any, Any] | None], name: str
) -> Any:
    """What the first of two attempts that succeeds returns. Whoever is slower is cancelled.

    Args:
        after: seconds without an answer until ``second`` is asked for another attempt; it may have none.
        name: of the tasks.

    Raises:
        Exception: none of them answered; how the first one ended.
    """
    loop = asyncio.get_running_loop()
    asked = [loop.create_task(first, name=f"hedged {name}")]
    try:
        await asyncio.wait(asked, timeout=after)
        if not asked[0].done() and (another := second()) is not None:
            asked.append(loop.create_task(another, name=f"hedge {name}"))
        left = set(asked)
        while left:
            done, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                if task.exception() is None:
                    return task.result()
        return asked[0].result()
    finally:
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
