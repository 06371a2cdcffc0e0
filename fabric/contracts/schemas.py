"""Whether everything that one JSON schema allows is also allowed by another.

Knows the keywords that pydantic writes. Of others it only sees that they are not the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Final

Schema = Mapping[str, Any]

_LOWER: Final = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
_UPPER: Final = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")
_SAME: Final = ("pattern", "multipleOf", "uniqueItems", "patternProperties", "not", "if", "dependentRequired")
_LOOSE_FORMATS: Final = frozenset({"password", "path", "binary", "base64url", "json-string"})
"""They say what a text is for, and refuse none."""
_ANNOTATIONS: Final = frozenset({"title", "description", "default", "examples", "deprecated", "$defs", "discriminator"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Misfit:
    """``path``: where, such as ``to[].address``. ``rule``: ``removed``, ``required`` or ``narrowed``. ``sent`` and ``taken``:
    what each side says there. ``near``: a field of the other side that may be the same under a new name."""

    path: str
    rule: str
    sent: str
    taken: str
    near: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """A schema and the definitions that its references lead to."""

    schema: Schema
    definitions: Mapping[str, Schema]

    def at(self, schema: Any) -> Side:
        return Side(schema=_as_map(schema), definitions=self.definitions)

    def resolved(self) -> Side:
        schema = self.schema
        for _ in range(64):
            if isinstance(reference := schema.get("$ref"), str):
                beside = {key: value for key, value in schema.items() if key != "$ref"}
                schema = {**_as_map(self.definitions.get(reference.rpartition("/")[2], {})), **beside}
            elif isinstance(parts := schema.get("allOf"), list) and len(parts) == 1:
                schema = {**_as_map(parts[0]), **{key: value for key, value in schema.items() if key != "allOf"}}
            else:
                break
        return Side(schema=schema, definitions=self.definitions)

    @property
    def branches(self) -> list[Side]:
        """Of a union, or itself."""
        for keyword in ("anyOf", "oneOf"):
            if isinstance(parts := self.schema.get(keyword), list):
                return [found for part in parts for found in self.at(part).resolved().branches]
        if isinstance(types := self.schema.get("type"), list):
            return [self.at({**self.schema, "type": each}) for each in types]
        return [self]

    @property
    def values(self) -> list[Any] | None:
        if "const" in self.schema:
            return [self.schema["const"]]
        return list(self.schema["enum"]) if "enum" in self.schema else None

    @property
    def is_anything(self) -> bool:
        return not set(self.schema) - _ANNOTATIONS

    def __str__(self) -> str:
        if self.values is not None:
            return " or ".join(repr(value) for value in self.values)
        if len(branches := self.branches) > 1:
            return " or ".join(str(branch) for branch in branches)
        kind = str(self.schema.get("type", "anything"))
        limits = ", ".join(f"{key} {self.schema[key]}" for key in ("format", *_LOWER, *_UPPER, *_SAME) if key in self.schema)
        return f"{kind} ({limits})" if limits else kind


def _as_map(schema: Any) -> Schema:
    return schema if isinstance(schema, Mapping) else {} if schema is not False else {"not": {}}


def misfits(sent: Side, taken: Side, *, unread: bool, path: str = "") -> Iterator[Misfit]:
    """What ``sent`` allows and ``taken`` does not.

    Args:
        unread: a field that is sent and not known to the taker, who ignores it, is a misfit too.
    """
    return _compare(sent, taken, path, unread, ())


_Seen = tuple[tuple[int, int], ...]


def _compare(sent: Side, taken: Side, path: str, unread: bool, seen: _Seen) -> Iterator[Misfit]:
    sent, taken = sent.resolved(), taken.resolved()
    # A definition that holds itself comes back as the same fields.
    key = (id(sent.schema.get("properties", sent.schema)), id(taken.schema.get("properties", taken.schema)))
    if key in seen or taken.is_anything:
        return
    seen = (*seen, key)
    for one in sent.branches:
        yield from _into_any(one, taken, path, unread, seen)


def _into_any(one: Side, taken: Side, path: str, unread: bool, seen: _Seen) -> Iterator[Misfit]:
    branches = taken.branches
    if len(branches) == 1:
        yield from _single(one, branches[0], path, unread, seen)
        return
    best: list[Misfit] | None = None
    for branch in branches:
        found = list(_single(one, branch, path, unread, seen))
        if not found:
            return
        alike = _kinds(one) & _kinds(branch)
        if alike and (best is None or len(found) < len(best)):
            best = found
    yield from best if best is not None else [Misfit(path=path, rule="narrowed", sent=str(one), taken=str(taken))]


def _kinds(side: Side) -> set[str]:
    kind = side.schema.get("type")
    if isinstance(kind, str):
        return {kind}
    return {_kind_of(value) for value in side.values or ()}


def _kind_of(value: Any) -> str:
    names = {bool: "boolean", int: "integer", float: "number", str: "string", type(None): "null", list: "array"}
    return names.get(type(value), "object")


def _single(sent: Side, taken: Side, path: str, unread: bool, seen: _Seen) -> Iterator[Misfit]:
    narrowed = Misfit(path=path, rule="narrowed", sent=str(sent), taken=str(taken))
    if taken.values is not None:
        if sent.values is None or any(value not in taken.values for value in sent.values):
            yield narrowed
        return
    kind, kinds = taken.schema.get("type"), _kinds(sent)
    if kind is not None and not (kinds and all(each == kind or (each, kind) == ("integer", "number") for each in kinds)):
        yield narrowed
        return
    if sent.values is None and not _within(sent.schema, taken.schema):
        yield narrowed
        return
    if kind == "object":
        yield from _fields(sent, taken, path, unread, seen)
    elif kind == "array":
        yield from _items(sent, taken, path, unread, seen)


def _within(sent: Schema, taken: Schema) -> bool:
    for key in _LOWER:
        if key in taken and not (key in sent and sent[key] >= taken[key]):
            return False
    for key in _UPPER:
        if key in taken and not (key in sent and sent[key] <= taken[key]):
            return False
    form = taken.get("format")
    if form is not None and form not in _LOOSE_FORMATS and sent.get("format") != form:
        return False
    return all(key not in taken or sent.get(key) == taken[key] for key in _SAME)


def _fields(sent: Side, taken: Side, path: str, unread: bool, seen: _Seen) -> Iterator[Misfit]:
    given, known = sent.schema.get("properties", {}), taken.schema.get("properties", {})
    more = taken.schema.get("additionalProperties", True)
    for name, schema in given.items():
        place = f"{path}.{name}" if path else name
        if name in known:
            yield from _compare(sent.at(schema), taken.at(known[name]), place, unread, seen)
        elif isinstance(more, Mapping):
            yield from _compare(sent.at(schema), taken.at(more), place, unread, seen)
        elif more is False or (unread and "additionalProperties" not in taken.schema):
            fresh = [each for each in known if each not in given]
            near = get_close_matches(name, fresh, n=1, cutoff=0.4) or [each for each in fresh if _alike(schema, known[each])]
            what = "refused" if more is False else "ignored"
            yield Misfit(
                path=place, rule="removed", sent=str(sent.at(schema).resolved()), taken=what, near=near[0] if near else None
            )
    always = set(sent.schema.get("required", ()))
    for name in taken.schema.get("required", ()):
        if name not in always:
            place = f"{path}.{name}" if path else name
            yield Misfit(
                path=place,
                rule="required",
                sent="may be left out" if name in given else "not there",
                taken=f"required: {taken.at(known.get(name, {})).resolved()}",
            )
    extra = sent.schema.get("additionalProperties", True if unread and (more is False or not given) else None)
    if (extra is True or isinstance(extra, Mapping)) and more is not True:
        place = f"{path}.*" if path else "*"
        if more is False:
            yield Misfit(path=place, rule="narrowed", sent="further fields", taken="no further fields")
        else:
            yield from _compare(sent.at(extra), taken.at(more), place, unread, seen)


def _alike(one: Any, other: Any) -> bool:
    return bool(_bare(one) == _bare(other))


def _bare(schema: Any) -> Any:
    return {key: value for key, value in _as_map(schema).items() if key not in _ANNOTATIONS}


def _items(sent: Side, taken: Side, path: str, unread: bool, seen: _Seen) -> Iterator[Misfit]:
    given, known = list(sent.schema.get("prefixItems", ())), list(taken.schema.get("prefixItems", ()))
    for place, schema in enumerate(known):
        one = given[place] if place < len(given) else sent.schema.get("items", {})
        yield from _compare(sent.at(one), taken.at(schema), f"{path}[{place}]", unread, seen)
    if "items" in taken.schema:
        rest = given[len(known) :]
        if "items" in sent.schema or not given:
            rest = [*rest, sent.schema.get("items", {})]
        for schema in rest:
            yield from _compare(sent.at(schema), taken.at(taken.schema["items"]), f"{path}[]", unread, seen)
