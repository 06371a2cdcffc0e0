"""Whom a break hits: the services that are known to call what changed, with what they send and read of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fabric.contracts.compatibility import Break, Description, at, side
from fabric.contracts.schemas import misfits
from fabric.routing.route import CAPABILITY


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """A caller that no longer fits.

    Attributes:
        caller: the service that calls.
        method: as it calls it.
        why: what it sends or reads; or that its code has no type that would tell.
    """

    caller: str
    method: str
    why: str

    def __str__(self) -> str:
        return f"hits {self.caller}, which calls {self.method}: {self.why}"


def knows_callers(fleet: Mapping[str, Description]) -> bool:
    """Whether any of these descriptions says what its service calls."""
    return any(each.get("calls") for each in fleet.values())


def hits(each: Break, old: Mapping[str, Description], new: Mapping[str, Description]) -> list[Hit]:
    """The callers among ``old`` that ``each`` breaks. One whose own types show that it does not need what changed is none."""
    found = []
    for caller in sorted(old):
        calls = old[caller].get("calls") or {}
        for call in calls.get("made", ()):
            why = _why(each, call, calls, new.get(each.service)) if _meant(each, call, old[each.service]) else ""
            found += [Hit(caller=caller, method=call["method"], why=why)] if why else []
    return found


def _meant(each: Break, call: Mapping[str, Any], old: Description) -> bool:
    """Whether that call goes to what changed."""
    target = call["service"]
    if target.startswith(CAPABILITY):
        capability = target.removeprefix(CAPABILITY)
        if each.subject == f"capability {capability}":
            return True
        if capability not in old.get("capabilities", ()):
            return False
    elif target != each.service:
        return False
    if not each.subject:
        return True
    names = {each.subject}
    if not each.removed:  # a method that changed, whatever it is called by
        names |= {*old["methods"].get(each.subject, {}).get("aliases", ())}
    return call["method"] in names


def _why(each: Break, call: Mapping[str, Any], calls: Mapping[str, Any], new: Description | None) -> str:
    """What of it no longer fits, or "" if all of it does."""
    method = None if new is None else _method(new, call["method"])
    what, _, _ = each.path.partition(".")
    if new is None or method is None or what.partition("[")[0] not in ("takes", "returns"):
        return "it calls what is not there as it was"
    if what.startswith("takes"):
        if not call["sends"]:
            return "it sends plain data, whose fields nobody knows"
        found = misfits(side(calls, call["sends"]), side(new, method["takes"]), unread=True)
        return _told(each, "takes", found, "it sends {sent}, and {taken} is taken")
    if not call["expects"]:
        return "it reads plain data, and nobody knows which fields"
    found = misfits(side(new, method["returns"]), side(calls, call["expects"]), unread=False)
    return _told(each, "returns", found, "it expects {taken}, and gets {sent}")


def _told(each: Break, name: str, found: Any, text: str) -> str:
    return "; ".join(text.format(sent=misfit.sent, taken=misfit.taken) for misfit in found if at(name, misfit) == each.path)


def _method(new: Description, called: str) -> Any:
    return next(
        (method for name, method in new["methods"].items() if called == name or called in method.get("aliases", ())), None
    )
