"""Models, dataclasses and enums as a team would write them."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import uuid
from typing import Any, NamedTuple

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    RootModel,
)
from typing_extensions import TypedDict

from fabric.wire import codec
from tests.unit.wire.messages import request


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


def over_the_bus(payload: Any) -> Any:
    """What the receiver's codec makes of it."""
    return codec.decode(codec.encode(request(payload))).payload
