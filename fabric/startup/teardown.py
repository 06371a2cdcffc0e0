"""The order in which services are stopped: who needs another goes before it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping


class Teardown:
    """A set of services to stop.

    Args:
        names: what is to be stopped.
        dependents: for each service those that need it; the ones outside ``names`` do not count.
    """

    def __init__(self, names: Iterable[str], dependents: Mapping[str, Iterable[str]]) -> None:
        inside = set(names)
        chosen = sorted(inside)
        self._waits_for = {name: {other for other in dependents.get(name, ()) if other in inside} for name in chosen}
        self._frees: dict[str, list[str]] = {name: [] for name in chosen}
        for name, others in self._waits_for.items():
            for other in others:
                self._frees[other].append(name)

    @property
    def finished(self) -> bool:
        return not self._waits_for

    def first(self) -> list[str]:
        """Those that nothing has to go before."""
        return [name for name, others in self._waits_for.items() if not others]

    def done(self, name: str) -> list[str]:
        """``name`` has stopped; returns those that may be stopped now."""
        if self._waits_for.pop(name, None) is None:
            return []
        free = []
        for other in self._frees[name]:
            before = self._waits_for.get(other)
            # It may have stopped before its turn, because it was being stopped already.
            if before is not None:
                before.discard(name)
                if not before:
                    free.append(other)
        return free

    def waits_for(self, name: str) -> tuple[str, ...]:
        """What has to stop before ``name``."""
        return tuple(sorted(self._waits_for.get(name, ())))
