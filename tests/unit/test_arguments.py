"""A call arrives with the arguments that were given, and hints that mean nothing on the bus are refused."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import (
    Field,
    ValidationError,
)

from fabric.arguments import Arguments
from fabric.contract import contract_of, rpc
from fabric.errors import ConfigurationError
from fabric.values import problems
from tests.unit.samples import Item, Options, Order, Plain, Point, Track, Unsendable, over_the_bus
from tests.unit.wire.messages import plain as plain_data
from tests.unit.wire.messages import unhurried


async def by_name(self: object, text: str, limit: int = 5, tags: list[str] = []) -> None: ...  # noqa: B006
async def whole(self: object, order: Order) -> None: ...
async def whole_dataclass(self: object, track: Track) -> None: ...
async def whole_typeddict(self: object, options: Options) -> None: ...
async def whole_with_default(self: object, given: Plain = Plain(text="default")) -> None: ...  # noqa: B008
async def annotated_whole(self: object, given: Annotated[Plain, Field(description="x")]) -> None: ...
async def optional_model(self: object, given: Plain | None = None) -> None: ...
async def two_models(self: object, first: Plain, second: Plain) -> None: ...
async def nothing(self: object) -> None: ...
async def keywords(self: object, *, text: str, limit: int = 5) -> None: ...
async def bounded(self: object, count: Annotated[int, Field(gt=0, le=10)]) -> None: ...
async def with_order(self: object, order: Order, urgent: bool = False) -> None: ...
async def odd_names(
    self: object,
    schema: str,
    model_dump: int,
    _id: int = 1,
    copy: bool = False,
    json: str = "",
    model_config: str = "",
    field0: int = 0,
) -> None: ...


def arrive(function: Callable[..., Any], *args: Any, **kwargs: Any) -> dict[str, Any]:
    """The arguments, defaults included, that the handler gets for a call with these."""
    arguments = Arguments.of(function)
    bound = inspect.signature(function).bind(None, **arguments.read(over_the_bus(arguments.write(args, kwargs))))
    bound.apply_defaults()
    return {name: value for name, value in bound.arguments.items() if name != "self"}


class TestArguments:
    """Calls in the shape of the method."""

    @pytest.mark.parametrize(
        ("function", "args", "kwargs", "arrives"),
        [
            (by_name, ("a",), {}, {"text": "a", "limit": 5, "tags": []}),
            (by_name, ("a", 7), {"tags": ["x"]}, {"text": "a", "limit": 7, "tags": ["x"]}),
            (by_name, (), {"limit": 7, "text": "a"}, {"text": "a", "limit": 7, "tags": []}),
            (whole_dataclass, (Track([Point(1)]),), {}, {"track": Track([Point(1)])}),
            (whole_typeddict, ({"limit": 1},), {}, {"options": {"limit": 1}}),
            (whole_with_default, (Plain(text="a"),), {}, {"given": Plain(text="a")}),
            (whole_with_default, (), {}, {"given": Plain(text="default")}),
            (annotated_whole, (Plain(text="a"),), {}, {"given": Plain(text="a")}),
            (optional_model, (), {}, {"given": None}),
            (optional_model, (None,), {}, {"given": None}),
            (optional_model, (Plain(text="a"),), {}, {"given": Plain(text="a")}),
            (two_models, (Plain(text="a"),), {"second": Plain(text="b")}, {"first": Plain(text="a"), "second": Plain(text="b")}),
            (nothing, (), {}, {}),
            (keywords, (), {"text": "a"}, {"text": "a", "limit": 5}),
        ],
    )
    def test_a_call_arrives_as_it_was_made(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], arrives: dict[str, Any]
    ) -> None:
        """Positions, names and defaults come out on the other side as Python would bind them."""
        assert arrive(function, *args, **kwargs) == arrives

    def test_names_that_pydantic_uses_itself(self) -> None:
        """Parameters may be called schema, copy, model_dump or _id: callers use these names, and warnings are errors here."""
        assert arrive(odd_names, "s", 2, copy=True, field0=9) == {
            "schema": "s",
            "model_dump": 2,
            "_id": 1,
            "copy": True,
            "json": "",
            "model_config": "",
            "field0": 9,
        }
        assert Arguments.of(odd_names).write(("s", 2), {}) == {"schema": "s", "model_dump": 2}
        assert set(Arguments.of(odd_names).schema()["properties"]) == {
            "schema", "model_dump", "_id", "copy", "json", "model_config", "field0",
        }  # fmt: skip

    def test_what_a_model_made_up_itself_is_sent_too(self) -> None:
        """An id from a default factory is the caller's: the callee must not make up another."""
        order = Order()
        for function in (whole, with_order):
            assert arrive(function, order)["order"] == order

    def test_only_what_was_given_is_sent(self) -> None:
        """A default is left to the callee, so that it may change there."""
        assert Arguments.of(by_name).write(("a",), {}) == {"text": "a"}
        assert Arguments.of(with_order).write((), {"order": Order(note="n")}).keys() == {"order"}

    @pytest.mark.parametrize(
        ("function", "args", "kwargs", "why"),
        [
            (by_name, ("a", 1, [], 4), {}, "takes 3 arguments, not 4"),
            (by_name, ("a",), {"text": "b"}, "'text' is given twice"),
            (by_name, ("a",), {"txt": "b"}, "no argument 'txt'; there are: text, limit, tags"),
            (nothing, (), {"x": 1}, "no argument 'x'; there are: none"),
            (whole, (), {}, "needs the argument 'order'"),
            (whole, (Order(), Order()), {}, "takes 1 arguments, not 2"),
            (whole, (), {"odrer": Order()}, "no argument 'odrer'; there are: order"),
        ],
    )
    def test_arguments_that_python_would_refuse(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], why: str
    ) -> None:
        """Too many, unknown, doubled and missing arguments are TypeErrors that say which."""
        with pytest.raises(TypeError, match=why):
            Arguments.of(function).write(args, kwargs)

    @pytest.mark.parametrize(
        ("function", "payload"),
        [
            (by_name, {}),
            (by_name, None),
            (by_name, {"text": 5}),
            (by_name, {"text": "a", "limit": "many"}),
            (by_name, {"text": "a", "unknown": 1}),
            (by_name, ["a"]),
            (by_name, "a"),
            (by_name, b"\x00"),
            (nothing, {"x": 1}),
            (nothing, [1]),
            (whole, None),
            (whole, {"items": [{"itemCode": "a"}]}),
            (whole, {"unknown": 1}),
            (whole, [1]),
            (whole_dataclass, {"points": "x"}),
            (whole_dataclass, {}),
            (whole_typeddict, {"limit": "x"}),
            (bounded, {"count": 0}),
            (bounded, {"count": 11}),
        ],
    )
    def test_a_payload_that_does_not_fit(self, function: Callable[..., Any], payload: Any) -> None:
        """M31 (dramatiq#848): whatever payload comes, reading it ends in arguments or in a ValidationError, never in another."""
        with pytest.raises(ValidationError) as refused:
            Arguments.of(function).read(payload)
        assert problems(refused.value)

    @unhurried
    @given(plain_data(binary=True), st.sampled_from([by_name, whole, whole_dataclass, whole_typeddict, nothing, two_models]))
    def test_any_payload(self, payload: object, function: Callable[..., Any]) -> None:
        """M31 (dramatiq#848): the same for arbitrary payloads."""
        try:
            assert isinstance(Arguments.of(function).read(payload), dict)
        except ValidationError:
            pass

    def test_what_does_not_fit_is_refused_before_sending(self) -> None:
        """The caller's side checks too: a wrong argument costs no round trip."""
        with pytest.raises(ValidationError):
            Arguments.of(by_name).write((5,), {})
        with pytest.raises(ValidationError):
            Arguments.of(bounded).write((0,), {})

    def test_the_schema_has_names_defaults_and_bounds(self) -> None:
        """What tools and other languages read has the parameters' names, their defaults and limits."""
        schema = Arguments.of(by_name).schema()
        assert schema["required"] == ["text"]
        assert schema["properties"]["limit"]["default"] == 5
        assert Arguments.of(bounded).schema()["properties"]["count"] == {
            "exclusiveMinimum": 0, "maximum": 10, "title": "Count", "type": "integer",
        }  # fmt: skip
        assert "itemCode" in json.dumps(Arguments.of(whole).schema())


def no_self() -> None: ...


class TestHints:
    """What can't be offered is refused when the class is read, with what to do."""

    @staticmethod
    def refused(function: Callable[..., Any], *, event: bool = False) -> str:
        with pytest.raises(ConfigurationError) as error:
            Arguments.of(function, event=event)
        assert function.__qualname__ in str(error.value)
        return str(error.value)

    def test_a_parameter_without_hint(self) -> None:
        """A parameter needs a hint."""

        async def method(self, text) -> None: ...  # type: ignore[no-untyped-def]

        assert "parameter 'text' needs a type hint" in self.refused(method)

    def test_star_arguments(self) -> None:
        """Neither *args nor **kwargs nor positional-only parameters have names on the wire."""

        async def star(self: object, *args: int) -> None: ...
        async def double_star(self: object, **kwargs: int) -> None: ...
        async def positional(self: object, text: str, /) -> None: ...

        for function in (star, double_star, positional):
            assert "can't be called over the bus" in self.refused(function)

    def test_a_type_that_cannot_be_sent(self) -> None:
        """A hint that no payload can be checked against is found when the class is read, by parameter, also deep inside."""

        async def plain_class(self: object, what: Unsendable) -> None: ...
        async def inside(self: object, what: dict[str, list[Unsendable]]) -> None: ...
        async def only_event(self: object, what: Unsendable | None) -> None: ...

        for function, event in ((plain_class, False), (inside, False), (only_event, True)):
            text = self.refused(function, event=event)
            assert "parameter 'what'" in text
            assert "use plain types, a pydantic model, a dataclass or a TypedDict" in text
            assert "arbitrary_types_allowed" not in text or "Unsendable" in text

    def test_a_result_that_cannot_be_sent(self) -> None:
        """The same for what a method returns."""

        class Odd:
            @rpc()
            async def method(self) -> Unsendable:
                return Unsendable()

        with pytest.raises(ConfigurationError, match="the result: Unsendable can't be sent"):
            contract_of(Odd)

    def test_a_name_that_nobody_defines(self) -> None:
        """Postponed annotations that can't be resolved say what is missing and where to put it."""

        async def method(self: object, what: Missing) -> None: ...  # type: ignore[name-defined] # noqa: F821

        text = self.refused(method)
        assert "name 'Missing' is not defined" in text
        assert "at the top of the module" in text

    def test_postponed_annotations_are_resolved(self) -> None:
        """This module postpones its annotations, and every other test reads them; strings inside hints work as well."""

        async def method(self: object, what: list["Order"]) -> "Order | None":  # noqa: UP037
            return what[0]

        assert Arguments.of(method).read({"what": [{"note": "n"}]})["what"][0].note == "n"

    def test_a_field_as_default(self) -> None:
        """A handler called as plain Python would get the Field itself; the error shows the spelling that works for both."""

        async def method(self: object, limit: int = Field(5, gt=0)) -> None: ...

        assert "write Annotated[..., Field(...)] = default" in self.refused(method)

    def test_no_self(self) -> None:
        """A function without self is no method."""
        assert "self" in self.refused(no_self)

    def test_events_take_one_parameter(self) -> None:
        """An event handler with none or two parameters is refused; with one of any type it gets the payload as that."""
        for function in (nothing, two_models):
            assert "exactly one parameter" in self.refused(function, event=True)

        async def many(self: object, items: list[Item]) -> None: ...

        assert Arguments.of(many, event=True).read([{"itemCode": "a", "price": 1}])["items"][0].sku == "a"

    def test_the_typed_dict_of_old_pythons(self) -> None:
        """pydantic reads typing's own TypedDict from Python 3.12 on only; before that the error says what to import."""
        import sys
        import typing

        class Old(typing.TypedDict):
            a: int

        globals()["Old"] = Old
        try:

            async def method(self: object, old: Old) -> None: ...

            if sys.version_info < (3, 12):
                assert "typing_extensions.TypedDict" in self.refused(method)
            else:
                assert Arguments.of(method).read({"a": 1}) == {"old": {"a": 1}}
        finally:
            del globals()["Old"]
