"""What a caller gets: the answer as the type that it asked for, or something in its place."""

from __future__ import annotations

import inspect
from typing import Any, Final

from pydantic import ValidationError

from fabric.errors import CallError, NotAllowed, RemoteError, ValidationFailed
from fabric.values import LEAVES, checked, problems

NO_FALLBACK: Final = object()
"""None is one."""


def typed(kind: Any, answer: Any, service: str, method: str) -> Any:
    """``answer`` as a ``kind``.

    Raises:
        ValidationFailed: it does not fit, although it ran.
    """
    if kind is Any or (kind in LEAVES and type(answer) is kind):
        return answer
    try:
        return checked(kind, answer)
    except ValidationError as error:
        raise ValidationFailed(
            f"the answer is not a {getattr(kind, '__name__', kind)}",
            errors=problems(error),
            executed=True,
            service=service,
            method=method,
        ) from None


async def instead(fallback: Any, error: CallError) -> Any:
    """What ``fallback``, a value or a function of the error, gives in place of an answer.

    Raises:
        CallError: there is none, or the callee has given its word, which nothing else may replace.
    """
    if fallback is NO_FALLBACK or isinstance(error, (RemoteError, ValidationFailed, NotAllowed)):
        raise error
    answer = fallback(error) if callable(fallback) else fallback
    return await answer if inspect.isawaitable(answer) else answer
