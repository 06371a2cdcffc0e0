"""What the supervisor tells the fork server to make."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Self


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A process to make.

    Attributes:
        id: comes back with the answer.
        arguments: of the command ``fabric``.
        environment: all of it; may hold secrets.
        log: where it writes.
    """

    id: int
    arguments: tuple[str, ...]
    environment: dict[str, str] = field(repr=False)
    directory: str
    log: str

    def line(self) -> bytes:
        """As it travels."""
        return json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def read(cls, line: bytes) -> Self:
        """What ``line`` wrote."""
        data = json.loads(line)
        return cls(**{**data, "arguments": tuple(data["arguments"])})
