"""The sandbox in which a chat template runs: foreign code with a bounded amount of time and memory.

Knows: how Jinja reads, compiles and runs a template, and where it asks its environment what an operation means.
Refuses to know: what an operation costs (template_values.py, template_methods.py, template_filters.py), how much there
is (template_budget.py), messages, what the helpers of templates do.

Two things hold together. Whatever a template can reach is on a list: types, methods, filters, helpers; so there is no
object of Python's to climb up from, and no operation whose cost is unknown. And whatever runs is paid for before it
runs: each stretch of statements for its nodes (template_metering.py), each operation for the sizes of what goes in. A
clock alone could not do it: Python does not look at one inside `'a' * 10**9`.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from jinja2 import Undefined, nodes, pass_context
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.lexer import Token, TokenStream
from jinja2.parser import Parser
from jinja2.runtime import BlockReference, Context, LoopContext, Macro
from jinja2.sandbox import SandboxedEnvironment

from slmchat.conversation import template_metering
from slmchat.conversation.template_budget import MAX_DEPTH, NESTED, Budget, TooMuch
from slmchat.conversation.template_filters import Filters
from slmchat.conversation.template_methods import ATTRIBUTES, METHODS
from slmchat.conversation.template_values import Cycler, Function, Joiner, Method, Operations, SafeNamespace, entries

MAX_TOKENS = 20_000  # of Jinja's syntax; the longest template that we know has 3,770
MAX_RANGE = 100_000  # as in Jinja's sandbox

_INSIDE = frozenset({"_loop_vars", "_block_vars"})  # arguments that Jinja's compiler adds to calls


class _Generation(Extension):
    """`{% generation %}`: marks what the assistant said for training (SmolLM3's template); here its body only."""

    tags = {"generation"}  # noqa: RUF012 - jinja2's own convention

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class TemplateSandbox(SandboxedEnvironment):
    """An environment for templates, one rendering at a time. `begin` comes before each."""

    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "%", "**"})
    intercepted_unops = frozenset({"+", "-"})

    def __init__(self) -> None:
        # trim_blocks and lstrip_blocks: as in transformers' apply_chat_template, which templates are written for.
        # Not optimized: nothing is computed while a template is compiled.
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[loopcontrols, _Generation],
            autoescape=False,
            optimized=False,
            finalize=pass_context(lambda _context, value: self._written(value)),
        )
        self.budget = Budget()
        self._operations = operations = Operations(self.budget, self)
        known = Filters(operations)
        self.tests = {**known.tests}
        self.filters = {
            **known.filters,
            template_metering.TICK: self.budget.tick,
            template_metering.ITEMS: operations.items,
            template_metering.CONCAT: operations.concat,
            template_metering.CHAIN: operations.chain,
            template_metering.SLICE: operations.slice,
            template_metering.DICTIONARY: operations.dictionary,
            template_metering.WRITTEN: self._written,
            **{name: partial(operations.compare, kind) for kind, name in template_metering.COMPARE.items()},
        }
        self.globals.clear()
        for name, function in (
            ("range", self._range),
            ("dict", self._dict),
            ("namespace", lambda *args, **kwargs: SafeNamespace(self._dict(*args, **kwargs))),
            ("cycler", Cycler),
            ("joiner", Joiner),
        ):
            self.add_helper(name, function)

    def add_helper(self, name: str, function: Callable[..., Any]) -> None:
        """A function that templates may call. It gives values of the allowed types and bounds what it does itself."""
        self.globals[name] = Function(name, function)

    def begin(self) -> None:
        """A new rendering: nothing is used up yet."""
        self.budget.begin()

    # what Jinja asks while it compiles

    def _tokenize(self, *args: Any, **kwargs: Any) -> TokenStream:
        stream = super()._tokenize(*args, **kwargs)
        return TokenStream(_counted(stream), stream.name, stream.filename)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = template_metering.metered(super()._parse(source, name, filename))
        tree.set_environment(self)
        return tree

    # what compiled templates ask

    def getattr(self, obj: Any, attribute: str) -> Any:
        """`obj.attribute`: a method or an attribute that is allowed, or the entry of a dictionary."""
        if type(obj) is dict and attribute in obj and not hasattr(dict, attribute):
            return obj[attribute]
        return self._attribute(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """`obj[argument]`"""
        kind = type(obj)
        if kind is dict:
            if self._operations.key(argument) in obj:
                return obj[argument]
        elif isinstance(obj, str | list | tuple | range) and isinstance(argument, int):
            try:
                return obj[argument]
            except IndexError:
                pass  # undefined
        if isinstance(argument, str):
            return self._attribute(obj, argument)
        if isinstance(obj, Undefined):
            obj._fail_with_undefined_error()
        return self.undefined(obj=obj, name=argument)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        self = __self
        if not kwargs:
            return self._called(__context, __obj, args, kwargs)
        kwargs = {name: value for name, value in kwargs.items() if name not in _INSIDE}
        value = self._called(__context, __obj, args, kwargs)
        return self._written(value) if "caller" in kwargs else value  # what a call block gives, Jinja writes as it is

    def _called(self, context: Context, called: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if len(args) + len(kwargs) > 8:
            self.budget.make_list(len(args) + len(kwargs), 64)
        kind = type(called)
        if kind is Method:
            return called(*args, **kwargs)
        if kind is Function:
            return called.function(*args, **kwargs)
        if kind is Joiner:
            return called()
        if isinstance(called, Undefined):
            called._fail_with_undefined_error()
        if kind is LoopContext:  # a recursive loop
            called, args = called.__call__, (self._operations.items(args[0]), *args[1:]) if args else args
        elif kind is Macro:
            args = (context.eval_ctx, *args)
        elif kind is not BlockReference:
            raise SecurityError(f"a value of type {kind.__name__!r} is not safely callable")
        self.budget.enter()
        try:
            return called(*args, **kwargs)
        finally:
            self.budget.leave()

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        return self._operations.binary(operator, left, right)

    def call_unop(self, context: Context, operator: str, arg: Any) -> Any:
        return self._operations.unary(operator, arg)

    def _written(self, value: Any) -> str:
        text = value if isinstance(value, str) else self._operations.text(value)
        self.budget.write(len(text))
        return text

    # helpers

    def _attribute(self, obj: Any, name: str) -> Any:
        """The method or the attribute of that name: one that is allowed, or something undefined."""
        kind = type(obj)
        method = METHODS.get(kind, {}).get(name)
        if method is not None:
            return Method(self._operations, obj, method)
        if name in ATTRIBUTES.get(kind, ()):
            return getattr(obj, name)
        if kind is SafeNamespace:
            found = entries(obj)
            return found[name] if name in found else self.undefined(obj=obj, name=name)
        if isinstance(obj, Undefined):
            obj._fail_with_undefined_error()
        if name.startswith("_") or hasattr(kind, name):
            return self.unsafe_undefined(obj, name)
        return self.undefined(obj=obj, name=name)

    def _range(self, *bounds: int) -> range:
        numbers = range(*bounds)
        if len(numbers) > MAX_RANGE:
            raise OverflowError(f"Range too big. The sandbox blocks ranges larger than MAX_RANGE ({MAX_RANGE}).")
        return numbers

    def _dict(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        if len(args) > 1:
            raise TypeError(f"dict expected at most 1 argument, got {len(args)}")
        given = args[0] if args else {}
        pairs = given.items() if isinstance(given, dict) else self._operations.items(given)
        self.budget.make_list(len(pairs), 128)
        return {**{self._operations.key(key): value for key, value in pairs}, **kwargs}


def _counted(tokens: TokenStream) -> Iterator[Token]:
    """The tokens, as far as a template may have them: their number bounds what comes after (parsing, compiling)."""
    depth = 0
    for count, token in enumerate(tokens):
        if token.type in ("lparen", "lbracket", "lbrace"):
            depth += 1
        elif token.type in ("rparen", "rbracket", "rbrace"):
            depth -= 1
        if depth > MAX_DEPTH:
            raise TooMuch(NESTED)
        if count > MAX_TOKENS:
            raise TooMuch(f"it has more than {MAX_TOKENS:,} words of Jinja")
        yield token
