"""Values cross the bus as what they were, and what is told of a refusal has no secrets."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import ipaddress
import json
import pathlib
import types
import uuid
from collections import OrderedDict, deque
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import (
    AnyUrl,
    BaseModel,
    Field,
    HttpUrl,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)

from fabric.errors import InvalidMessage
from fabric.values import checked, plain, problems
from fabric.wire import codec
from tests.unit.samples import (
    Colour,
    Item,
    Level,
    Mode,
    Numbers,
    Options,
    Order,
    Place,
    Plain,
    Point,
    Track,
    Unsendable,
    over_the_bus,
)
from tests.unit.wire.messages import plain as plain_data
from tests.unit.wire.messages import unhurried


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
            (datetime.datetime, datetime.datetime(2026, 2, 3, 4, 5, 6, 7, tzinfo=datetime.UTC)),
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
            (
                Order,
                Order(items=[Item(itemCode="a", price=decimal.Decimal(1), seen=datetime.datetime.now(datetime.UTC))], note="n"),
            ),
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
                    seen=st.none() | st.datetimes(timezones=st.just(datetime.UTC)),
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


def test_a_buffer_is_taken_as_it_is_now() -> None:
    """M22 (rabbot#47): a buffer that is filled again does not change what was given to be sent."""
    buffer = bytearray(b"one")
    found = plain({"direct": buffer, "view": memoryview(buffer), "list": [buffer]})
    buffer[:] = b"two"
    assert found == {"direct": b"one", "view": b"one", "list": [b"one"]}
