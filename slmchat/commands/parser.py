"""How a command line is read: words become the values of options and arguments.

The grammar is that of POSIX with GNU's long options, as click reads it: `--name VALUE`, `--name=VALUE`, `-n VALUE`,
`-nVALUE`, `-qv`, options between arguments, nothing but arguments behind `--`. An option that takes a value takes the
next word, whatever it looks like. Names are never completed: `--tem` is an error.

Written here because the library that did it before was half of every start (docs/decisions.md).

Knows: the fields of records of options (option_fields.py) and what is wrong with a word.
Refuses to know: which commands there are, what options mean, how an error is told (usage_errors.py).
"""

from collections.abc import Iterable, Sequence
from dataclasses import MISSING, Field, fields
from types import NoneType, UnionType
from typing import Any, get_args, get_origin

from slmchat.ranges import NO_LIMIT, Range

_HELP = ("-h", "--help")
_NUMBERS = {int: "whole number", float: "number"}


class UsageError(Exception):
    """A command line that is not understood. `path`: the command that was read, as it is typed. `option`, `command`:
    one that there is not."""

    def __init__(self, message: str, *, option: str | None = None, command: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.option = option
        self.command = command
        self.path = "slm"


class HelpWanted(Exception):
    """`--help` stands among the options."""


class Parameter:
    """An option or an argument, as one field of a record states it."""

    __slots__ = ("help", "is_count", "is_flag", "is_many", "item", "kind", "metavar", "name", "opts", "secondary_opts")

    def __init__(self, item: "Field[Any]") -> None:
        told = item.metadata
        self.item = item
        self.name = item.name
        self.help: str = told["help"]
        self.metavar: str | None = told["metavar"]
        self.opts = [flag.partition("/")[0] for flag in told["flags"]]
        self.secondary_opts = [flag.partition("/")[2] for flag in told["flags"] if "/" in flag]
        self.is_count = bool(told.get("is_count"))
        self.kind, self.is_many = _kind_of(item.type)
        self.is_flag = self.kind is bool

    @property
    def is_option(self) -> bool:
        return bool(self.opts)

    @property
    def takes_value(self) -> bool:
        """Whether an option takes the next word."""
        return not (self.is_flag or self.is_count)

    @property
    def group(self) -> str | None:
        """The heading that an option stands under in a long help page."""
        return self.item.metadata.get("group")

    @property
    def range(self) -> Range | None:
        """The numbers that it accepts; None: any, or it is no number."""
        low, high = self.item.metadata.get("min"), self.item.metadata.get("max")
        return None if low is None or high is None else Range(low, high)

    @property
    def label(self) -> str:
        """How an error names it."""
        return " / ".join(f"'{name}'" for name in self.opts or [self.metavar or self.name])

    def default(self) -> Any:
        """What counts when it is not given. Raises `UsageError` when something must be."""
        if self.item.default is not MISSING:
            return self.item.default
        if self.item.default_factory is not MISSING:
            return self.item.default_factory()
        raise UsageError(f"missing {'option' if self.opts else 'argument'} {self.label}")

    def value(self, text: str) -> Any:
        """What this word stands for. Raises `UsageError` for one that is not a number, or out of its range."""
        if self.kind in _NUMBERS:
            try:
                number = self.kind(text)
            except ValueError:
                raise self._invalid(f"{text!r} is not a {_NUMBERS[self.kind]}") from None
            limits = self.range
            if limits is not None and (number < limits.low or number > limits.high):
                raise self._invalid(f"{str(number).removesuffix('.0')} is not {_in_words(limits)}")
            return number
        return self.kind(text)

    def _invalid(self, why: str) -> UsageError:
        return UsageError(f"invalid value for {self.label}: {why}")


def parameters_of(records: Iterable[type[Any]]) -> list[Parameter]:
    """The options and arguments of these records, in their order."""
    return [Parameter(item) for record in records for item in fields(record)]


def parse(
    parameters: Sequence[Parameter], words: Sequence[str], *, ends_at_name: bool = False
) -> tuple[dict[str, Any], list[str]]:
    """The value of each parameter by its name, and the words that are left over.

    `ends_at_name`: the first word that is not an option ends them, since it names a command.
    Raises `UsageError`, and `HelpWanted` where help is asked for and every option is known.
    """
    given, order, rest, is_help_wanted = _options_in(parameters, words, ends_at_name=ends_at_name)
    if is_help_wanted:
        raise HelpWanted
    arguments = [each for each in parameters if not each.is_option]
    for argument in arguments:
        taken, rest = (rest, []) if argument.is_many else (rest[:1], rest[1:])
        if taken:
            given[argument.name] = list(taken)
    values: dict[str, Any] = {}
    for each in [*order, *arguments, *parameters]:  # what is wrong first, on the line, is told
        if each.name not in values:
            values[each.name] = _value_of(each, given.get(each.name))
    if rest and not ends_at_name:
        raise UsageError(f"got unexpected extra argument{'s' if len(rest) > 1 else ''} ({' '.join(rest)})")
    return values, rest


def _value_of(parameter: Parameter, given: list[Any] | None) -> Any:
    if not given:
        return parameter.default()
    if parameter.is_count:
        return len(given)
    if not parameter.takes_value:
        return given[-1]
    if parameter.is_many:
        return [parameter.value(word) for word in given]
    return parameter.value(given[-1])


def _options_in(
    parameters: Sequence[Parameter], words: Sequence[str], *, ends_at_name: bool
) -> tuple[dict[str, list[Any]], list[Parameter], list[str], bool]:
    """What was given for each option, the options in the order of the line, the other words, whether help is wanted."""
    known = {flag: (each, True) for each in parameters for flag in each.opts}
    known |= {flag: (each, False) for each in parameters for flag in each.secondary_opts}
    given: dict[str, list[Any]] = {}
    order: list[Parameter] = []
    rest: list[str] = []
    left = list(reversed(words))
    value: Any
    is_help_wanted = False
    while left:
        word = left.pop()
        if word == "--":
            rest += reversed(left)
            break
        if not (word.startswith("-") and len(word) > 1):
            rest.append(word)
            if ends_at_name:
                rest += reversed(left)
                break
            continue
        name, equals, value = word.partition("=")
        if name not in (*known, *_HELP) or not name.startswith("--"):
            if word.startswith("--"):
                raise UsageError(f"there is no option {name}", option=name)
            name, equals, value = _letter(word, known, left)
        if name in _HELP:
            is_help_wanted = True
            continue
        parameter, is_set = known[name]
        if not parameter.takes_value:
            if equals:
                raise UsageError(f"option '{name}' does not take a value")
            value = is_set
        elif not equals:
            if not left:
                raise UsageError(f"option '{name}' requires an argument")
            value = left.pop()
        given.setdefault(parameter.name, []).append(value)
        order.append(parameter)
    return given, order, rest, is_help_wanted


def _letter(word: str, known: dict[str, tuple[Parameter, bool]], left: list[str]) -> tuple[str, str, str]:
    """The first letter of a word like `-n5` or `-qv`: option, "=" where a value stands behind it, that value.

    What stands behind the letter of a flag goes back to the words that are left. Raises `UsageError`.
    """
    name, behind = word[:2], word[2:]
    if name not in known and name not in _HELP:
        raise UsageError(f"there is no option {name}", option=name)
    if behind and name in known and known[name][0].takes_value:
        return name, "=", behind
    if behind:
        left.append(f"-{behind}")
    return name, "", ""


def _kind_of(type_: Any) -> tuple[type[Any], bool]:
    """What a value of a field is made by, and whether there may be many."""
    (one,) = [each for each in get_args(type_) if each is not NoneType] if isinstance(type_, UnionType) else [type_]
    return (get_args(one)[0], True) if get_origin(one) is list else (one, False)


def _in_words(limits: Range) -> str:
    if limits.high >= NO_LIMIT and limits.is_whole:
        return f"a whole number from {int(limits.low):,} on"
    return str(limits)
