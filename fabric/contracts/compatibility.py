"""What of a new contract breaks those who were built against the old one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fabric.contracts.schemas import Misfit, Side, misfits
from fabric.subscriber import matches

Description = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Break:
    """One reason why a caller, publisher or reader no longer fits.

    Attributes:
        service: whose contract changed.
        subject: ``send_email``, ``event todo.created``, ``capability templating``; empty for the service itself.
        path: where in it: ``takes.to[].address``, ``returns.id``; empty for all of it.
        rule: a stable name for programs: ``removed``, ``required``, ``narrowed``, ``changed``.
        old, new: what each side says.
        advice: what to do instead.
    """

    service: str
    subject: str
    path: str
    rule: str
    old: str
    new: str
    advice: str

    @property
    def removed(self) -> bool:
        """Whether the whole subject is gone, not something in it."""
        return self.rule == "removed" and not self.path

    def __str__(self) -> str:
        where = ".".join(part for part in (self.service, self.subject) if part)
        at = f" {self.path}" if self.path else ""
        return f"{where}{at}: {self.rule}: was {self.old}, is {self.new}; {self.advice}"


def breaks(old: Mapping[str, Description], new: Mapping[str, Description]) -> list[Break]:
    """Between two states of a fleet, by service. Services, methods and optional fields that were added are none."""
    found = []
    for name, before in old.items():
        after = new.get(name)
        if after is None:
            advice = "keep it until nobody calls it"
            found.append(Break(service=name, subject="", path="", rule="removed", old="there", new="gone", advice=advice))
        else:
            found.extend(_service(name, before, after))
    return found


def _service(name: str, old: Description, new: Description) -> Iterator[Break]:
    for capability in sorted({*old.get("capabilities", ())} - {*new.get("capabilities", ())}):
        yield Break(
            service=name,
            subject=f"capability {capability}",
            path="",
            rule="removed",
            old="offered",
            new="gone",
            advice="offer it until nobody calls by it",
        )
    offered = dict(new["methods"])
    for method in new["methods"].values():
        offered |= dict.fromkeys(method.get("aliases", ()), method)
    for called, before in old["methods"].items():
        for alias in (called, *before.get("aliases", ())):
            if alias not in offered:
                advice = f'keep the name: @rpc(aliases=("{alias}",)) on what took its place'
                yield Break(service=name, subject=alias, path="", rule="removed", old="there", new="gone", advice=advice)
        if called in offered:
            yield from _method(name, called, (old, before), (new, offered[called]))
    for kind, word in (("events", "event"), ("broadcasts", "broadcast")):
        yield from _handlers(name, word, (old, old.get(kind, ())), (new, new.get(kind, ())))


def _method(
    service: str, method: str, old: tuple[Description, Mapping[str, Any]], new: tuple[Description, Mapping[str, Any]]
) -> Iterator[Break]:
    (whole_old, before), (whole_new, after) = old, new

    def made(path: str, rule: str, was: str, now: str, advice: str) -> Break:
        return Break(service=service, subject=method, path=path, rule=rule, old=was, new=now, advice=advice)

    if before.get("streams") != after.get("streams"):
        shapes = {True: "a stream", False: "one value"}
        was, now = shapes[bool(before.get("streams"))], shapes[bool(after.get("streams"))]
        yield made("returns", "changed", was, now, "offer the other under a new name")
    allowed = after.get("callers")
    if allowed is not None and (before.get("callers") is None or {*before["callers"]} - {*allowed}):
        was = "everyone" if before.get("callers") is None else ", ".join(before["callers"])
        yield made("callers", "narrowed", was, ", ".join(allowed) or "nobody", "add those who call it")
    if before.get("optional") and not after.get("optional"):
        yield made("takes", "required", "may be called with nothing", "needs arguments", "give what is new a default")
    takes = misfits(side(whole_old, before["takes"]), side(whole_new, after["takes"]), unread=True)
    for misfit in takes:
        yield made(at("takes", misfit), misfit.rule, misfit.sent, misfit.taken, _asked(misfit))
    # Of an answer the new service is the one who sends, and the old contract is what readers expect.
    for misfit in misfits(side(whole_new, after["returns"]), side(whole_old, before["returns"]), unread=False):
        rule, was, now = _returned(misfit)
        yield made(at("returns", misfit), rule, was, now, "go on returning what it was, and add what is new beside it")


def _handlers(service: str, word: str, old: tuple[Description, Any], new: tuple[Description, Any]) -> Iterator[Break]:
    (whole_old, before), (whole_new, after) = old, new
    for handler in before:
        for pattern in handler["patterns"]:
            subject = f"{word} {pattern}"
            taking = [
                each
                for each in after
                if each.get("group") == handler.get("group") and any(_covers(wide, pattern) for wide in each["patterns"])
            ]
            if not taking:
                advice = "go on handling it until nobody publishes it, or remove the queue of the group as well"
                yield Break(
                    service=service, subject=subject, path="", rule="removed", old="handled", new="not handled", advice=advice
                )
            seen = set()
            for each in taking:
                for misfit in misfits(side(whole_old, handler["takes"]), side(whole_new, each["takes"]), unread=True):
                    if misfit not in seen:
                        seen.add(misfit)
                        yield Break(
                            service=service,
                            subject=subject,
                            path=at("takes", misfit),
                            rule=misfit.rule,
                            old=misfit.sent,
                            new=misfit.taken,
                            advice=_asked(misfit),
                        )


def _covers(wide: str, narrow: str) -> bool:
    """Whether what ``narrow`` matches is surely matched by ``wide``."""
    return wide == narrow or wide == "#" or ("#" not in narrow and matches(wide, narrow))


def side(whole: Description, schema: Mapping[str, Any]) -> Side:
    """One schema of a description."""
    return Side(schema=schema, definitions=whole.get("$defs", {}))


def at(side: str, misfit: Misfit) -> str:
    """Where a misfit is, as a break has it as its path."""
    joint = "" if not misfit.path or misfit.path.startswith("[") else "."
    return f"{side}{joint}{misfit.path}"


def _asked(misfit: Misfit) -> str:
    match misfit.rule:
        case "removed" if misfit.near:
            return f"if it is {misfit.near!r} now, take both: Field(validation_alias=AliasChoices({misfit.near!r}, ...))"
        case "removed":
            return "keep it as an optional field until nobody sends it"
        case "required":
            return "give it a default"
        case _:
            return "go on taking what was taken, or offer a new method beside it"


def _returned(misfit: Misfit) -> tuple[str, str, str]:
    """The words for a reader: what it required and does not get any more was removed."""
    if misfit.rule == "required":
        gone = misfit.sent == "not there"
        return "removed" if gone else "narrowed", misfit.taken, "gone" if gone else misfit.sent
    if misfit.rule == "removed":
        return "changed", misfit.taken, f"sent: {misfit.sent}"
    return "changed", misfit.taken, misfit.sent
