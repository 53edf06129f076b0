"""How records of options become a command line, and a command line becomes records again.

A command is a row of cli.py's table: its name, what it takes (records of options.py), the function that is
called. The function gets everything in one `CommandCall`.

Knows: groups of commands, whose options stand before and whose behind a name, when help is shown.
Refuses to know: which commands there are, what options mean, how words are read (parser.py), the world that a command
runs in.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from slmchat.commands.own_options import GlobalOptions
from slmchat.commands.parser import HelpWanted, Parameter, UsageError, parameters_of, parse
from slmchat.errors import ExitCode, SlmError
from slmchat.lazy_dataclasses import dataclass

if TYPE_CHECKING:
    from slmchat.settings import Settings
    from slmchat.terminal.console import Console

Record = TypeVar("Record")

# PEP 383: a byte of an argument that is not UTF-8; and what is meant by the options whose value is the name of a file.
_SURROGATE = re.compile("[\udc80-\udcff]")
_FILE = re.compile(r"FILE|PATH|DIR|NAME$|^\[?NAME\]?\.\.\.$|^\[MODEL\]$|^TARGET$")


class CommandEnded(Exception):
    """A command has come to its end."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


@dataclass(frozen=True, slots=True)
class CommandCall:
    """One call of a command: what was given, and the settings and the console of this process."""

    given: Mapping[type[Any], Any]
    settings: "Settings"
    console: "Console"

    def __getitem__(self, record: type[Record]) -> Record:
        """What was given of these options."""
        found: Record = self.given[record]
        return found


@dataclass(frozen=True, slots=True)
class Command:
    """A command: its name with that of its group, what it takes, and what is done.

    `takes`: records, or names of records of options.py, which is not imported for a command that is not called.
    The docstring of `errand` is its help. `is_answer`: what it writes to stdout is what it was called for.
    `seals_itself`: `--offline` is its own affair.
    """

    name: str
    takes: Sequence[type[Any] | str]
    errand: Callable[[CommandCall], ExitCode]
    is_answer: bool
    seals_itself: bool

    def records(self) -> list[type[Any]]:
        """The records that it takes."""
        return [_shared_record(each) if isinstance(each, str) else each for each in self.takes]


def _shared_record(name: str) -> type[Any]:
    from slmchat import options

    record: type[Any] = getattr(options, name)
    return record


class CommandNode:
    """A command, a group of commands, or `slm` itself."""

    def __init__(
        self,
        takes: Callable[[], Iterable[type[Any]]],
        run: "Callable[[Invocation], None] | None",
        help: str,
        *,
        commands: "dict[str, CommandNode] | None" = None,
        epilog: str = "",
        is_hidden: bool = False,
    ) -> None:
        """`takes`: the records of its options. `run`: what is done, None in a group that does nothing by itself.
        `commands`: those of a group, by name; None: it is a command."""
        self._takes = takes
        self.run = run
        self._help = help
        self.commands = commands
        self.epilog = epilog
        self.is_hidden = is_hidden

    @cached_property
    def parameters(self) -> list[Parameter]:
        """Its options and arguments. All of them of all commands take 10 ms: they are made when they are asked for."""
        return parameters_of(self._takes())

    @property
    def help(self) -> str:
        """What it is for, in sentences on one line."""
        return " ".join(self._help.split())


class Invocation:
    """One call: which node was named, how, and what was given for it."""

    def __init__(self, node: CommandNode, path: str, parent: "Invocation | None" = None) -> None:
        """`path`: how it is called, "slm sessions list"."""
        self.node = node
        self.path = path
        self.parent = parent
        self.values: dict[str, Any] = {}
        self.subcommand: str | None = None  # the name behind its options
        self.globals = GlobalOptions()

    @property
    def root(self) -> "Invocation":
        return self if self.parent is None else self.parent.root

    def read(self, words: Sequence[str]) -> list[str]:
        """Take what stands there for this node; the words behind it. Raises `UsageError`, `HelpWanted`."""
        try:
            self.values, rest = parse(self.node.parameters, words, ends_at_name=self.node.commands is not None)
        except UsageError as error:
            error.path = self.path
            raise
        return rest

    def sub(self, name: str) -> "Invocation":
        """The call of a command of this group. Raises `UsageError` where there is none of this name."""
        if name not in (self.node.commands or {}):
            error = UsageError(f"no such command '{name}'", command=name)
            error.path = self.path
            raise error
        assert self.node.commands is not None
        self.subcommand = name
        return Invocation(self.node.commands[name], f"{self.path} {name}", self)


def program(
    root: Callable[[Invocation], None],
    takes: Sequence[type[Any]],
    commands: Iterable[Command],
    invoke: Callable[[Command, Invocation, Mapping[type[Any], Any]], None],
    hidden: Mapping[str, CommandNode] | None = None,
    *,
    help: str,
    epilog: str,
) -> CommandNode:
    """The command line with these commands, in groups where their names have two words.

    `root` is called before each of them, and alone where none is named. `invoke` runs one. `hidden`: for programs.
    """
    single: dict[str, CommandNode] = {}
    groups: dict[str, dict[str, CommandNode]] = {}
    for command in commands:
        group, _, name = command.name.rpartition(" ")
        (groups.setdefault(group, {}) if group else single)[name] = _node(command, invoke)
    grouped = {name: CommandNode(tuple, None, GROUPS[name], commands=own) for name, own in groups.items()}
    return CommandNode(lambda: takes, root, help, commands={**single, **grouped, **(hidden or {})}, epilog=epilog)


def _node(command: Command, invoke: Callable[[Command, Invocation, Mapping[type[Any], Any]], None]) -> CommandNode:
    def takes() -> tuple[type[Any], ...]:
        return (*command.records(), GlobalOptions)

    def run(context: Invocation) -> None:
        invoke(command, context, records_of(context.values, takes()))

    return CommandNode(takes, run, command.errand.__doc__ or "")


def called(program: CommandNode, arguments: Sequence[str], show_help: Callable[[Invocation], None]) -> int:
    """Run a command line of this program; the exit code. What goes wrong is raised, `UsageError` too."""
    try:
        _call(Invocation(program, "slm"), list(arguments), show_help)
    except CommandEnded as end:
        return end.code
    return int(ExitCode.DONE)


def _call(context: Invocation, words: Sequence[str], show_help: Callable[[Invocation], None]) -> None:
    try:
        rest = context.read(words)
    except HelpWanted:
        show_help(context)
        return
    sub = context.sub(rest[0]) if rest and context.node.commands is not None else None
    if sub is None and context.node.run is None:
        error = UsageError("missing command")
        error.path = context.path
        raise error
    if context.node.run is not None:
        context.node.run(context)
    if sub is not None:
        _call(sub, rest[1:], show_help)


GROUPS = {
    "sessions": "Saved conversations. List, show, search, export, import, rename or remove them.",
    "docs": "Documents that slm ask has read. List, show or forget them.",
}


def records_of(values: dict[str, Any], records: Iterable[type[Any]]) -> dict[type[Any], Any]:
    """The records of these values by name. Raises `SlmError` (USAGE) for what is no text."""
    made = {record: record(**{item.name: values[item.name] for item in fields(record)}) for record in records}
    _check_text(made.values())
    return made


def writes_to_stdout(command: Command, records: Mapping[type[Any], Any]) -> bool:
    """Whether the answer goes to stdout: it is wanted, and no option sends it elsewhere."""
    return command.is_answer and not any(
        item.metadata["is_destination"] and getattr(record, item.name) not in (None, False, "-")
        for record in records.values()
        for item in fields(record)
    )


def _check_text(records: Iterable[Any]) -> None:
    """Refuse arguments that are not text: Python keeps their bytes as surrogates, which no model and no file takes.

    Names of files may have any bytes. Raises `SlmError` (USAGE).
    """
    for record in records:
        for item in fields(record):
            flags = item.metadata["flags"]
            if _FILE.search(item.metadata["metavar"] or ""):
                continue
            value = getattr(record, item.name)
            for text in value if isinstance(value, list) else [value]:
                wrong = _SURROGATE.search(text) if isinstance(text, str) else None
                if wrong is not None:
                    what = flags[-1] if flags else "the prompt" if item.name == "words" else item.name
                    raise SlmError(
                        f"{what} is not UTF-8 text: byte 0x{ord(wrong[0]) - 0xDC00:02x} at character "
                        f"{wrong.start() + 1}.",
                        hint="put the text into a file and convert it: iconv -f latin1 -t utf-8 FILE | slm run",
                        exit_code=ExitCode.USAGE,
                    )
