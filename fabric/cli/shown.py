"""What other processes see of this one: its command line, and the mark by which the guard knows it.

Linux shows the memory that the kernel filled when the program was started. A process that was forked shows its parent's
until it writes its own there, which is what ``setproctitle`` does too (see ``proc_pid_cmdline(5)``, kernel 5.3 or newer).
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from pathlib import Path
from typing import Self

_ARG_START = 48
"""The number of the field in /proc/PID/stat, see proc_pid_stat(5); the end of the arguments and the environment follow."""


@dataclass(frozen=True, slots=True)
class Shown:
    """Places in the memory of this process and of those that are forked from it.

    Attributes:
        arguments: address and bytes of the command line.
        mark: address and bytes of the mark.
    """

    arguments: tuple[int, int]
    mark: tuple[int, int]

    @classmethod
    def find(cls, name: str, value: str) -> Self:
        """The places as the kernel tells them.

        Args:
            name: of the environment variable that is the mark.
            value: with which this process was started.

        Raises:
            OSError: they are not to be found here.
        """
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        first, after, begin, end = (int(field) for field in fields[_ARG_START - 3 : _ARG_START + 1])
        if not 0 < first < after <= begin < end:
            raise OSError("the kernel does not say where the command line is")
        entry = f"{name}={value}".encode()
        offset = (b"\0" + ctypes.string_at(begin, end - begin)).find(b"\0" + entry + b"\0")
        if offset < 0:
            raise OSError(f"{name} is not in the environment that the kernel shows")
        start = begin + offset + len(name) + 1
        return cls((first, after - first), (start, len(value)))

    def title(self, text: str) -> None:
        """Show ``text`` as the command line, cut to what there is room for."""
        address, room = self.arguments
        # a last byte that is not zero tells the kernel that this is one text, which ends at the first zero
        ctypes.memmove(address, text.encode()[: room - 2].ljust(room - 1, b"\0") + b"\1", room)

    def remark(self, value: str) -> None:
        """Show ``value`` as the mark, filled up with slashes.

        Raises:
            ValueError: there is no room for it.
        """
        address, room = self.mark
        if len(value) > room:
            raise ValueError(f"the mark {value!r} has no room in {room} bytes")
        ctypes.memmove(address, value.encode().ljust(room, b"/"), room)
