"""One server for each socket path, and none that a dead one still holds."""

from __future__ import annotations

import fcntl
import os
import socket
import stat
from contextlib import suppress
from pathlib import Path

from fabric.errors import ConfigurationError


class SocketClaim:
    """A listening Unix socket that only this user may use.

    A lock beside it says whether its server lives: the system drops it with the process, so that a socket left by a dead
    server is taken over, and two that start at once can't both win.

    Args:
        path: of the socket.

    Raises:
        ConfigurationError: another live server has it, something else is there, or the path can't be used.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock_path = path.with_name(path.name + ".lock")
        try:
            self._lock = self._take_lock()
        except BlockingIOError:
            raise ConfigurationError(f"another broker is running on {path}: use that one, or give another path") from None
        except OSError as error:
            raise ConfigurationError(f"can't lock {self._lock_path}: {error.strerror}") from error
        try:
            self.socket = self._listen()
        except BaseException:
            self._drop_lock()
            raise

    def close(self) -> None:
        """Remove the socket and the lock. Idempotent."""
        if self._lock >= 0:
            self.socket.close()
            with suppress(FileNotFoundError):
                self._path.unlink()
            self._drop_lock()

    def _take_lock(self) -> int:
        while True:
            lock = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Its owner may have removed it between our two steps: then this lock guards nothing.
                with suppress(FileNotFoundError):
                    if os.path.samestat(os.fstat(lock), os.stat(self._lock_path)):
                        return lock
            except BaseException:
                os.close(lock)
                raise
            os.close(lock)

    def _drop_lock(self) -> None:
        lock, self._lock = self._lock, -1
        with suppress(FileNotFoundError):
            self._lock_path.unlink()
        os.close(lock)

    def _listen(self) -> socket.socket:
        with suppress(FileNotFoundError):
            if not stat.S_ISSOCK(os.lstat(self._path).st_mode):
                raise ConfigurationError(f"{self._path} exists and is not a socket: give another path")
            self._path.unlink()
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            # The mode must be right from the first moment, and bind() has no argument for it.
            mask = os.umask(0o177)
            try:
                listener.bind(str(self._path))
            finally:
                os.umask(mask)
            listener.setblocking(False)
        except OSError as error:
            listener.close()
            raise ConfigurationError(f"can't listen on {self._path}: {error}") from error
        return listener
