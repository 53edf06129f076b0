"""Fields as pydantic's users write them, each with a value of it."""

import datetime
import decimal
import enum
import ipaddress
import pathlib
import re
import uuid
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import (
    AnyUrl,
    AwareDatetime,
    BaseModel,
    ByteSize,
    Field,
    HttpUrl,
    Json,
    NegativeFloat,
    NonNegativeInt,
    PositiveInt,
    SecretBytes,
    SecretStr,
    StrictBool,
    StringConstraints,
    conint,
    conlist,
    constr,
)


class Colour(enum.Enum):
    RED = "red"
    GREEN = "green"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int = 9


class Dog(BaseModel):
    kind: Literal["dog"]
    name: str | None = None


class Node(BaseModel):
    value: int
    children: list["Node"] = []


class Address(BaseModel):
    model_config = {"extra": "forbid"}
    street: str = Field(description="with the number", min_length=1)
    zip_code: str = Field(pattern=r"^\d{5}$")


class Open(BaseModel):
    model_config = {"extra": "allow"}
    name: str


class Point(NamedTuple):
    x: float
    y: float


@dataclass
class Movie:
    title: str
    year: int


_UTC = datetime.UTC
PYDANTIC: list[tuple[Any, Any]] = [
    (str, 'a "b" \\ ü'),
    (int, -12),
    (float, 1e-09),
    (bool, True),
    (None, None),
    (Any, {"a": [1]}),
    (bytes, b"abc"),
    (decimal.Decimal, decimal.Decimal("12.50")),
    (datetime.date, datetime.date(2024, 2, 29)),
    (datetime.datetime, datetime.datetime(2024, 2, 29, 12, 30, tzinfo=_UTC)),
    (AwareDatetime, datetime.datetime(2024, 1, 1, tzinfo=datetime.timezone(datetime.timedelta(hours=2)))),
    (datetime.time, datetime.time(12, 30, 15, 250000, tzinfo=_UTC)),
    (datetime.timedelta, datetime.timedelta(days=1, hours=2)),
    (uuid.UUID, uuid.UUID("2EB8AA08-AA98-11EA-B4AA-73B441D16380")),
    (pathlib.Path, pathlib.Path("/tmp/a.txt")),
    (re.Pattern, re.compile("a+")),
    (ipaddress.IPv4Address, ipaddress.IPv4Address("10.0.0.1")),
    (ipaddress.IPv6Address, ipaddress.IPv6Address("2001:db8::1")),
    (HttpUrl, HttpUrl("https://example.com:8443/search?q=cats&n=1#top")),
    (AnyUrl, AnyUrl("ftp://user@localhost/a")),
    (SecretStr, SecretStr("x")),
    (SecretBytes, SecretBytes(b"x")),
    (ByteSize, ByteSize(1024)),
    (Json[list[int]], "[1, 2]"),
    (PositiveInt, 1),
    (NonNegativeInt, 0),
    (NegativeFloat, -0.5),
    (StrictBool, False),
    (conint(ge=1, le=10, multiple_of=3), 9),
    (Annotated[float, Field(gt=0, lt=1)], 0.25),
    (Annotated[decimal.Decimal, Field(max_digits=6, decimal_places=2)], decimal.Decimal("1234.56")),
    (constr(min_length=2, max_length=5, pattern="^[a-z]+$"), "abc"),
    (Annotated[str, StringConstraints(pattern=r"^\w+@\w+\.(com|org)$")], "a@b.org"),
    (Literal["a", "b", 3], 3),
    (Colour, Colour.GREEN),
    (Level, Level.HIGH),
    (int | None, None),
    (int | str, "a"),
    (list[str], ["a", "b"]),
    (conlist(int, min_length=2, max_length=3), [1, 2]),
    (set[int], {1, 2}),
    (frozenset[str], frozenset(("a",))),
    (tuple[int, str], (1, "a")),
    (tuple[int, ...], (1, 2, 3)),
    (dict[str, int], {"a": 1}),
    (dict[int, str], {1: "a"}),
    (dict[Literal["x", "y"], float], {"x": 0.5}),
    (Point, Point(1.0, 2.5)),
    (Movie, Movie("Alien", 1979)),
    (Address, Address(street="Main St. 1", zip_code="12345")),
    (Open, Open(name="a")),
    (Node, Node(value=1, children=[Node(value=2)])),
    (Annotated[Cat | Dog, Field(discriminator="kind")], Dog(kind="dog", name="Rex")),
    (list[Annotated[Cat | Dog, Field(discriminator="kind")]], [Cat(kind="cat"), Dog(kind="dog")]),
]
