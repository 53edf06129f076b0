"""What a program hands over, looked at before anything is done with it: a wrong type is one `SlmError` with its name.

Knows: types, and how they are called. Refuses to know: what the values mean.
"""

import contextlib
import operator
import os
from collections.abc import Iterable
from numbers import Real
from typing import SupportsIndex

from slmchat.errors import SlmError, usage_error


def refused(name: str, wanted: str, value: object, hint: str | None = None) -> SlmError:
    """The error for a value that `name` cannot have."""
    return usage_error(f"{name} must be {wanted}, not {_named(value)}.", hint)


def text(value: object, name: str) -> str:
    """The same text. Raises `SlmError` (USAGE)."""
    if not isinstance(value, str):
        raise refused(name, "a text (str)", value)
    return value


def text_or_none(value: object, name: str) -> str | None:
    """The same text, or None. Raises `SlmError` (USAGE)."""
    return None if value is None else text(value, name)


def path(value: object, name: str) -> str:
    """The path as a text. Raises `SlmError` (USAGE)."""
    if not isinstance(value, (str, os.PathLike)) or not isinstance(os.fspath(value), str):
        raise refused(name, "a text (str) or a path", value)
    return str(os.fspath(value))


def number(value: object) -> object:
    """A number of another library (NumPy) as one of Python's; anything else as it is."""
    if isinstance(value, (bool, int, float, str)) or value is None:
        return value
    if isinstance(value, SupportsIndex):
        with contextlib.suppress(TypeError):  # an array has the method, and is not a number
            return operator.index(value)
    return float(value) if isinstance(value, Real) else value


def flag(value: object, name: str) -> bool:
    """The same truth value. Raises `SlmError` (USAGE)."""
    if not isinstance(value, bool):
        raise refused(name, "True or False", value)
    return value


def texts(value: object, name: str) -> list[str]:
    """The texts of a list. Raises `SlmError` (USAGE)."""
    return [text(one, f"{name}[{place}]") for place, one in enumerate(several(value, name, "texts"))]


def text_or_texts(value: object, name: str) -> list[str]:
    """One text, or the texts of a list. Raises `SlmError` (USAGE)."""
    if isinstance(value, str):
        return [value]
    items = _items(value, name, "a text (str) or a list of texts")
    return [text(one, f"{name}[{place}]") for place, one in enumerate(items)]


def several(value: object, name: str, of_what: str) -> list[object]:
    """The things in a sequence. Raises `SlmError` (USAGE) for a text, bytes, a mapping, a table and what is not a
    sequence."""
    return _items(value, name, f"a list of {of_what}")


def _items(value: object, name: str, wanted: str) -> list[object]:
    if hasattr(value, "columns"):  # of pandas, Polars, Arrow: going through it gives the names of its columns
        raise refused(name, wanted, value, f"one column of the table: {name}=table['NAME']")
    if isinstance(value, Iterable) and not isinstance(value, (str, bytes, dict)):
        with contextlib.suppress(TypeError):  # an array of no dimension says that it can be iterated over
            return list(value)
    raise refused(name, wanted, value)


def _named(value: object) -> str:
    if value is None or isinstance(value, (bool, int, float)):
        return repr(value)[:40]
    kind = type(value)
    place = "" if kind.__module__ == "builtins" else f"{kind.__module__}."  # NumPy has a bool, too
    return f"a value of type {place}{kind.__name__}"
