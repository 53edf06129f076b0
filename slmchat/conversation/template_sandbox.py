"""The sandbox in which a chat template runs: foreign code with a bounded amount of time and memory.

Knows: Jinja's immutable sandbox (which keeps Python's objects out of reach), and what a template may use up:
`MAX_SECONDS`, `MAX_STEPS` loop steps and calls, `MAX_WRITTEN` characters, values of at most `MAX_VALUE`.
Refuses to know: messages, what the helpers of templates do.

No timer could stop `'a' * 10**9`: Python does not look at the clock inside one operation. So every operation that can
make something large is looked at before it runs (the product of the sizes that go in bounds what comes out), every
list is measured when it is made, and the clock is looked at at every step: what runs between two looks is short.
"""

import operator
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import wraps
from typing import Any

from jinja2 import nodes, pass_context
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

MAX_SECONDS = 5.0
MAX_STEPS = 1_000_000
MAX_WRITTEN = 4 * 1024 * 1024  # characters that the template itself writes, in macros and blocks too
MAX_VALUE = 1_000_000  # characters of a text, entries of a list with everything inside
MAX_PRODUCT = 10_000_000  # of the sizes of what goes into one operation
MAX_NUMBER = 1 << 63

# '%9999d', '{:>9999}': a width in a format is as large as its number says
_WIDTH = re.compile(r"[%{:][^%{}]*(?:\d{4}|\*)")
# What takes more than linear time, or is of no use to the template of a chat.
_LEFT_OUT = ("urlize", "pprint", "striptags", "xmlattr", "random", "wordwrap", "sum")


class TooMuch(Exception):
    """The template used up what it may; the message says what."""


class _Namespace(Namespace):
    """`namespace()`, without the text that would repeat whatever is in it."""

    def __repr__(self) -> str:
        return "<namespace>"


class _Generation(Extension):
    """`{% generation %}`: marks what the assistant said for training (SmolLM3's template); here its body only."""

    tags = {"generation"}  # noqa: RUF012 - jinja2's own convention

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class TemplateSandbox(ImmutableSandboxedEnvironment):
    """An environment for templates, one rendering at a time. `begin` comes before each."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        # trim_blocks and lstrip_blocks: as in transformers' apply_chat_template, which templates are written for
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[loopcontrols, _Generation],
            autoescape=False,
            finalize=self._written,
        )
        for name in _LEFT_OUT:
            del self.filters[name]
        for name, function in list(self.filters.items()):
            self.add_filter(name, function)
        self.filters |= {
            "slm_steps": pass_context(lambda _context, items: self._steps(items)),
            "slm_value": pass_context(lambda _context, value: self._measured(value)),
            "slm_text": pass_context(lambda _context, text: text),
            "slm_joined": pass_context(lambda _context, parts: self._joined(parts)),
        }
        self.globals["namespace"] = _Namespace
        del self.globals["lipsum"]
        self.begin()

    def add_filter(self, name: str, function: Callable[..., Any]) -> None:
        """A filter beside Jinja's own, watched like them."""
        self.filters[name] = self._watched(function)

    def begin(self) -> None:
        """A new rendering: nothing is used up yet."""
        self._steps_left = MAX_STEPS
        self._written_left = MAX_WRITTEN
        self._deadline = time.monotonic() + MAX_SECONDS

    def step(self) -> None:
        """One step of a loop, one call, one operation."""
        self._steps_left -= 1
        if self._steps_left < 0:
            raise TooMuch(f"it takes more than {MAX_STEPS:,} steps")
        if time.monotonic() > self._deadline:
            raise TooMuch(f"it takes more than {MAX_SECONDS:g} seconds")

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        self = __self
        self.step()
        if isinstance(__obj, LoopContext):  # a recursive loop: its inner rounds are steps as well
            args = (self._steps(args[0]), *args[1:]) if args else args
        elif not isinstance(__obj, Macro) and __obj is not self.globals["range"]:
            # Jinja wraps the format methods of texts (its sandbox guards what they reach)
            owner = getattr(getattr(__obj, "__wrapped__", __obj), "__self__", None)
            _check_product((owner, *args, *kwargs.values()) if isinstance(owner, str) else (*args, *kwargs.values()))
            if isinstance(owner, str) and getattr(__obj, "__name__", "") in ("format", "format_map"):
                _check_format(owner)
        return self._measured(super().call(__context, __obj, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        self.step()
        if operator == "+":
            return self._measured(_OPERATIONS[operator](left, right))
        _check_product((left, right))
        if operator == "%" and isinstance(left, str):
            _check_format(left)
        if operator == "**" and not (abs(right) <= 64 and abs(left) <= MAX_NUMBER):
            raise TooMuch("it computes with numbers that are too large")
        return self._measured(_OPERATIONS[operator](left, right))

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        """The template with every loop, list, text and `~` going through a filter that measures."""
        tree = super()._parse(source, name, filename)
        _rewrite(tree)
        tree.set_environment(self)
        return tree

    def _watched(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A filter of Jinja's that is looked at before and after it runs."""

        @wraps(function)
        def watched(*args: Any, **kwargs: Any) -> Any:
            self.step()
            given = [value for value in (*args, *kwargs.values()) if not isinstance(value, Context)]
            _check_product(given)
            if getattr(function, "__name__", "") == "do_format":
                _check_format(str(given[0]))
            value = function(*args, **kwargs)
            return self._bounded(value) if isinstance(value, Iterator) else self._measured(value)

        return watched

    def _steps(self, items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            self.step()
            yield item

    def _bounded(self, items: Iterator[Any]) -> Iterator[Any]:
        """What a lazy filter gives, as far as a list of it may go."""
        total = 0
        for item in items:
            total += 1 + _size(item)
            if total > MAX_VALUE:
                raise TooMuch("it makes values that are too large")
            yield item

    def _written(self, value: Any) -> Any:
        if isinstance(value, _Namespace | LoopContext):
            return str(value)
        text = value if isinstance(value, str) else str(self._measured(value))
        self._written_left -= len(text)
        if self._written_left < 0:
            raise TooMuch("it writes without end")
        return text

    def _joined(self, parts: list[Any]) -> str:
        """`a ~ b`"""
        self.step()
        return str(self._measured("".join([str(self._measured(part)) for part in parts])))

    def _measured(self, value: Any) -> Any:
        if _size(value) > MAX_VALUE:
            raise TooMuch("it makes values that are too large")
        return value


def _rewrite(node: nodes.Node) -> None:
    """Wrap what loops go over, list, dictionary and `~` expressions, and the template's own text, in place."""
    for name, value in node.iter_fields():
        if isinstance(value, list):
            value[:] = [_rewritten(child, node) for child in value]
        elif isinstance(value, nodes.Node):
            setattr(node, name, _rewritten(value, node))
    if isinstance(node, nodes.For):
        node.iter = _through("slm_steps", node.iter)


def _rewritten(child: Any, parent: nodes.Node) -> Any:
    if not isinstance(child, nodes.Node):
        return child
    _rewrite(child)
    if isinstance(child, nodes.Concat):
        return _through("slm_joined", nodes.List(child.nodes, lineno=child.lineno))
    is_loaded = not isinstance(child, nodes.Tuple) or child.ctx == "load"
    if isinstance(child, nodes.List | nodes.Dict | nodes.Tuple) and is_loaded:
        return _through("slm_value", child)
    if isinstance(child, nodes.TemplateData) and isinstance(parent, nodes.Output):
        return _through("slm_text", nodes.Const(child.data, lineno=child.lineno))
    return child


def _through(name: str, node: nodes.Node) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


_OPERATIONS: Mapping[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "*": operator.mul,
    "**": operator.pow,
    "%": operator.mod,
}


def _check_product(values: Iterable[Any]) -> None:
    product = 1
    for value in values:
        if isinstance(value, int) and not isinstance(value, bool):
            product *= max(1, abs(value))
        elif isinstance(value, str | list | tuple | dict):
            product *= max(1, len(value))
    if product > MAX_PRODUCT and not _are_small_numbers(values):
        raise TooMuch("it makes values that are too large")


def _are_small_numbers(values: Iterable[Any]) -> bool:
    return all(isinstance(value, int | float) and abs(value) <= MAX_NUMBER for value in values)


def _check_format(text: str) -> None:
    if _WIDTH.search(text):
        raise TooMuch("it makes values that are too large")


def _size(value: Any) -> int:
    """Characters and entries of a value with everything inside, counted no further than `MAX_VALUE`."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, int):
        return 1 if abs(value) <= MAX_NUMBER else MAX_VALUE + 1
    if not isinstance(value, list | tuple | dict | set):
        return 1
    total = 0
    for size in _sizes(value):
        total += size
        if total > MAX_VALUE:
            break
    return total


def _sizes(value: Any) -> Iterator[int]:
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, str):
            yield 1 + len(item)
        elif isinstance(item, dict):
            yield 1
            pending += [*item.keys(), *item.values()]
        elif isinstance(item, list | tuple | set):
            yield 1
            pending += item
        else:
            yield 1
