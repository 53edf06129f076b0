"""How records of options become a command line, and a command line becomes records again.

A command is a row of cli.py's table: its name, what it takes (records of options.py), the function that is
called. typer reads signatures, so one is made of the fields. The function gets everything in one `CommandCall`.

Knows: typer. Refuses to know: which commands there are, what options mean, the world that a command runs in.
"""

import inspect
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, fields
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
import typer.main
from typer.core import TyperCommand, TyperGroup

from slmchat.commands.own_options import GlobalOptions
from slmchat.errors import ExitCode, usage_error
from slmchat.lazy_dataclasses import dataclass
from slmchat.option_fields import check_choice, range_of

if TYPE_CHECKING:
    from slmchat.settings import Settings
    from slmchat.terminal.console import Console

Record = TypeVar("Record")

# PEP 383: a byte of an argument that is not UTF-8; and what is meant by the options whose value is the name of a file.
_SURROGATE = re.compile("[\udc80-\udcff]")
_FILE = re.compile(r"FILE|PATH|DIR|NAME$|^\[?NAME\]?\.\.\.$|^\[MODEL\]$|^TARGET$")


class _Page:
    """What both kinds of commands have: slm's own help page, imported when it is asked for."""

    def get_help_option_names(self, _context: Any) -> list[str]:
        return ["-h", "--help"]

    def get_help_option(self, ctx: Any) -> Any:
        option = super().get_help_option(ctx)  # type: ignore[misc]
        option.callback = _show_page
        return option


def _show_page(context: Any, _option: Any, is_wanted: bool) -> None:
    if is_wanted and not context.resilient_parsing:
        from slmchat.commands import help_pages

        help_pages.show(context)
        context.exit()


class _Single(_Page, TyperCommand):
    """A command."""


class _Group(_Page, TyperGroup):
    """A group of commands, as slm itself is."""


@dataclass(frozen=True, slots=True)
class CommandCall:
    """One call of a command: what was given, and the settings and the console of this process.

    `resolved`: the settings; None for a command that takes none.
    """

    given: Mapping[type[Any], Any]
    resolved: "Settings | None"
    console: "Console"

    @property
    def settings(self) -> "Settings":
        """The settings of this process."""
        assert self.resolved is not None  # the table says which commands have none
        return self.resolved

    def __getitem__(self, record: type[Record]) -> Record:
        """What was given of these options."""
        found: Record = self.given[record]
        return found


@dataclass(frozen=True, slots=True)
class Command:
    """A command: its name with that of its group, what it takes, and what is done.

    `takes`: records, or names of records of options.py, which is not imported for a command that is not called.
    The docstring of `errand` is its help. `is_answer`: what it writes to stdout is what it was called for.
    `seals_itself`: `--offline` is its own affair. `has_settings`: False for what is only told about slm, which
    has to work where a mistake stands in the settings, or this user has no home directory.
    """

    name: str
    takes: Sequence[type[Any] | str]
    errand: Callable[[CommandCall], ExitCode]
    is_answer: bool
    seals_itself: bool
    has_settings: bool

    def records(self) -> list[type[Any]]:
        """The records that it takes."""
        return [_shared_record(each) if isinstance(each, str) else each for each in self.takes]


def _shared_record(name: str) -> type[Any]:
    from slmchat import options

    record: type[Any] = getattr(options, name)
    return record


def program(
    root: Callable[..., None],
    takes: Sequence[type[Any]],
    commands: Iterable[Command],
    invoke: Callable[..., Any],
    hidden: Mapping[str, Callable[..., None]] | None = None,
    **told: Any,
) -> Any:
    """The command line with these commands, in groups where their names have two words: click's record of it.

    `invoke(command, context, records)` runs one of them. `hidden`: functions as typer reads them, for programs.
    `told` goes to typer.
    """
    app = typer.Typer(name="slm", cls=_Group, **_TYPER, **told)
    app.callback(cls=_Group, invoke_without_command=True)(with_signature(root, takes))
    groups: dict[str, typer.Typer] = {}
    for command in commands:
        group, _, name = command.name.rpartition(" ")
        if group and group not in groups:
            groups[group] = typer.Typer(help=GROUPS[group], cls=_Group, **_TYPER)
            app.add_typer(groups[group], name=group)
        (groups[group] if group else app).command(name, cls=_Single)(_bound(command, invoke))
    for name, function in (hidden or {}).items():
        app.command(name, hidden=True)(function)
    return typer.main.get_command(app)


def called(program: Any, arguments: Sequence[str]) -> int:
    """Run a command line of this program; the exit code. What goes wrong is raised: typer's own `main` makes a closed
    pipe exit code 1 and Ctrl-C one that it chooses.
    """
    try:
        with program.make_context("slm", list(arguments)) as context:
            program.invoke(context)
    except typer.Exit as end:
        return int(end.exit_code)
    return int(ExitCode.DONE)


GROUPS = {
    "sessions": "Saved conversations. List, show, search, export, import, rename or remove them.",
    "docs": "Documents that slm ask has read. List, show or forget them.",
}

_TYPER: Mapping[str, Any] = {"rich_markup_mode": None, "pretty_exceptions_enable": False, "add_completion": False}


def with_signature(function: Callable[..., None], records: Iterable[type[Any]]) -> Callable[..., None]:
    """The function as typer has to see it: with a parameter for each field, and the context."""
    parameters = [
        inspect.Parameter(
            item.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if _is_required(item) else _default(item),
            annotation=_annotation(item),
        )
        for record in records
        for item in fields(record)
    ]
    parameters.append(inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context))
    function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    function.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return function


def records_of(values: dict[str, Any], records: Iterable[type[Any]]) -> dict[type[Any], Any]:
    """The records of these values by name. Raises `SlmError` (USAGE) for what is no text, no choice, and for NaN."""
    made = {record: record(**{item.name: values[item.name] for item in fields(record)}) for record in records}
    _check_text(made.values())
    _check_values(made.values())
    return made


def writes_to_stdout(command: Command, records: Mapping[type[Any], Any]) -> bool:
    """Whether the answer goes to stdout: it is wanted, and no option sends it elsewhere."""
    return command.is_answer and not any(
        item.metadata["is_destination"] and getattr(record, item.name) not in (None, False, "-")
        for record in records.values()
        for item in fields(record)
    )


def _bound(command: Command, invoke: Callable[..., Any]) -> Callable[..., None]:
    takes = (*command.records(), GlobalOptions)

    def call(context: typer.Context, **values: Any) -> None:
        invoke(command, context, records_of(values, takes))

    call.__doc__ = command.errand.__doc__
    return with_signature(call, takes)


def _is_required(item: "Field[Any]") -> bool:
    return item.default is MISSING and item.default_factory is MISSING


def _default(item: "Field[Any]") -> Any:
    return item.default if item.default_factory is MISSING else item.default_factory()


def _annotation(item: "Field[Any]") -> Any:
    told = item.metadata
    shared: dict[str, Any] = {"help": told["help"], "metavar": told["metavar"], "show_default": False}
    if not told["flags"]:
        return Annotated[item.type, typer.Argument(**shared)]
    shared |= {name: told[name] for name in ("min", "max") if name in told}
    shared["rich_help_panel"] = told["group"]  # where help_pages.py finds it
    if told["is_count"]:
        shared["count"] = True
    return Annotated[item.type, typer.Option(*told["flags"], **shared)]


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
                    raise usage_error(
                        f"{what} is not UTF-8 text: byte 0x{ord(wrong[0]) - 0xDC00:02x} at character "
                        f"{wrong.start() + 1}.",
                        "put the text into a file and convert it: iconv -f latin1 -t utf-8 FILE | slm run",
                    )


def _check_values(records: Iterable[Any]) -> None:
    """Refuse words that are not offered, and NaN, which typer's ranges let through: it is neither small nor large.

    Raises `SlmError` (USAGE).
    """
    for record in records:
        for item in fields(record):
            value = getattr(record, item.name)
            check_choice(item, value, (item.metadata["flags"] or ("",))[-1])
            if isinstance(value, float) and math.isnan(value):
                what = f"invalid value for '{item.metadata['flags'][-1]}'"
                raise usage_error(f"{what}: nan is not {range_of(item) or 'a number'}.")
