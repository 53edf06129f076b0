"""The filters and tests of templates.

Knows: what each filter of Jinja's costs, from what goes in: that is paid, then Jinja's own function runs. Those that
give something lazy in Jinja give a list here. A few are written over `Operations`, which knows their cost already. The
filters that are not here are of no use to the template of a chat (HTML, random numbers, wrapped lines).
Refuses to know: messages, the syntax of templates.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial, wraps
from typing import Any

from jinja2 import Undefined
from jinja2.filters import FILTERS, make_attrgetter
from jinja2.runtime import LoopContext, Macro
from jinja2.tests import TESTS

from slmchat.conversation.template_budget import NUMBERS, TOO_LARGE, TooMuch
from slmchat.conversation.template_values import Function, Method, Operations, number

_MAX_INDENT = 16
_MAX_DIGITS = 400  # of a number that is written as text; the largest float has 309
_JSON_ESCAPE = 12  # characters of one: a surrogate pair, '\\ud83d\\ude00'
_PIECE = 72  # bytes of a short text and of its place in a list


class Filters:
    """`filters` and `tests` by name, for one environment."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations
        self._budget = operations.budget
        costs: Sequence[tuple[Callable[..., Any], Sequence[str]]] = (
            (self._text, ("capitalize", "lower", "upper")),
            (self._pieces, ("title", "wordcount")),
            (self._centered, ("center",)),
            (self._indented, ("indent",)),
            (self._truncated, ("truncate",)),
            (self._encoded, ("urlencode",)),
            (_digits, ("filesizeformat", "float", "int")),
            (_counted, ("abs",)),
            (_rounded, ("round",)),
            (self._walked, ("first", "last")),
            (self._items, ("items",)),
            (self._list, ("list", "reverse")),
            (self._parts, ("batch", "slice")),
            (self._compared, ("max", "min", "unique")),
            (self._sorted, ("sort",)),
            (self._dictsorted, ("dictsort",)),
            (self._grouped, ("groupby",)),
            (self._mapped, ("map",)),
            (self._each, ("reject", "rejectattr", "select", "selectattr")),
        )
        self.filters: dict[str, Callable[..., Any]] = {
            **dict.fromkeys(("e", "escape", "forceescape"), self._escape),
            **dict.fromkeys(("count", "length"), len),
            **dict.fromkeys(("d", "default"), FILTERS["default"]),
            **dict.fromkeys(("safe", "string"), operations.text),
            "attr": self._attr,
            "format": self._format,
            "join": self._join,
            "replace": self._replace,
            "tojson": self._tojson,
            "trim": self._trim,
            **{name: self._paid(FILTERS[name], pay) for pay, names in costs for name in names},
        }
        binary = operations.binary
        self.tests: dict[str, Any] = {
            **{name: TESTS[name] for name in _FREE_TESTS},
            **{name: partial(operations.compare, operator) for name, operator in _COMPARING.items()},
            "callable": lambda value: isinstance(value, Function | Method | Macro),
            "divisibleby": lambda value, by: binary("%", _counted(value), _counted(by)) == 0,
            "even": lambda value: binary("%", _counted(value), 2) == 0,
            "odd": lambda value: binary("%", _counted(value), 2) == 1,
            "filter": lambda name: name in self.filters,
            "test": lambda name: name in self.tests,
            "lower": lambda value: self._text(value).islower(),
            "upper": lambda value: self._text(value).isupper(),
        }

    @staticmethod
    def _paid(function: Callable[..., Any], pay: Callable[..., Any]) -> Callable[..., Any]:
        """Jinja's own filter behind `pay`, which gets what the filter gets, and gives the value that it takes."""
        place = int(hasattr(function, "jinja_pass_arg"))  # Jinja gives such a filter its environment or context first

        @wraps(function)  # with that mark
        def paid(*args: Any, **kwargs: Any) -> Any:
            value = pay(*args[place:], **kwargs)
            result = function(*args[:place], value, *args[place + 1 :], **kwargs)
            if isinstance(result, int):
                return number(result)
            is_lazy = isinstance(result, Iterator) and not isinstance(result, LoopContext)
            return list(result) if is_lazy else result

        return paid

    # what Jinja's filters of texts cost

    def _text(self, value: Any) -> str:
        text = self._operations.text(value)
        self._budget.make_text(3 * len(text))
        return text

    def _pieces(self, value: Any) -> str:
        text = self._text(value)
        self._budget.make_list(len(text), _PIECE)
        return text

    def _centered(self, value: Any, width: int = 80) -> str:
        text = self._operations.text(value)
        self._budget.make_text(max(len(text), width))
        return text

    def _indented(self, s: Any, width: int | str = 4, *_: Any, **_kwargs: Any) -> str:
        text = self._text(s)
        n_lines, n_columns = len(text.splitlines()) + 1, len(width) if isinstance(width, str) else width
        self._budget.make_text(n_columns)
        self._budget.make_list(n_lines, _PIECE)
        self._budget.make_text(len(text) + n_lines * max(0, n_columns))
        return text

    def _truncated(
        self, s: Any, length: int = 255, killwords: bool = False, end: str = "...", leeway: Any = None
    ) -> str:
        text = self._operations.text(s)
        self._budget.make_text(len(text) + len(end))
        return text

    def _encoded(self, value: Any) -> Any:
        self._budget.make_text(_JSON_ESCAPE * self._budget.measure(value).size)
        return value if isinstance(value, list | tuple | dict) else self._operations.text(value)

    # what Jinja's filters of lists cost

    def _walked(self, value: Any) -> Any:
        return self._operations.items(value)

    def _list(self, value: Any) -> Any:
        items = self._operations.items(value)
        self._budget.make_list(len(items), 64 if isinstance(items, str | range) else 8)
        return items

    def _items(self, value: Any) -> Any:
        self._budget.make_list(len(value) if isinstance(value, dict) else 0, _PIECE)
        return value  # Jinja's own refuses what is no dictionary

    def _parts(self, value: Any, count: int, fill_with: Any = None) -> Any:
        self._budget.make_list(count, _PIECE)
        items = self._list(value)
        self._budget.make_list(len(items), _PIECE)
        return items

    def _each(self, value: Any, *args: Any, attribute: Any = None, **_: Any) -> Any:
        items = self._list(value) if value else []  # as in Jinja: nothing of None
        n_dots = sum(name.count(".") for name in (attribute, *args[:1]) if isinstance(name, str))
        self._budget.spend((10 + 5 * n_dots) * len(items))
        self._budget.make_list(len(items), 64)
        return items

    def _mapped(self, value: Any, *args: Any, **kwargs: Any) -> Any:
        if args and args[0] not in self.filters:  # what templates are metered with has a name in the environment, too
            raise TypeError(f"No filter named {self._operations.text(args[0])[:40]!r}.")
        return self._each(value, *args, **kwargs)

    def _compared(self, value: Any, case_sensitive: bool = False, attribute: Any = None) -> Any:
        return self._by_keys(value, [attribute])

    def _sorted(self, value: Any, reverse: bool = False, case_sensitive: bool = False, attribute: Any = None) -> Any:
        return self._by_keys(value, attribute.split(",") if isinstance(attribute, str) else [attribute])

    def _grouped(self, value: Any, attribute: Any, default: Any = None, case_sensitive: bool = False) -> Any:
        items = self._by_keys(value, [attribute], default)
        self._budget.make_list(len(items), 128)
        return items

    def _dictsorted(self, value: Any, *_: Any, **_kwargs: Any) -> Any:
        if not isinstance(value, dict):
            raise TypeError("Can only get item pairs from a mapping.")
        self._pay_keys([each for pair in self._items(value).items() for each in pair])
        return value

    def _by_keys(self, value: Any, attributes: Sequence[Any], default: Any = None) -> Any:
        """The items, which are compared by these attributes of theirs, each folded to small letters."""
        items = self._list(value)
        for attribute in attributes:
            self._pay_keys([self._got(item, attribute, default) for item in items])
        return items

    def _got(self, item: Any, attribute: Any, default: Any = None) -> Any:
        """`attribute`: a name, several with dots between, a number; None: the item itself."""
        self._budget.spend(5 * (1 + attribute.count(".") if isinstance(attribute, str) else 1))
        return make_attrgetter(self._operations.environment, attribute, default=default)(item)

    def _pay_keys(self, keys: Sequence[Any]) -> None:
        sizes = [self._budget.measure(key).size for key in keys]
        self._budget.make_text(sum(sizes))
        self._budget.spend(len(keys) * len(keys).bit_length() * (1 + max(sizes, default=0) // 32))

    # filters of our own

    def _escape(self, value: Any) -> str:
        text = self._operations.text(value)
        for character, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&#34;"), ("'", "&#39;")):
            text = self._operations.replaced(text, character, entity)
        return text

    def _format(self, value: Any, *args: Any, **kwargs: Any) -> str:
        if args and kwargs:
            raise TypeError("can't handle positional and keyword arguments at the same time")
        return self._operations.percent(self._operations.text(value), kwargs or args)

    def _replace(self, s: Any, old: Any, new: Any, count: int | None = None) -> str:
        text = self._operations.text
        return self._operations.replaced(text(s), text(old), text(new), -1 if count is None else count)

    def _trim(self, value: Any, chars: str | None = None) -> str:
        return self._operations.stripped(self._operations.text(value), chars, str.strip)

    def _join(self, value: Any, d: Any = "", attribute: Any = None) -> str:
        texts = []
        for item in self._list(value):
            self._budget.spend(1)
            texts.append(self._operations.text(item if attribute is None else self._got(item, attribute)))
        return self._operations.joined(self._operations.text(d), texts)

    def _attr(self, obj: Any, name: str) -> Any:
        return self._operations.environment.getattr(obj, self._operations.text(name))

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
        self._pay_keys([*value] if sort_keys and isinstance(value, dict) else [])
        text = json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
        self._budget.make_text(len(text))
        return text


def _digits(value: Any, *_: Any, **_kwargs: Any) -> Any:
    """A number, or one that is written as text: of a long one Python would make a very large number."""
    return "" if isinstance(value, str) and len(value) > _MAX_DIGITS else value


def _counted(value: Any) -> Any:
    if isinstance(value, Undefined):
        value._fail_with_undefined_error()
    if not isinstance(value, int | float):
        raise TypeError(f"{type(value).__name__!r} is not a number")
    return value


def _rounded(value: Any, precision: int = 0, *_: Any, **_kwargs: Any) -> Any:
    if abs(precision) > _MAX_DIGITS:
        raise TooMuch(NUMBERS)
    return _counted(value)


# These look at the type of a value, and at nothing in it.
_FREE_TESTS = (
    *("boolean", "defined", "escaped", "false", "float", "integer", "iterable", "mapping", "none", "number", "sameas"),
    *("sequence", "string", "true", "undefined"),
)
_COMPARING: Mapping[str, str] = {
    **{name: "eq" for name in ("==", "eq", "equalto")},
    **{name: "ne" for name in ("!=", "ne")},
    **{name: "gt" for name in (">", "gt", "greaterthan")},
    **{name: "gteq" for name in (">=", "ge")},
    **{name: "lt" for name in ("<", "lt", "lessthan")},
    **{name: "lteq" for name in ("<=", "le")},
    "in": "in",
}
