"""The methods and attributes that a template may reach, by the type of the value: what is not here does not exist.

Knows: one table, `METHODS`, and what each method costs. No method changes a value (transformers renders in Jinja's
immutable sandbox: no template of the field can need one), and none gives bytes.
Refuses to know: operators, filters, Jinja.
"""

from collections.abc import Callable, Mapping
from typing import Any

from jinja2.filters import _GroupTuple as GroupTuple  # what `groupby` gives; it has no other name
from jinja2.runtime import LoopContext, Macro

from slmchat.conversation.template_values import Cycler, Operations

Callee = Callable[..., Any]


def _linear(method: Callee) -> Callee:
    """A method of texts that looks at each character once and makes a text of at most three times the size."""

    def call(operations: Operations, text: str) -> Any:
        operations.budget.make_text(len(text))
        result = method(text)
        if isinstance(result, str):
            operations.budget.make_text(len(result))
        return result

    return call


def _stripping(method: Callee) -> Callee:
    def call(operations: Operations, text: str, chars: str | None = None) -> str:
        return operations.stripped(text, chars, method)

    return call


def _searching(method: Callee, *, from_the_end: bool = False) -> Callee:
    def call(operations: Operations, text: str, needle: str, *bounds: int | None) -> Any:
        operations.searched(text, needle, from_the_end=from_the_end)
        return method(text, needle, *bounds)

    return call


def _beginning(method: Callee) -> Callee:
    """`startswith` and `endswith`, of a text or of several."""

    def call(operations: Operations, text: str, affix: str | tuple[str, ...], *bounds: int | None) -> Any:
        affixes = (affix,) if isinstance(affix, str) else affix
        operations.budget.spend(sum(1 + len(item) // 32 for item in affixes))
        return method(text, affix, *bounds)

    return call


def _partitioning(method: Callee, *, from_the_end: bool = False) -> Callee:
    def call(operations: Operations, text: str, needle: str) -> Any:
        operations.searched(text, needle, from_the_end=from_the_end)
        operations.budget.make_text(len(text))
        return method(text, needle)

    return call


def _splitting(method: Callee, *, from_the_end: bool = False) -> Callee:
    def call(operations: Operations, text: str, sep: str | None = None, maxsplit: int = -1) -> list[str]:
        budget = operations.budget
        if sep is None:
            parts = len(text) // 2 + 1
        else:
            operations.searched(text, sep, from_the_end=from_the_end)
            parts = text.count(sep) + 1 if sep else 1
        budget.make_list(min(parts, maxsplit + 1) if maxsplit >= 0 else parts, 72)
        budget.make_text(len(text))
        result: list[str] = method(text, sep, maxsplit)
        return result

    return call


def _lines(operations: Operations, text: str, keepends: bool = False) -> list[str]:
    operations.budget.make_text(len(text))
    lines = text.splitlines(keepends)
    operations.budget.make_list(len(lines), 72)
    return lines


def _padding(method: Callee) -> Callee:
    def call(operations: Operations, text: str, width: int, *fill: str) -> str:
        operations.budget.make_text(max(len(text), width))
        result: str = method(text, width, *fill)
        return result

    return call


def _affix_removed(method: Callee) -> Callee:
    def call(operations: Operations, text: str, affix: str) -> str:
        operations.budget.make_text(len(text))
        result: str = method(text, affix)
        return result

    return call


def _expanded(operations: Operations, text: str, tabsize: int = 8) -> str:
    operations.budget.make_text(len(text) + text.count("\t") * max(0, tabsize))
    return text.expandtabs(tabsize)


def _format(operations: Operations, text: str, /, *args: Any, **kwargs: Any) -> str:
    return operations.formatted(text, args, kwargs)


def _keys(operations: Operations, of: dict[Any, Any]) -> list[Any]:
    operations.budget.make_list(len(of))
    return list(of)


def _values(operations: Operations, of: dict[Any, Any]) -> list[Any]:
    operations.budget.make_list(len(of))
    return list(of.values())


def _items(operations: Operations, of: dict[Any, Any]) -> list[tuple[Any, Any]]:
    operations.budget.make_list(len(of), 72)
    return list(of.items())


def _get(operations: Operations, of: dict[Any, Any], key: Any, default: Any = None) -> Any:
    return of.get(operations.key(key), default)


def _copy(operations: Operations, of: Any) -> Any:
    operations.budget.make_list(len(of), 72 if isinstance(of, dict) else 8)
    return of.copy()


def _index(operations: Operations, of: Any, item: Any, *bounds: int) -> int:
    operations.contains(item, of)
    found: int = of.index(item, *bounds)
    return found


def _count(operations: Operations, of: Any, item: Any) -> int:
    operations.contains(item, of)
    count: int = of.count(item)
    return count


def _changed(operations: Operations, loop: LoopContext, *value: Any) -> bool:
    operations.budget.measure(value)
    return loop.changed(*value)


_TEXT: Mapping[str, Callee] = {
    **{
        name: _linear(getattr(str, name))
        for name in (
            "capitalize", "casefold", "isalnum", "isalpha", "isascii", "isdecimal", "isdigit", "isidentifier",
            "islower", "isnumeric", "isprintable", "isspace", "istitle", "isupper", "lower", "swapcase", "title",
            "upper",
        )
    },
    "strip": _stripping(str.strip),
    "lstrip": _stripping(str.lstrip),
    "rstrip": _stripping(str.rstrip),
    "count": _searching(str.count),
    "find": _searching(str.find),
    "index": _searching(str.index),
    "rfind": _searching(str.rfind, from_the_end=True),
    "rindex": _searching(str.rindex, from_the_end=True),
    "startswith": _beginning(str.startswith),
    "endswith": _beginning(str.endswith),
    "partition": _partitioning(str.partition),
    "rpartition": _partitioning(str.rpartition, from_the_end=True),
    "split": _splitting(str.split),
    "rsplit": _splitting(str.rsplit, from_the_end=True),
    "splitlines": _lines,
    "center": _padding(str.center),
    "ljust": _padding(str.ljust),
    "rjust": _padding(str.rjust),
    "zfill": _padding(str.zfill),
    "removeprefix": _affix_removed(str.removeprefix),
    "removesuffix": _affix_removed(str.removesuffix),
    "expandtabs": _expanded,
    "replace": Operations.replaced,
    "join": Operations.joined,
    "format": _format,
}  # fmt: skip
_SEQUENCE: Mapping[str, Callee] = {"index": _index, "count": _count}

METHODS: Mapping[type, Mapping[str, Callee]] = {
    str: _TEXT,
    list: {**_SEQUENCE, "copy": _copy},
    tuple: _SEQUENCE,
    range: _SEQUENCE,
    GroupTuple: _SEQUENCE,
    dict: {"keys": _keys, "values": _values, "items": _items, "get": _get, "copy": _copy},
    Cycler: {"next": lambda _operations, cycler: cycler.next(), "reset": lambda _operations, cycler: cycler.reset()},
    LoopContext: {"cycle": lambda _operations, loop, *items: loop.cycle(*items), "changed": _changed},
}

# What is read and not called. These types are none of the template's making: nothing in them can be large.
ATTRIBUTES: Mapping[type, frozenset[str]] = {
    Cycler: frozenset({"current"}),
    GroupTuple: frozenset({"grouper", "list"}),
    Macro: frozenset({"name", "arguments", "catch_kwargs", "catch_varargs", "caller"}),
    LoopContext: frozenset(
        {
            "depth",
            "depth0",
            "first",
            "index",
            "index0",
            "last",
            "length",
            "nextitem",
            "previtem",
            "revindex",
            "revindex0",
        }
    ),
}
