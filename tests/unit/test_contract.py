"""What a service offers is read from its hints, and values cross the bus as what they were."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import ipaddress
import json
import pathlib
import types
import uuid
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Annotated, Any, Literal, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import (
    AnyUrl,
    BaseModel,
    ConfigDict,
    Field,
    HttpUrl,
    RootModel,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from typing_extensions import TypedDict

from fabric.contract import Arguments, checked, contract_of, on_broadcast, on_event, plain, problems, rpc
from fabric.errors import ConfigurationError, InvalidMessage
from fabric.wire import codec
from tests.unit.wire.messages import plain as plain_data
from tests.unit.wire.messages import request, unhurried

UTC = datetime.UTC


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Mode(str, enum.Enum):  # noqa: UP042
    FAST = "fast"


class Place(NamedTuple):
    x: int
    y: int = 0


class Item(BaseModel):
    sku: str = Field(alias="itemCode")
    price: decimal.Decimal
    colour: Colour = Colour.RED
    seen: datetime.datetime | None = None


class Order(BaseModel):
    model_config = ConfigDict(extra="forbid")

    id: uuid.UUID = Field(default_factory=uuid.uuid4)
    items: list[Item] = []
    by_number: dict[int, Item] = {}
    note: str | None = None
    parent: Order | None = None


@dataclasses.dataclass(frozen=True)
class Point:
    x: int
    when: datetime.date = datetime.date(2026, 1, 1)
    item: Item | None = None


@dataclasses.dataclass(slots=True)
class Track:
    points: list[Point]
    tags: set[str] = dataclasses.field(default_factory=set)


class Options(TypedDict, total=False):
    limit: int
    since: datetime.date


Numbers = RootModel[list[int]]


class Plain(BaseModel):
    text: str
    number: int = 5


class Unsendable:
    pass


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


def over_the_bus(payload: Any) -> Any:
    """What the receiver's codec makes of it."""
    return codec.decode(codec.encode(request(payload))).payload


def arrive(function: Callable[..., Any], *args: Any, **kwargs: Any) -> dict[str, Any]:
    """The keyword arguments that the handler gets for a call with these."""
    arguments = Arguments.of(function)
    return arguments.read(over_the_bus(arguments.write(args, kwargs)))


class TestValues:
    """plain on the one side, checked on the other."""

    @unhurried
    @given(plain_data(binary=True))
    def test_plain_data_stays(self, value: object) -> None:
        """Plain data is sent as it is, and a copy: changing it later does not change what is sent."""
        made = plain(value)
        assert repr(made) == repr(value)
        if isinstance(value, (list, dict)):
            assert made is not value

    @pytest.mark.parametrize(
        ("kind", "value"),
        [
            (datetime.datetime, datetime.datetime(2026, 2, 3, 4, 5, 6, 7, tzinfo=UTC)),
            (datetime.datetime, datetime.datetime(2026, 2, 3, 4, 5, 6)),  # noqa: DTZ001
            (
                datetime.datetime,
                datetime.datetime(2026, 2, 3, tzinfo=datetime.timezone(datetime.timedelta(hours=-5, minutes=30))),
            ),
            (datetime.date, datetime.date(1, 1, 1)),
            (datetime.time, datetime.time(23, 59, 59, 999999)),
            (datetime.timedelta, datetime.timedelta(days=-3, microseconds=1)),
            (datetime.timedelta, datetime.timedelta(days=99_999, microseconds=1)),
            (uuid.UUID, uuid.UUID(int=7)),
            (decimal.Decimal, decimal.Decimal("-1234567890.123456789012345678901234567890")),
            (decimal.Decimal, decimal.Decimal("1E+50")),
            (Colour, Colour.BLUE),
            (Level, Level.HIGH),
            (Mode, Mode.FAST),
            (set[int], {1, 2, 3}),
            (frozenset[Colour], frozenset({Colour.RED})),
            (tuple[int, str, Colour], (1, "a", Colour.RED)),
            (tuple[int, ...], ()),
            (deque[int], deque([1, 2])),
            (Place, Place(3)),
            (bytes, b"\x00\xff\x80"),
            (pathlib.PurePosixPath, pathlib.PurePosixPath("/a/b")),
            (ipaddress.IPv4Address, ipaddress.IPv4Address("10.0.0.1")),
            (HttpUrl, HttpUrl("https://example.org/a?b=c")),
            (AnyUrl, AnyUrl("redis://cache:6379/1")),
            (SecretStr, SecretStr("hunter2")),
            (Item, Item(itemCode="a", price=decimal.Decimal("1.50"))),
            (Order, Order(items=[Item(itemCode="a", price=decimal.Decimal(1), seen=datetime.datetime.now(UTC))], note="n")),
            (Order, Order(parent=Order(by_number={7: Item(itemCode="b", price=decimal.Decimal(2))}))),
            (list[Item], [Item(itemCode="a", price=decimal.Decimal(1), colour=Colour.BLUE)]),
            (dict[str, Item | None], {"a": Item(itemCode="a", price=decimal.Decimal(1)), "b": None}),
            (dict[uuid.UUID, int], {uuid.UUID(int=1): 1}),
            (dict[datetime.date, Colour], {datetime.date(2026, 1, 2): Colour.RED}),
            (dict[Colour, int], {Colour.RED: 1}),
            (dict[Mode, int], {Mode.FAST: 1}),
            (dict[Level, int], {Level.LOW: 1}),
            (dict[bool, int], {True: 1, False: 2}),
            (dict[float, int], {1.5: 1}),
            (Point, Point(1, item=Item(itemCode="a", price=decimal.Decimal(1)))),
            (Track, Track([Point(1), Point(2, datetime.date(2026, 3, 4))], {"x"})),
            (Options, {"limit": 1, "since": datetime.date(2026, 1, 1)}),
            (Numbers, Numbers([1, 2])),
            (Literal["a", "b"], "b"),
            (int | str | None, None),
            (None | Item, None),
            (float, float("inf")),
            (Mapping[str, int], {"a": 1}),
        ],
    )
    def test_a_typed_value_comes_back_equal(self, kind: Any, value: Any) -> None:
        """Dates, decimals, enums, sets, models, dataclasses and all their nestings arrive equal and of the same type."""
        back = checked(kind, over_the_bus(plain(value)))
        assert back == value
        assert type(back) is type(value)

    @settings(deadline=None)
    @given(
        st.builds(
            Order,
            items=st.lists(
                st.builds(
                    Item,
                    itemCode=st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
                    price=st.decimals(allow_nan=False, allow_infinity=False),
                    colour=st.sampled_from(Colour),
                    seen=st.none() | st.datetimes(timezones=st.just(UTC)),
                ),
                max_size=3,
            ),
            by_number=st.just({}),
            parent=st.none(),
            note=st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
        )
    )
    def test_any_model_comes_back_equal(self, order: Order) -> None:
        """A model with aliases, nested lists, decimals and dates arrives equal, whatever is in it."""
        assert checked(Order, over_the_bus(plain(order))) == order

    def test_aliases_are_what_travels(self) -> None:
        """On the wire a field has its alias, also inside a dataclass, so that other languages see the documented names."""
        item = Item(itemCode="a", price=decimal.Decimal("1.50"))
        assert plain(item) == {"itemCode": "a", "price": "1.50", "colour": "red", "seen": None}
        assert plain(Point(1, item=item))["item"]["itemCode"] == "a"

    @pytest.mark.parametrize(
        ("value", "wire"),
        [
            ({1: "a", 2: "b"}, {"1": "a", "2": "b"}),
            ({Colour.RED: {Level.LOW: [Mode.FAST]}}, {"red": {"1": ["fast"]}}),
            (OrderedDict(a=(1, 2)), {"a": [1, 2]}),
            (types.MappingProxyType({"a": {3}}), {"a": [3]}),
            ([Place(1, 2)], [[1, 2]]),
            (SecretStr("hunter2"), "hunter2"),
            ({"model": [Plain(text="t")]}, {"model": [{"text": "t", "number": 5}]}),
            ((Plain(text="t"),), [{"text": "t", "number": 5}]),
        ],
    )
    def test_the_wire_form_of_other_values(self, value: object, wire: object) -> None:
        """Keys become text as in JSON; mappings, tuples and sets become maps and lists; a secret is sent as itself."""
        made = over_the_bus(plain(value))
        assert made == wire
        assert json.dumps(made)

    @pytest.mark.parametrize(
        ("value", "why"),
        [
            (Unsendable(), "a Unsendable can't be sent; use plain data"),
            ([{"a": Unsendable()}], "a Unsendable can't be sent"),
            (Unsendable, "a type can't be sent"),
            ({(1, 2): 3}, "a tuple can't be the key"),
            ({None: 3}, "a NoneType can't be the key"),
            ({frozenset({1}): 3}, "a frozenset can't be the key"),
            ({1: "a", "1": "b"}, "two keys of a map are the same"),
            (ValueError("x"), "a ValueError can't be sent"),
        ],
    )
    def test_what_cannot_be_sent_is_refused(self, value: object, why: str) -> None:
        """A value that no receiver could read is an InvalidMessage with the reason, before anything is sent."""
        with pytest.raises(InvalidMessage, match=why):
            plain(value)

    def test_a_dataclass_with_a_field_that_has_no_schema(self) -> None:
        """A dataclass that holds what can't be sent is refused by its name."""

        @dataclasses.dataclass
        class Holder:
            what: Unsendable

        with pytest.raises(InvalidMessage, match="a Holder can't be sent"):
            plain(Holder(Unsendable()))

    def test_values_that_hold_themselves(self) -> None:
        """A cycle in a list, a map or a model is refused; it neither hangs nor ends in RecursionError."""
        circle: list[Any] = []
        circle.append({"again": circle})
        order = Order()
        order.parent = order
        for value in (circle, circle[0], order):
            with pytest.raises(InvalidMessage):
                plain(value)

    def test_the_depth_is_what_the_receiver_takes(self) -> None:
        """What is nested just as deep as the wire allows can be sent, one level more is refused before sending."""
        deep: Any = {"when": datetime.date(2026, 1, 1)}
        for _ in range(codec.DEFAULT_LIMITS.depth - 1):
            deep = [deep]
        assert over_the_bus(plain(deep))
        with pytest.raises(InvalidMessage, match="nested deeper"):
            plain([deep])

    def test_secrets_stay_out_of_texts(self) -> None:
        """A secret reaches its receiver, and is a secret again there."""
        back = checked(SecretStr, over_the_bus(plain(SecretStr("hunter2"))))
        assert "hunter2" not in repr(back)
        assert back.get_secret_value() == "hunter2"


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
            (whole_with_default, (), {}, {}),
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

    def test_a_mutable_default_is_not_shared(self) -> None:
        """Two calls that leave a list to its default get two lists."""
        arguments = Arguments.of(by_name)
        first = arguments.read({"text": "a"})["tags"]
        first.append("x")
        assert arguments.read({"text": "a"})["tags"] == []

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


class TestProblems:
    """What is told of a refusal must not tell the secret."""

    SECRET = "s3cr3t-tok3n"

    class Strict(BaseModel):
        number: int
        flag: bool
        when: datetime.datetime
        day: datetime.date
        span: datetime.timedelta
        id: uuid.UUID
        price: decimal.Decimal
        colour: Colour
        mode: Literal["a", "b"]
        url: HttpUrl
        address: ipaddress.IPv4Address
        path: Annotated[str, Field(pattern="^[0-9]$")]
        short: Annotated[str, Field(max_length=3)]
        items: list[int]
        table: dict[str, int]
        pair: tuple[int, int]
        shape: Annotated[Square | Circle, Field(discriminator="kind")]
        checked: str
        raw: Annotated[bytes, Field(max_length=2)]

        @field_validator("checked")
        @classmethod
        def _check(cls, value: str) -> str:
            raise ValueError(f"{value} is not known, nor {value!r}")

    class Whole(BaseModel):
        password: str
        nested: list[dict[str, str]] = []

        @model_validator(mode="before")
        @classmethod
        def _check(cls, value: Any) -> Any:
            raise ValueError(f"no: {value}")

    def test_no_value_is_repeated(self) -> None:
        """With the secret in every field of every kind, none of the problems has it, nor does validators' own text."""
        with pytest.raises(ValidationError) as refused:
            self.Strict.model_validate(
                {
                    **dict.fromkeys(self.Strict.model_fields, self.SECRET),
                    "items": [self.SECRET],
                    "table": {"key": self.SECRET},
                    "pair": [self.SECRET, self.SECRET],
                    "shape": {"kind": self.SECRET},
                    "unknown": self.SECRET,
                }
            )
        told = problems(refused.value)
        assert {item["loc"][0] for item in told} == set(self.Strict.model_fields)
        assert self.SECRET not in repr(told)
        assert json.dumps(told)

    def test_a_validator_that_repeats_the_whole_model(self) -> None:
        """A text that a team's own validator made of several values has none of them."""
        with pytest.raises(ValidationError) as refused:
            self.Whole.model_validate({"password": self.SECRET, "nested": [{"deep": f"{self.SECRET}-2"}]})
        assert self.SECRET not in repr(problems(refused.value))

    def test_what_helps_stays(self) -> None:
        """Where, what was wanted and the kind of problem are told."""
        with pytest.raises(ValidationError) as refused:
            checked(Order, {"items": [{"itemCode": "a", "price": "free"}]})
        assert problems(refused.value) == [
            {"loc": ["items", "0", "price"], "msg": "Input should be a valid decimal", "type": "decimal_parsing"}
        ]

    def test_a_hundred_problems_are_enough(self) -> None:
        """M31 (dramatiq#848): a list of many wrong values does not make an answer of many problems."""
        with pytest.raises(ValidationError) as refused:
            checked(list[int], ["x"] * 5000)
        assert len(problems(refused.value)) == 100

    def test_a_large_input_is_not_searched_for_long(self) -> None:
        """M31 (dramatiq#848): the text of a validator that saw a huge payload is dropped rather than searched."""
        with pytest.raises(ValidationError) as refused:
            self.Whole.model_validate({"password": "x", "nested": [{"a": "yyy"}] * 5000})
        assert problems(refused.value)[0]["msg"] == "does not fit"


class Square(BaseModel):
    kind: Literal["square"]


class Circle(BaseModel):
    kind: Literal["circle"]


TestProblems.Strict.model_rebuild()


class EmailService:
    name, version = "email-service", "1.2.0"
    capabilities = ("email-sending",)

    @rpc(idempotent=True, timeout=5.0, concurrency=50, aliases=("sendEmail",))
    async def send_email(self, request: Plain) -> Plain:
        return request

    @rpc(name="list", callers=["checkout"])
    async def list_all(self) -> list[Plain]:
        return []

    @rpc()
    async def tail(self, lines: int = 10) -> AsyncIterator[str]:
        yield ""

    @on_event("todo.created", "todo.*.done", group="mail", concurrency=3)
    async def welcome(self, event: Plain) -> None: ...

    @on_event("user.#")
    async def user(self, event: Any) -> None: ...

    @on_broadcast("policy.changed")
    async def policy(self, event: dict[str, Any]) -> None: ...

    async def not_offered(self, x: int) -> None: ...

    @property
    def trap(self) -> int:
        raise AssertionError("reading a contract must not run properties")


class TestServices:
    """The contract of a class."""

    def test_everything_marked_is_found(self) -> None:
        """Methods by name and alias, handlers by group, broadcasts; nothing that is not marked."""
        contract = contract_of(EmailService)
        assert (contract.name, contract.version, contract.capabilities) == ("email-service", "1.2.0", ("email-sending",))
        assert set(contract.methods) == {"send_email", "sendEmail", "list", "tail"}
        assert contract.methods["sendEmail"] is contract.methods["send_email"]
        assert contract.methods["list"].attribute == "list_all"
        assert contract.methods["list"].options.callers == ("checkout",)
        assert contract.methods["send_email"].returns is Plain
        assert contract.methods["tail"].streams
        assert not contract.methods["list"].streams
        assert {group: [h.attribute for h in handlers] for group, handlers in contract.groups.items()} == {
            "mail": ["welcome"],
            "default": ["user"],
        }
        assert contract.groups["mail"][0].patterns == ("todo.created", "todo.*.done")
        assert [(h.attribute, h.patterns) for h in contract.broadcasts] == [("policy", ("policy.changed",))]

    def test_it_is_read_once_for_each_class(self) -> None:
        """The contract is kept on the class; a subclass has its own, with what it inherits."""

        class Sub(EmailService):
            name = "sub-service"

            @rpc()
            async def more(self) -> None: ...

        assert contract_of(EmailService) is contract_of(EmailService)
        assert contract_of(Sub) is not contract_of(EmailService)
        assert contract_of(Sub).name == "sub-service"
        assert set(contract_of(Sub).methods) == {*contract_of(EmailService).methods, "more"}

    def test_two_methods_of_one_name(self) -> None:
        """A name can mean one method only, aliases included."""

        class Twice:
            @rpc(aliases=("two",))
            async def one(self) -> None: ...

            @rpc()
            async def two(self) -> None: ...

        with pytest.raises(ConfigurationError, match="two methods are called 'two'"):
            contract_of(Twice)

    def test_static_and_class_methods(self) -> None:
        """They would lose their first argument; refused by name instead of silently left out."""

        class Static:
            @staticmethod
            @rpc()
            async def method(text: str) -> None: ...

        class Klass:
            @classmethod
            @rpc()
            async def method(cls, text: str) -> None: ...

        for service in (Static, Klass):
            with pytest.raises(ConfigurationError, match=r"method: only ordinary methods"):
                contract_of(service)

    def test_a_string_in_place_of_a_tuple(self) -> None:
        """capabilities, aliases and callers of one string would be its letters; refused with the right spelling."""

        class Service:
            capabilities = "text"

        with pytest.raises(ConfigurationError, match=r"\('text',\) in place of 'text'"):
            contract_of(Service)
        for wrong in ({"aliases": "sendEmail"}, {"callers": "checkout"}):
            with pytest.raises(ConfigurationError, match="is a list of names"):
                rpc(**wrong)  # type: ignore[arg-type]

    def test_handlers_of_one_group_must_agree(self) -> None:
        """They share a queue, whose limits can't be two."""

        class Two:
            @on_event("a", max_attempts=2)
            async def one(self, event: Any) -> None: ...

            @on_event("b", max_attempts=3)
            async def two(self, event: Any) -> None: ...

        with pytest.raises(ConfigurationError, match="give one of them another group"):
            contract_of(Two)

    def test_only_async_functions(self) -> None:
        """A blocking handler would stop the whole process."""

        def blocking(self: object) -> None: ...

        for mark in (rpc(), on_event("a"), on_broadcast("a")):
            with pytest.raises(ConfigurationError, match="blocking must be an async function"):
                mark(blocking)

    def test_forgotten_parentheses(self) -> None:
        """@on_event and @on_broadcast without topics would offer nothing in silence."""
        with pytest.raises(ConfigurationError, match=r'@on_event\("todo.created"\)'):
            on_event(nothing)  # type: ignore[arg-type]
        with pytest.raises(ConfigurationError, match="on_broadcast needs at least one topic"):
            on_broadcast(nothing)  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            rpc(nothing)  # type: ignore[call-arg,arg-type]

    @pytest.mark.parametrize(
        "options",
        [
            {"timeout": 0}, {"timeout": -1.0}, {"timeout": float("nan")}, {"timeout": float("inf")},
            {"concurrency": 0}, {"queue": -1},
        ],
    )  # fmt: skip
    def test_options_of_a_method(self, options: dict[str, Any]) -> None:
        """Limits that nothing could meet, or that are none, are refused."""
        with pytest.raises(ConfigurationError):
            rpc(**options)

    @pytest.mark.parametrize(
        "options",
        [
            {"concurrency": 0}, {"concurrency": 65_536}, {"max_attempts": 0}, {"retry_delays": ()}, {"retry_delays": (-1.0,)},
            {"retry_delays": (float("nan"),)}, {"timeout": 0}, {"timeout": 1800.0}, {"unique_for": -1.0}, {"group": "a.b"},
            {"group": ""}, {"group": "a" * 101},
        ],
    )  # fmt: skip
    def test_options_of_an_event_handler(self, options: dict[str, Any]) -> None:
        """The same for handlers; a group is part of a queue's name and has the letters of a name."""
        with pytest.raises(ConfigurationError):
            on_event("a", **options)

    @pytest.mark.parametrize("topics", [(), ("",), ("a", ""), (None,), (1,)])
    def test_topics(self, topics: tuple[Any, ...]) -> None:
        """A handler without a topic would never run."""
        for mark in (on_event, on_broadcast):
            with pytest.raises(ConfigurationError, match="needs at least one topic"):
                mark(*topics)
