"""`slmchat.lazy_dataclasses` against the decorator of the standard library: the same records, the same refusals."""

import copy
import dataclasses
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import pytest

from slmchat import lazy_dataclasses

Value = TypeVar("Value")
DECORATORS = (lazy_dataclasses.dataclass, dataclasses.dataclass)
WAYS: tuple[dict[str, bool], ...] = (
    {"frozen": True, "slots": True},
    {"frozen": True},
    {"slots": True},
    {},
    {"slots": True, "unsafe_hash": True},
    {"slots": True, "eq": False},
    {"eq": False, "repr": False},
    {"frozen": True, "slots": True, "repr": False},
)


def _record(decorator: Any, ways: dict[str, bool]) -> Any:
    class Base:
        """A base of its own."""

        kind: ClassVar[str] = "base"

    @decorator(**ways)
    class Record(Base, Generic[Value]):
        """A record."""

        number: int
        text: str = "none"
        many: list[int] = dataclasses.field(default_factory=list)
        hidden: float = dataclasses.field(default=0.5, compare=False, repr=False)
        named: bool = dataclasses.field(default=False, kw_only=True)
        of_class: ClassVar[int] = 3

        @property
        def doubled(self) -> int:
            return 2 * self.number

    return Record


def _told(action: Callable[[], Any]) -> Any:
    """What comes of it: a value, or the kind and the words of what is raised."""
    try:
        return action()
    except Exception as error:  # noqa: BLE001 - whatever it is, both must raise the same
        said = str(error).replace("_record.<locals>.", "")
        return type(error), "" if isinstance(error, AttributeError) else said


@pytest.mark.parametrize("ways", WAYS, ids=lambda ways: "-".join(ways) or "plain")
def test_records_are_those_of_the_standard_library(ways: dict[str, bool]) -> None:
    ours, theirs = (_record(decorator, ways) for decorator in DECORATORS)
    actions: list[Callable[[Any], Any]] = [
        lambda cls: cls(1).text,
        lambda cls: cls(1, "a", [2], 0.1, named=True).named,
        lambda cls: cls(),
        lambda cls: cls(1, "a", [], 0.1, True),
        lambda cls: cls(1, other=2),
        lambda cls: repr(cls(1, "a")) if ways.get("repr", True) else None,
        lambda cls: cls(1) == cls(1),
        lambda cls: cls(1) == cls(1, hidden=9.0),
        lambda cls: cls(1) == cls(2),
        lambda cls: cls(1) == 1,
        lambda cls: cls.__hash__ is None,
        lambda cls: cls(1).many is cls(1).many,
        lambda cls: setattr(cls(1), "number", 2),
        lambda cls: delattr(cls(1), "number"),
        # of frozen records with slots, Python 3.11 says TypeError: its own mistake
        lambda cls: isinstance(_told(lambda: setattr(cls(1), "unknown", 2)), tuple),
        lambda cls: dataclasses.replace(cls(1), number=4).doubled,
        lambda cls: dataclasses.asdict(cls(1, "a", [3])),
        lambda cls: [(item.name, item.default, item.repr, item.kw_only) for item in dataclasses.fields(cls)],
        lambda cls: dataclasses.is_dataclass(cls) and cls.__match_args__,
        lambda cls: copy.copy(cls(1, "b")).text,
        lambda cls: copy.deepcopy(cls(1, "b", [4])).many,
        lambda cls: hasattr(cls(1), "__dict__"),
        lambda cls: (cls.of_class, cls.kind, cls.__doc__, cls(5).number),
    ]
    for number, action in enumerate(actions):
        assert _told(lambda: action(ours)) == _told(lambda: action(theirs)), number  # noqa: B023 - called at once


@lazy_dataclasses.dataclass(frozen=True, slots=True)
class Point:
    """Where something is."""

    x: int
    y: int = 0

    def __post_init__(self) -> None:
        if self.x < 0:
            raise ValueError("x")


@lazy_dataclasses.dataclass(frozen=True, slots=True)
class Named(Point):
    """A point with a name."""

    name: str = "P"


@dataclasses.dataclass(frozen=True)
class Standard(Point):
    """A record of the standard library on one of ours."""

    weight: float = 1.0


def test_records_inherit_are_pickled_matched_and_checked() -> None:
    named = Named(1, 2, "Q")
    assert pickle.loads(pickle.dumps(named)) == named
    assert Named.__slots__ == ("name",) and named != Point(1, 2)
    with pytest.raises(dataclasses.FrozenInstanceError):
        named.name = "R"  # type: ignore[misc]
    with pytest.raises(ValueError, match="x"):
        Point(-1)
    match named:
        case Named(x, y, name):
            assert (x, y, name) == (1, 2, "Q")
    assert dataclasses.astuple(Standard(1, 2, 3.0)) == (1, 2, 3.0)
    assert len({Point(1), Point(1, 0), Point(2)}) == 2


def test_a_default_that_can_change_is_refused() -> None:
    with pytest.raises(ValueError, match="default_factory"):

        @lazy_dataclasses.dataclass
        class Shared:
            many: list[int] = []  # noqa: RUF012 - that is refused


def test_nothing_is_compiled_before_a_record_is_made() -> None:
    code = (
        "import builtins\n"
        "from slmchat.lazy_dataclasses import dataclass\n"
        "texts = []\n"
        "compiled = builtins.exec\n"
        "builtins.exec = lambda text, *given: (texts.append(text), compiled(text, *given))\n"
        "@dataclass(frozen=True, slots=True)\n"
        "class A:\n"
        "    a: int\n"
        "before = len(texts)\n"
        "A(1); A(2)\n"
        "print(before, len(texts))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "1"]


def test_every_record_of_slm_is_made_so() -> None:
    """One decorator of the standard library costs as much as thirteen of these, at every start."""
    package = Path(lazy_dataclasses.__file__).parent
    for file in package.rglob("*.py"):
        if file.name != "lazy_dataclasses.py":
            lines = [line for line in file.read_text("utf-8").splitlines() if "from dataclasses import" in line]
            assert not any("dataclass" in line.partition(" import ")[2] for line in lines), file
