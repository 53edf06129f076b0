"""What a template may do with values: the types it may hold, the operators, the methods of texts and dictionaries.

Knows: for each operation how much time it may take and how large its result may be, from the sizes of what goes in.
Refuses to know: Jinja's syntax, filters.

This is a list of what is allowed. A method that is not in a table here does not exist for a template, an operator takes
the types that are named and no others, and there is no way to a value of another type: no bytes, no sets, no complex
numbers, no objects of Python. A number has 64 bits.
"""

import operator
from collections.abc import Callable, Mapping
from typing import Any

from jinja2 import Environment, Undefined, utils
from jinja2.sandbox import SandboxedFormatter

from slmchat.conversation.template_budget import MAX_NUMBER, NUMBERS, TOO_LARGE, Budget, TooMuch
from slmchat.lazy_dataclasses import dataclass

_NUMBERS = frozenset({int, float, bool})
_SEQUENCES = frozenset({str, list, tuple, range})
_SCALARS = frozenset({int, float, bool, type(None)})
_MAX_WIDTH = 1000  # of a format: characters of one field
_SHORT_NEEDLE = 100  # CPython looks for longer texts in linear time, for shorter ones in their product
_COMPARED_A_STEP = 32  # characters compared in 100 ns, at least


class SafeNamespace(utils.Namespace):
    """`namespace()`, without the text that would repeat whatever is in it."""

    def __repr__(self) -> str:
        return "<namespace>"


def entries(namespace: SafeNamespace) -> dict[str, Any]:
    """What was set in a namespace. Its own attributes are out of the way: every name is an entry."""
    found: dict[str, Any] = object.__getattribute__(namespace, "_Namespace__attrs")
    return found


@dataclass(frozen=True, slots=True, repr=False)
class Function:
    """A helper that templates may call."""

    name: str
    function: Callable[..., Any]

    def __repr__(self) -> str:
        return f"<helper {self.name}>"


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Method:
    """A method of a value, as `message.content.strip` before it is called."""

    operations: "Operations"
    owner: Any
    function: Callable[..., Any]

    def __repr__(self) -> str:
        return "<method>"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(self.operations, self.owner, *args, **kwargs)


class Cycler(utils.Cycler):
    """`cycler(a, b)`: one after the other, again and again."""

    def __repr__(self) -> str:
        return "<cycler>"


class Joiner(utils.Joiner):
    """`joiner(', ')`: nothing the first time, then the separator."""

    def __repr__(self) -> str:
        return "<joiner>"


class Operations:
    """The operators of templates. Each looks at what goes in before it does anything."""

    def __init__(self, budget: Budget, environment: Environment) -> None:
        """`environment`: what looks up a name, for `'{0.name}'.format(x)`."""
        self.budget = budget
        self.environment = environment

    def text(self, value: Any) -> str:
        if isinstance(value, str):
            return value
        if isinstance(value, list | tuple | dict):
            # no text of a list is longer than 10 characters for each of its own ('\\U0001f600'), 24 for a number
            measure = self.budget.measure(value)
            self.budget.spend(2 * measure.entries)
            text = str(value)
            self.budget.make_text(len(text))
            return text
        return str(value)

    def concat(self, parts: list[Any]) -> str:
        """`a ~ b`"""
        texts = [self.text(part) for part in parts]
        self.budget.make_text(sum(map(len, texts)))
        return "".join(texts)

    def binary(self, name: str, left: Any, right: Any) -> Any:
        """One of `+ - * / // % **`."""
        kind, other = type(left), type(right)
        if kind is str and other is str and name == "+":
            self.budget.make_text(len(left) + len(right))
            return left + right
        if kind in _NUMBERS and other in _NUMBERS:
            if name == "**" and not (abs(right) <= 64 and abs(left) <= MAX_NUMBER):
                raise TooMuch(NUMBERS)
            return number(_BINARY[name](left, right))
        if name == "%" and kind is str:
            return self.percent(left, right)
        if name == "+" and kind is other and kind in (list, tuple):
            self.budget.make_list(len(left) + len(right))
            return left + right
        if name == "*":
            sequence, times = (right, left) if kind in _NUMBERS else (left, right)
            if type(sequence) in (str, list, tuple) and type(times) in (int, bool):
                make = self.budget.make_text if isinstance(sequence, str) else self.budget.make_list
                make(len(sequence) * max(0, times))
                return sequence * times
        for value in (left, right):
            if isinstance(value, Undefined):
                value._fail_with_undefined_error()
        raise TypeError(f"unsupported operand type(s) for {name}: {kind.__name__!r} and {other.__name__!r}")

    def unary(self, name: str, value: Any) -> Any:
        if isinstance(value, Undefined):
            value._fail_with_undefined_error()
        if type(value) not in _NUMBERS:
            raise TypeError(f"bad operand type for unary {name}: {type(value).__name__!r}")
        return number(-value if name == "-" else +value)

    def compare(self, name: str, left: Any, right: Any) -> Any:
        """One of `eq ne lt lteq gt gteq in notin`, as Jinja names them."""
        if name == "in":
            return self.contains(left, right)
        if name == "notin":
            return not self.contains(left, right)
        if type(left) not in _SCALARS and type(right) not in _SCALARS:
            self.compared(left, right)
        return _COMPARISONS[name](left, right)

    def chain(self, first: Any, *rest: Any) -> Any:
        """`a < b < c`: `a`, then each operator and what stands after it."""
        left, result = first, True
        for name, right in zip(rest[::2], rest[1::2], strict=True):
            result = self.compare(name, left, right)
            if not result:
                break
            left = right
        return result

    def compared(self, left: Any, right: Any) -> None:
        """The cost of comparing two values."""
        if isinstance(left, str) or isinstance(right, str):
            if isinstance(left, str) and isinstance(right, str):
                self.budget.spend(min(len(left), len(right)) // _COMPARED_A_STEP)
        elif isinstance(left, list | tuple | dict) and isinstance(right, list | tuple | dict):
            self.budget.measure(left)
            self.budget.measure(right)

    def contains(self, item: Any, container: Any) -> bool:
        if isinstance(container, str) and isinstance(item, str):
            self.searched(container, item)
        elif isinstance(container, list | tuple):
            if isinstance(item, list | tuple | dict):
                self.budget.measure(item)
                self.budget.measure(container)
            else:
                each = 1 + (len(item) // _COMPARED_A_STEP if isinstance(item, str) else 0)
                self.budget.spend(len(container) * each)
        elif isinstance(container, dict):
            self.key(item)
        elif isinstance(container, range):
            self.budget.spend(len(container))
        elif isinstance(container, Undefined):
            return item in container
        elif not isinstance(container, str):
            raise TypeError(f"argument of type {type(container).__name__!r} is not iterable")
        return item in container

    def items(self, value: Any) -> Any:
        """What a loop or a filter goes over."""
        if isinstance(value, str):
            self.budget.spend(len(value))
            return value
        if isinstance(value, list | tuple | dict | range):
            self.budget.spend(len(value) // 8)
            return value
        if isinstance(value, Undefined):
            return list(value)
        raise TypeError(f"{type(value).__name__!r} object is not iterable")

    def slice(self, value: Any, start: Any, stop: Any, step: Any) -> Any:
        """`value[start:stop:step]`"""
        if isinstance(value, Undefined):
            value._fail_with_undefined_error()
        if type(value) not in _SEQUENCES:
            raise TypeError(f"{type(value).__name__!r} object cannot be sliced")
        part = slice(start, stop, step)
        length = len(range(*part.indices(len(value))))
        if isinstance(value, str):
            self.budget.make_text(length)
        elif not isinstance(value, range):
            self.budget.make_list(length)
        return value[part]

    def dictionary(self, keys: list[Any], values: list[Any]) -> dict[Any, Any]:
        """A dictionary whose keys are computed."""
        return {self.key(key): value for key, value in zip(keys, values, strict=True)}

    def key(self, key: Any) -> Any:
        """A key of a dictionary. A tuple is walked through to the end before it is known where it belongs."""
        if isinstance(key, tuple):
            self.budget.measure(key)
        return key

    def searched(self, text: str, needle: str, *, from_the_end: bool = False) -> None:
        """The cost of looking for one text in another."""
        each = len(needle) if from_the_end else min(len(needle), _SHORT_NEEDLE)
        self.budget.spend(len(text) * max(1, each) // _COMPARED_A_STEP)

    def replaced(self, text: str, old: str, new: str, count: int = -1) -> str:
        self.searched(text, old)
        occurrences = text.count(old)
        if count >= 0:
            occurrences = min(occurrences, count)
        self.budget.make_text(len(text) + occurrences * max(0, len(new) - len(old)))
        return text.replace(old, new, count)

    def joined(self, separator: str, items: Any) -> str:
        texts = list(self.items(items))
        if not all(isinstance(text, str) for text in texts):
            raise TypeError("only texts can be joined")
        self.budget.spend(len(texts))
        self.budget.make_text(sum(map(len, texts)) + len(separator) * max(0, len(texts) - 1))
        return separator.join(texts)

    def stripped(self, text: str, chars: str | None, strip: Callable[[str, str | None], str]) -> str:
        self.budget.spend(len(text) * (1 if chars is None else max(1, len(chars))) // _COMPARED_A_STEP)
        self.budget.make_text(len(text))
        return strip(text, chars)

    def percent(self, text: str, values: Any) -> str:
        """`'%s: %d' % (a, b)`"""
        self.budget.spend(len(text))
        fields = _percent_fields(text)
        measure = self.budget.measure(values)
        # each field may take everything (`'%(a)s%(a)s'`); a float has up to 310 characters before its point
        each = measure.size if isinstance(values, dict) else 0
        self.budget.check_length(len(text) + measure.size + fields * (each + _MAX_WIDTH + 340))
        self.budget.spend(5 * fields)
        result: str = text % values
        self.budget.make_text(len(result))
        return result

    def formatted(self, text: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
        """`'{}: {}'.format(a, b)`"""
        self.budget.make_text(len(text))
        self.budget.spend(10 * (text.count("{") + text.count("}")))
        result: str = _Formatter(self).vformat(text, args, kwargs)
        self.budget.make_text(len(result))
        return result


class _Formatter(SandboxedFormatter):
    """`str.format` without a way to the attributes of Python's objects, and with an end."""

    def __init__(self, operations: Operations) -> None:
        super().__init__(operations.environment)
        self._operations = operations
        self._length = 0

    def get_field(self, field_name: str, args: Any, kwargs: Any) -> tuple[Any, Any]:
        self._operations.budget.spend(50 + len(field_name))
        return super().get_field(field_name, args, kwargs)

    def convert_field(self, value: Any, conversion: Any) -> Any:
        text = self._operations.text(value)
        if conversion is None or conversion == "s":
            return value if conversion is None else text
        self._operations.budget.check_length(10 * len(text))
        return super().convert_field(value, conversion)

    def format_field(self, value: Any, format_spec: str) -> Any:
        _check_width(format_spec)
        if isinstance(value, list | tuple | dict) or type(value) not in {str, *_SCALARS}:
            if format_spec:
                raise TypeError("only texts and numbers can have a format")
            result = self._operations.text(value)
        else:
            self._operations.budget.check_length(len(value) if isinstance(value, str) else 0)
            result = format(value, format_spec)
        self._length += len(result)
        self._operations.budget.make_text(len(result))
        self._operations.budget.check_length(self._length)
        return result


def number(value: Any) -> Any:
    """The value, when it is a number of at most 64 bits."""
    if isinstance(value, float):
        return value
    if not isinstance(value, int) or not -MAX_NUMBER <= value <= MAX_NUMBER:
        raise TooMuch(NUMBERS)
    return value


def _percent_fields(text: str) -> int:
    """How many fields a `%` format has, read as CPython reads it (`unicode_format_arg_parse`).

    Raises `TooMuch` for a width that is absurd or stands elsewhere (`*`).
    """
    fields, place, end = 0, text.find("%"), len(text)
    while 0 <= place < end:
        fields += 1
        place += 1
        if text.startswith("(", place):
            depth, place = 1, place + 1
            while place < end and depth:
                depth += {"(": 1, ")": -1}.get(text[place], 0)
                place += 1
        begin = place
        while place < end and text[place] in "#0- +.*123456789hlL":
            place += 1
        _check_width(text[begin:place])
        place = text.find("%", place + 1)
    return fields


def _check_width(spec: str) -> None:
    digits = 0
    for character in spec:
        digits = digits * 10 + int(character) if character.isdecimal() else 0
        if digits > _MAX_WIDTH or character == "*":
            raise TooMuch(TOO_LARGE)


_BINARY: Mapping[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "//": operator.floordiv,
    "%": operator.mod,
    "**": operator.pow,
}
_COMPARISONS: Mapping[str, Callable[[Any, Any], Any]] = {
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "lteq": operator.le,
    "gt": operator.gt,
    "gteq": operator.ge,
}
