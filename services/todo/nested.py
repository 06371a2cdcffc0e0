"""What a service tells its own caller when a service that it called refused."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from fabric import ServiceError
from fabric.errors import RemoteError


@contextmanager
def passing_on() -> Iterator[None]:
    """Hand a coded refusal on as our own, so that ``todo.not-found`` from three services down still says so at the top."""
    try:
        yield
    except RemoteError as error:
        if error.code is None:
            raise
        raise ServiceError(error.remote_reason, code=error.code, retryable=error.retryable, details=error.details) from error
