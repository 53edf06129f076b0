"""The filters and tests of templates.

Knows: Jinja's filters and tests by their names and arguments, written over `Operations`, so that what they cost is
known before they run. Those that give something lazy in Jinja give a list here. The filters that are not here are of no
use to the template of a chat (HTML, random numbers, wrapped lines).
Refuses to know: Jinja's environment, messages.
"""

import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any
from urllib.parse import quote

from jinja2 import Undefined
from jinja2.runtime import LoopContext, Macro

from slmchat.conversation.template_budget import NUMBERS, TOO_LARGE, TooMuch
from slmchat.conversation.template_values import Function, GroupTuple, Method, Operations, number

_MAX_INDENT = 16
_MAX_DIGITS = 400  # of a number that is written as text; the largest float has 309
_SIZED = (str, list, tuple, dict, range)
_JSON_ESCAPE = 12  # characters of one: a surrogate pair, '\\ud83d\\ude00'


class Filters:
    """`filters` and `tests` by name, for one environment."""

    def __init__(self, operations: Operations, undefined: Callable[..., Undefined]) -> None:
        """`undefined(name=…)`: what stands for a value that is not there."""
        self._operations = operations
        self._budget = operations.budget
        self._undefined = undefined
        text = self._on_text
        self.filters: dict[str, Callable[..., Any]] = {
            **dict.fromkeys(("e", "escape", "forceescape"), self._escape),
            **dict.fromkeys(("d", "default"), self._default),
            **dict.fromkeys(("count", "length"), self._length),
            **{name: text(name) for name in ("capitalize", "lower", "upper", "title")},
            "abs": self._abs,
            "attr": self._attr,
            "batch": self._batch,
            "center": self._center,
            "dictsort": self._dictsort,
            "filesizeformat": self._filesizeformat,
            "first": self._first,
            "float": self._float,
            "format": self._format,
            "groupby": self._groupby,
            "indent": self._indent,
            "int": self._int,
            "items": self._items,
            "join": self._join,
            "last": self._last,
            "list": self._list,
            "map": self._map,
            "max": partial(self._extreme, max),
            "min": partial(self._extreme, min),
            "reject": partial(self._select, False),
            "rejectattr": partial(self._selectattr, False),
            "replace": self._replace,
            "reverse": self._reverse,
            "round": self._round,
            "safe": operations.text,
            "select": partial(self._select, True),
            "selectattr": partial(self._selectattr, True),
            "slice": self._slice,
            "sort": self._sort,
            "string": operations.text,
            "tojson": self._tojson,
            "trim": self._trim,
            "truncate": self._truncate,
            "unique": self._unique,
            "urlencode": self._urlencode,
            "wordcount": self._wordcount,
        }
        self.tests: dict[str, Callable[..., bool]] = {
            **_TESTS,
            **{name: partial(self._compared, operator) for name, operator in _COMPARING.items()},
            "divisibleby": lambda value, by: operations.binary("%", _counted(value), _counted(by)) == 0,
            "even": lambda value: operations.binary("%", _counted(value), 2) == 0,
            "odd": lambda value: operations.binary("%", _counted(value), 2) == 1,
            "filter": lambda name: name in self.filters,
            "test": lambda name: name in self.tests,
            "lower": lambda value: self._looked_at(value).islower(),
            "upper": lambda value: self._looked_at(value).isupper(),
        }

    # texts

    def _on_text(self, name: str) -> Callable[[Any], Any]:
        if name == "title":  # each word behind a space, a bracket or a dash; str.title also takes apostrophes
            return lambda value: self._title(self._operations.text(value))
        method = getattr(str, name)

        def on_text(value: Any) -> Any:
            text = self._operations.text(value)
            self._budget.make_text(3 * len(text))
            return method(text)

        return on_text

    def _looked_at(self, value: Any) -> str:
        text = self._operations.text(value)
        self._budget.spend(len(text) // 16)
        return text

    def _title(self, text: str) -> str:
        self._budget.make_text(3 * len(text))
        self._budget.spend(2 * len(text))
        pieces: list[str] = []
        is_first = True
        for character in text:
            pieces.append(character.upper() if is_first else character.lower())
            is_first = character.isspace() or character in "-({[<"
        return "".join(pieces)

    def _escape(self, value: Any) -> str:
        text = self._operations.text(value)
        for character, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&#34;"), ("'", "&#39;")):
            text = self._operations.replaced(text, character, entity)
        return text

    def _center(self, value: Any, width: int = 80) -> str:
        text = self._operations.text(value)
        self._budget.make_text(max(len(text), width))
        return text.center(width)

    def _format(self, value: Any, *args: Any, **kwargs: Any) -> str:
        if args and kwargs:
            raise TypeError("can't handle positional and keyword arguments at the same time")
        return self._operations.percent(self._operations.text(value), kwargs or args)

    def _indent(self, s: Any, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
        text = self._operations.text(s) + "\n"
        self._budget.make_text(len(text))
        if not isinstance(width, str):
            self._budget.make_text(width)
        indention = width if isinstance(width, str) else " " * width
        lines = text.splitlines()
        self._budget.make_list(len(lines), 72)
        self._budget.make_text(len(text) + len(lines) * len(indention))
        if blank:
            rest = f"\n{indention}".join(lines)
        else:
            rest = "\n".join([*lines[:1], *(indention + line if line else line for line in lines[1:])])
        return indention + rest if first else rest

    def _replace(self, s: Any, old: Any, new: Any, count: int | None = None) -> str:
        text = self._operations.text
        return self._operations.replaced(text(s), text(old), text(new), -1 if count is None else count)

    def _trim(self, value: Any, chars: str | None = None) -> str:
        return self._operations.stripped(self._operations.text(value), chars, str.strip)

    def _truncate(
        self, s: Any, length: int = 255, killwords: bool = False, end: str = "...", leeway: int | None = None
    ) -> str:
        text = self._operations.text(s)
        self._budget.make_text(len(text) + len(end))
        if length < len(end):
            raise ValueError(f"expected length >= {len(end)}, got {length}")
        if len(text) <= length + (5 if leeway is None else leeway):
            return text
        cut = text[: length - len(end)]
        return (cut if killwords else cut.rsplit(" ", 1)[0]) + end

    def _urlencode(self, value: Any) -> str:
        self._budget.make_text(_JSON_ESCAPE * self._budget.measure(value).size)
        if isinstance(value, str) or not isinstance(value, list | tuple | dict):
            return quote(str(value), safe="/")
        pairs = value.items() if isinstance(value, dict) else value
        return "&".join(f"{quote(str(key), safe='')}={quote(str(item), safe='')}" for key, item in pairs)

    def _wordcount(self, s: Any) -> int:
        text = self._operations.text(s)
        self._budget.make_list(len(text) // 2, 72)
        return len(text.split())

    def _tojson(
        self,
        value: Any,
        ensure_ascii: bool = False,
        indent: int | None = None,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,
    ) -> str:
        # Unlike Jinja's own filter: no HTML escapes (transformers, utils/chat_template_utils.py)
        measure = self._budget.measure(value)
        each = measure.depth * (indent or 0) + sum(map(len, separators or ())) + 4
        if (indent or 0) > _MAX_INDENT or measure.entries * each > 10 * _JSON_ESCAPE * 1_000_000:
            raise TooMuch(TOO_LARGE)
        self._budget.spend(10 * measure.entries)
        self._budget.make_text(measure.characters + measure.entries * each)
        self._sorted_cost([*value] if sort_keys and isinstance(value, dict) else [])
        text = json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
        self._budget.make_text(len(text))
        return text

    # numbers

    def _abs(self, value: Any) -> Any:
        return number(abs(_counted(value)))

    def _int(self, value: Any, default: Any = 0, base: int = 10) -> Any:
        try:
            if isinstance(value, str):
                if len(value) > _MAX_DIGITS:
                    return default
                try:
                    return number(int(value, base))
                except ValueError:
                    return number(int(float(value)))
            return number(int(value))
        except (TypeError, ValueError, OverflowError):
            return default

    def _float(self, value: Any, default: Any = 0.0) -> Any:
        try:
            if isinstance(value, str) and len(value) > _MAX_DIGITS:
                return default
            return float(value)
        except (TypeError, ValueError, OverflowError):
            return default

    def _round(self, value: Any, precision: int = 0, method: str = "common") -> Any:
        if method not in {"common", "ceil", "floor"}:
            raise TypeError("method must be common, ceil or floor")
        if abs(precision) > _MAX_DIGITS:
            raise TooMuch(NUMBERS)
        value = _counted(value)
        if method == "common":
            return number(round(value, precision))
        import math

        scale = 10.0**precision
        return number(getattr(math, method)(value * scale) / scale)

    def _filesizeformat(self, value: Any, binary: bool = False) -> str:
        from jinja2.filters import do_filesizeformat

        if isinstance(value, str):
            value = self._float(value)
        return do_filesizeformat(_counted(value), binary)

    # lists

    def _length(self, value: Any) -> int:
        if isinstance(value, Undefined):
            return len(value)
        if not isinstance(value, (*_SIZED, LoopContext)):
            raise TypeError(f"object of type {type(value).__name__!r} has no len()")
        return len(value)

    def _list(self, value: Any) -> list[Any]:
        items = self._operations.items(value)
        self._budget.make_list(len(items), 64 if isinstance(items, str | range) else 8)
        return list(items)

    def _items(self, value: Any) -> list[Any]:
        if isinstance(value, Undefined):
            return []
        if not isinstance(value, dict):
            raise TypeError("Can only get item pairs from a mapping.")
        self._budget.make_list(len(value), 72)
        return list(value.items())

    def _first(self, seq: Any) -> Any:
        return next(iter(self._operations.items(seq)), self._undefined(name="first"))

    def _last(self, seq: Any) -> Any:
        return next(iter(reversed(self._operations.items(seq))), self._undefined(name="last"))

    def _reverse(self, value: Any) -> Any:
        if isinstance(value, str):
            self._budget.make_text(len(value))
            return value[::-1]
        return self._list(value)[::-1]

    def _join(self, value: Any, d: Any = "", attribute: Any = None) -> str:
        items = self._list(value)
        if attribute is not None:
            items = [self._get(item, attribute) for item in items]
        texts = []
        for item in items:
            self._budget.spend(1)
            texts.append(self._operations.text(item))
        return self._operations.joined(self._operations.text(d), texts)

    def _batch(self, value: Any, linecount: int, fill_with: Any = None) -> list[Any]:
        items = self._list(value)
        if linecount < 1:
            return [items]
        self._budget.make_list(len(items), 72)
        self._budget.make_list(linecount)
        batches = [items[begin : begin + linecount] for begin in range(0, len(items), linecount)]
        if batches and fill_with is not None:
            batches[-1] += [fill_with] * (linecount - len(batches[-1]))
        return batches

    def _slice(self, value: Any, slices: int, fill_with: Any = None) -> list[Any]:
        items = self._list(value)
        self._budget.make_list(slices, 72)
        each, longer = divmod(len(items), slices)
        columns, begin = [], 0
        for index in range(slices):
            end = begin + each + (index < longer)
            columns.append(items[begin:end])
            if fill_with is not None and index >= longer:
                columns[-1].append(fill_with)
            begin = end
        return columns

    def _attr(self, obj: Any, name: str) -> Any:
        return self._operations.lookup(obj, self._operations.text(name), True)

    def _get(self, item: Any, attribute: Any, default: Any = None) -> Any:
        """`attribute`: a name, several with dots between, a number."""
        parts = attribute.split(".") if isinstance(attribute, str) else [attribute]
        self._budget.spend(5 * len(parts))
        for part in parts:
            is_number = isinstance(part, str) and part.isdecimal() and len(part) < 9
            item = self._operations.lookup(item, int(part) if is_number else part, False)
        return default if default is not None and isinstance(item, Undefined) else item

    def _key_of(self, attribute: Any, case_sensitive: bool) -> Callable[[Any], Any]:
        """What items are ordered or told apart by."""

        def folded(value: Any) -> Any:
            self._budget.spend(2)
            if case_sensitive or not isinstance(value, str):
                return value
            self._budget.make_text(len(value))
            return value.lower()

        if attribute is None:
            return folded
        names = attribute.split(",") if isinstance(attribute, str) else [attribute]
        if len(names) == 1:
            return lambda item: folded(self._get(item, attribute))
        return lambda item: [folded(self._get(item, name)) for name in names]

    def _sorted_cost(self, keys: list[Any]) -> None:
        longest = max((self._budget.measure(key).size for key in keys), default=0)
        self._budget.spend(len(keys) * len(keys).bit_length() * (1 + longest // 32))

    def _sorted(self, items: list[Any], key: Callable[[Any], Any], reverse: bool = False) -> list[Any]:
        keys = [key(item) for item in items]
        self._sorted_cost(keys)
        order = sorted(range(len(items)), key=keys.__getitem__, reverse=reverse)
        return [items[index] for index in order]

    def _sort(self, value: Any, reverse: bool = False, case_sensitive: bool = False, attribute: Any = None) -> Any:
        return self._sorted(self._list(value), self._key_of(attribute, case_sensitive), reverse)

    def _dictsort(
        self, value: Any, case_sensitive: bool = False, by: str = "key", reverse: bool = False
    ) -> list[tuple[Any, Any]]:
        if by not in ("key", "value"):
            raise TypeError('You can only sort by either "key" or "value"')
        return self._sorted(self._items(value), self._key_of(0 if by == "key" else 1, case_sensitive), reverse)

    def _extreme(
        self, choose: Callable[..., Any], value: Any, case_sensitive: bool = False, attribute: Any = None
    ) -> Any:
        items = self._list(value)
        if not items:
            return self._undefined("No aggregated item, sequence was empty.")
        keys = [*map(self._key_of(attribute, case_sensitive), items)]
        self._sorted_cost(keys)
        return items[choose(range(len(items)), key=keys.__getitem__)]

    def _unique(self, value: Any, case_sensitive: bool = False, attribute: Any = None) -> list[Any]:
        key = self._key_of(attribute, case_sensitive)
        found: dict[Any, Any] = {}
        for item in self._list(value):
            self._budget.make_list(1, 64)
            found.setdefault(self._operations.key(key(item)), item)
        return list(found.values())

    def _groupby(
        self, value: Any, attribute: Any, default: Any = None, case_sensitive: bool = False
    ) -> list[GroupTuple]:
        key = self._key_of(None, case_sensitive)
        groups: list[tuple[Any, GroupTuple]] = []
        of = [(self._get(item, attribute, default), item) for item in self._list(value)]
        for name, item in self._sorted(of, lambda pair: key(pair[0])):
            self._budget.make_list(1, 128)
            if not groups or not self._operations.compare("eq", groups[-1][0], key(name)):
                groups.append((key(name), GroupTuple(name, [])))
            groups[-1][1].list.append(item)
        return [group for _, group in groups]

    def _map(self, value: Any, *args: Any, **kwargs: Any) -> list[Any]:
        items = self._list(value) if value else []  # as in Jinja: nothing of None
        if not args and "attribute" in kwargs:
            return [self._get(item, kwargs["attribute"], kwargs.get("default")) for item in items]
        function = self._named(self.filters, "filter", args)
        return [self._paid(function)(item, *args[1:], **kwargs) for item in items]

    def _select(self, wanted: bool, value: Any, *args: Any, **kwargs: Any) -> list[Any]:
        test = self._named(self.tests, "test", args) if args else bool
        items = self._list(value) if value else []
        return [item for item in items if bool(self._paid(test)(item, *args[1:], **kwargs)) is wanted]

    def _selectattr(self, wanted: bool, value: Any, attribute: Any, *args: Any, **kwargs: Any) -> list[Any]:
        test = self._named(self.tests, "test", args) if args else bool
        items = self._list(value) if value else []
        return [
            item for item in items if bool(self._paid(test)(self._get(item, attribute), *args[1:], **kwargs)) is wanted
        ]

    def _named(self, table: Mapping[str, Callable[..., Any]], kind: str, args: tuple[Any, ...]) -> Callable[..., Any]:
        name = args[0] if args else None
        if not isinstance(name, str) or name not in table:
            raise TypeError(f"No {kind} named {self._operations.text(name)[:40]!r}.")
        return table[name]

    def _paid(self, function: Callable[..., Any]) -> Callable[..., Any]:
        self._budget.tick(10, 64, 0)
        return function

    def _default(self, value: Any, default_value: Any = "", boolean: bool = False) -> Any:
        return default_value if isinstance(value, Undefined) or (boolean and not value) else value

    def _compared(self, name: str, left: Any, right: Any) -> bool:
        return bool(self._operations.compare(name, left, right))


def _counted(value: Any) -> Any:
    if isinstance(value, Undefined):
        value._fail_with_undefined_error()
    if not isinstance(value, int | float):
        raise TypeError(f"{type(value).__name__!r} is not a number")
    return value


_COMPARING: Mapping[str, str] = {
    **{name: "eq" for name in ("==", "eq", "equalto")},
    **{name: "ne" for name in ("!=", "ne")},
    **{name: "gt" for name in (">", "gt", "greaterthan")},
    **{name: "gteq" for name in (">=", "ge")},
    **{name: "lt" for name in ("<", "lt", "lessthan")},
    **{name: "lteq" for name in ("<=", "le")},
    "in": "in",
}
_TESTS: Mapping[str, Callable[..., bool]] = {
    "boolean": lambda value: value is True or value is False,
    "callable": lambda value: isinstance(value, Function | Method | Macro),
    "defined": lambda value: not isinstance(value, Undefined),
    "escaped": lambda _value: False,
    "false": lambda value: value is False,
    "float": lambda value: isinstance(value, float),
    "integer": lambda value: isinstance(value, int) and value is not True and value is not False,
    "iterable": lambda value: isinstance(value, (*_SIZED, Undefined, LoopContext)),
    "mapping": lambda value: isinstance(value, dict),
    "none": lambda value: value is None,
    "number": lambda value: isinstance(value, int | float),
    "sameas": lambda value, other: value is other,
    "sequence": lambda value: isinstance(value, (*_SIZED, Undefined)),
    "string": lambda value: isinstance(value, str),
    "true": lambda value: value is True,
    "undefined": lambda value: isinstance(value, Undefined),
}
