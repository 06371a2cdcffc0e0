"""What a service says of itself when asked whether it is ready."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


class HealthStatus(enum.StrEnum):
    """UNKNOWN is not YES: a gate stays closed on it."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Health:
    """The answer of a health check.

    Attributes:
        status: yes, no or unknown.
        reason: one line for people; of a NO the cause and what to do.
        details: plain data for programs.
    """

    status: HealthStatus
    reason: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def ok(cls, reason: str = "", **details: Any) -> Health:
        return cls(HealthStatus.YES, reason, details)

    @classmethod
    def bad(cls, reason: str, **details: Any) -> Health:
        return cls(HealthStatus.NO, reason, details)

    @classmethod
    def unknown(cls, reason: str, **details: Any) -> Health:
        return cls(HealthStatus.UNKNOWN, reason, details)

    @property
    def is_ok(self) -> bool:
        return self.status is HealthStatus.YES
